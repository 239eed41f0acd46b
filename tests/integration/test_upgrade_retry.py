"""Upgrades of the real agent, and kills at each step of an upgrade."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from agent.adapters.history import TinyHistory
from agent.devcloud.cloud import DevCloud
from agent.devcloud.ledger import Session
from agent.devcloud.platform_errors import PlatformError
from agent.model.sync_log import SyncLog
from tests.harness.agent_process import Agent, running
from tests.harness.fakes.clock import FakeClock
from tests.harness.paths import REPOSITORY
from tests.harness.recorders import write_mcap
from tests.harness.version_change import fail, start

KILLED = """
import os, signal, sys
from pathlib import Path
from agent.adapters.history import TinyHistory
from tests.harness.fakes.clock import FakeClock
from tests.harness.version_change import start
step, done = int(sys.argv[2]), 0
def dying(descriptor, sync=os.fdatasync):
    global done
    done += 1
    if done == step:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(descriptor)
history = TinyHistory(Path(sys.argv[1]) / "history", FakeClock())
os.fdatasync = dying
start(history, "1.1", Path(sys.argv[1]) / "a.mcap")
"""


def test_killed_at_any_step_it_is_tried_once(tmp_path: Path) -> None:
    for step in range(1, 4):
        folder = tmp_path / str(step)
        folder.mkdir()
        path = write_mcap(folder / "a.mcap")
        history = TinyHistory(folder / "history", FakeClock())
        log = start(history, "1.0", path)
        assert log is not None
        fail(history, log)
        history.close()
        ended = subprocess.run(
            [sys.executable, "-c", KILLED, folder, str(step)], cwd=REPOSITORY, check=False
        )
        assert ended.returncode == (-signal.SIGKILL if step < 3 else 0), "noted, then queued"
        history = TinyHistory(folder / "history", FakeClock())
        for _ in range(2):
            start(history, "1.1", path)
        assert [log.trigger for log in history.newest_first()] == ["upgrade", "discovered"]
        history.close()


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[DevCloud]:
    with DevCloud(tmp_path / "cloud") as cloud:
        yield cloud


def other_version(folder: Path, version: str) -> Path:
    """Make a copy of the agent with another version number."""
    shutil.copytree(
        REPOSITORY / "agent", folder / "agent", ignore=shutil.ignore_patterns("__pycache__")
    )
    init = folder / "agent" / "__init__.py"
    init.write_text(init.read_text().replace(__version__, version))
    return folder


def started(agent: Agent) -> list[SyncLog]:
    """Return the history once this start has scanned everything."""
    shown: dict[str, Any] = {}

    def scan_is_complete(_: list[SyncLog]) -> bool:
        told = json.loads(agent.command("status", "--json").stdout)["agent"] or {}
        shown.update(told)
        return bool(told.get("files", {}).get("files", {}).get("complete"))

    return agent.wait(scan_is_complete)


def test_a_recording_that_failed_for_good_is_uploaded_by_the_next_version(
    cloud: DevCloud, tmp_path: Path
) -> None:
    def lost(*_: object) -> Session:
        raise PlatformError("NOT_FOUND", "UPLOAD_NOT_FOUND", "the test says so")

    found, cloud.rules._own = cloud.rules._own, lost  # type: ignore[assignment, method-assign]
    with running(cloud.agent_files, tmp_path, RETRY__MAX_ATTEMPTS="1") as agent:
        recording = write_mcap(agent.root / "a.mcap")
        (failed,) = agent.wait(lambda logs: logs and logs[0].status == "failed")
        assert failed.error is not None
        assert (failed.error.kind, failed.open) == ("counted", False)
        agent.stop()
        cloud.rules._own = found  # type: ignore[method-assign]
        agent.start()
        assert started(agent) == [failed]
        agent.stop()
        agent.home = other_version(tmp_path / "other", "99.0")
        agent.start()
        logs = agent.wait_completed(1)
        assert [log.trigger for log in logs] == ["discovered", "upgrade"]
        assert (logs[0], logs[1].raw_tags["agent_version"]) == (failed, "99.0")
        assert cloud.read_object(logs[1].object_key) == recording.read_bytes()
        told = (
            f"upgraded from {__version__} to 99.0: "
            "1 recordings that had failed for good are tried again"
        )
        shown = told.replace("for good", "permanently")
        assert shown in agent.command("status").stdout
        assert f"agent {told}" in agent.said()
        agent.stop()
        agent.start()
        assert started(agent) == logs
        assert "upgraded" not in agent.command("status").stdout
