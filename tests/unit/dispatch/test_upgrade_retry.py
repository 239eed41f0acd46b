"""Recordings that failed for good by counted errors are tried once more by each other version."""

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
from agent.discovery.examine import Examiner
from agent.dispatch.upgrade_retry import note_version
from agent.model.error_table import Kind
from agent.model.sync_log import Fault, SyncLog, Upgrade
from agent.model.values import Recording
from tests.contracts.history import document
from tests.harness.agent_process import Agent, running
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.history import MemoryHistory
from tests.harness.paths import REPOSITORY
from tests.harness.recorders import write_mcap
from tests.harness.version_change import fail, start


@pytest.fixture
def history() -> MemoryHistory:
    return MemoryHistory(FakeClock())


def test_another_version_queues_it_once_and_the_old_document_stays(
    history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    first = start(history, "1.0", path)
    assert first is not None
    failed = fail(history, first)
    assert start(history, "1.0", path) is None
    again = start(history, "1.1", path)
    assert again is not None
    assert (again.trigger, again.status, again.attempt_count, again.resync) == (
        "upgrade",
        "pending",
        0,
        False,
    )
    assert history.get(first.id) == failed
    assert start(history, "1.1", path) is None
    fail(history, again)
    assert start(history, "1.1", path) is None, "this version has had its try"


def test_back_and_forth_each_change_of_version_is_one_try(
    history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    for version in ("1.0", "1.1", "1.0", "1.0", "1.1", "1.1"):
        if log := start(history, version, path):
            fail(history, log)
    assert [log.trigger for log in history.documents.values()] == ["discovered", *["upgrade"] * 3]


def test_a_history_that_knows_no_version_is_an_older_ones(
    history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    found = Examiner([tmp_path], "optional").look(path, sidecar_overdue=True)
    assert isinstance(found, Recording)
    fail(history, history.add(document(fingerprint=str(found.fingerprint))))
    assert history.upgrade() is None
    again = start(history, "1.0", path)
    assert again is not None
    assert again.trigger == "upgrade"


@pytest.mark.parametrize("kind", ["final", "blocked"])
def test_what_the_recording_itself_is_at_fault_for_stays_failed(
    history: MemoryHistory, tmp_path: Path, kind: Kind
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    log = start(history, "1.0", path)
    assert log is not None
    fail(history, log, kind)
    assert start(history, "1.1", path) is None
    assert history.upgrade() == Upgrade("1.1", "1.0")


def test_only_the_newest_document_of_a_recording_tells_and_only_one_that_has_ended(
    history: MemoryHistory,
) -> None:
    note_version(history, "1.0")
    fail(history, history.add(document("waits")))
    history.add(document("waits"))
    fail(history, history.add(document("uploaded")))
    done = history.add(document("uploaded"))
    history.move(done.id, "claimed")
    history.move(done.id, "done")
    later = history.add(document("later"))
    history.move(later.id, "claimed")
    fault = Fault("counted", "X", "it failed", "")
    history.move(later.id, "counted", error=fault, next_retry_at="2030-01-01T00:00:00.000Z")
    twice = [fail(history, history.add(document("twice"))) for _ in range(2)]
    upgrade, upgraded = note_version(history, "1.1")
    assert (upgrade, upgraded) == (Upgrade("1.1", "1.0", frozenset({twice[-1].id})), True)


def test_a_resync_that_failed_is_still_one_when_it_is_tried_again(
    history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    log = start(history, "1.0", path)
    assert log is not None
    history.move(log.id, "claimed")
    uploaded = history.move(log.id, "done")
    fail(history, history.add(document(fingerprint=uploaded.fingerprint, resync=True)))
    again = start(history, "1.1", path)
    assert again is not None
    assert again.resync is True


def test_the_first_start_of_all_is_no_upgrade(history: MemoryHistory) -> None:
    assert note_version(history, "1.0") == (Upgrade("1.0"), False)
    assert note_version(history, "1.0") == (Upgrade("1.0"), False)


def test_on_a_full_disk_the_next_start_is_the_upgrade(history: MemoryHistory) -> None:
    note_version(history, "1.0")
    log = fail(history, history.add(document()))
    history.full = True
    assert note_version(history, "1.1") == (Upgrade("1.1"), False)
    history.full = False
    assert note_version(history, "1.1") == (Upgrade("1.1", "1.0", frozenset({log.id})), True)


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


# The tests below run the real process.


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
    with running(cloud, tmp_path, RETRY__MAX_ATTEMPTS="1") as agent:
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
