"""Recordings that failed for good by counted errors are tried once more by each other version."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.discovery.examine import Examiner
from agent.dispatch.upgrade_retry import note_version
from agent.model.error_table import Kind
from agent.model.sync_log import Fault, Upgrade
from agent.model.values import Recording
from tests.contracts.history import document
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.history import MemoryHistory
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
