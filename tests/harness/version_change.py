"""Histories as an agent of another version finds them at its start."""

from __future__ import annotations

from pathlib import Path

from agent.discovery.examine import Examiner
from agent.dispatch.intake import Intake
from agent.dispatch.upgrade_retry import note_version
from agent.model.error_table import Kind
from agent.model.ports import History
from agent.model.sync_log import Fault, SyncLog
from agent.model.values import Recording
from tests.harness.fakes.clock import FakeClock


def fail(history: History, log: SyncLog, kind: Kind = "counted") -> SyncLog:
    history.move(log.id, "claimed")
    return history.move(log.id, "gave_up", error=Fault(kind, "X", "it failed", ""))


def start(history: History, version: str, path: Path) -> SyncLog | None:
    """Start this version on ``history``. Return what it queues for the recording at ``path``."""
    upgrade, _ = note_version(history, version)
    intake = Intake(
        history=history,
        clock=FakeClock(),
        device_id="robot-1",
        snapshot=lambda _: "",
        again=upgrade.again,
    )
    found = Examiner([path.parent], "optional").look(path, sidecar_overdue=True)
    assert isinstance(found, Recording)
    return intake.accept(found)
