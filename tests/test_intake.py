"""The one door that makes documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.flow.examine import Examiner
from agent.flow.intake import Intake
from agent.model.errors import HistoryFullError
from agent.model.nouns import Damaged, Fault, Recording, SyncLog
from tests.fakes.clock import FakeClock
from tests.fakes.history import MemoryHistory
from tests.recorders import damaged, write_mcap, write_sidecar


@pytest.fixture
def history() -> MemoryHistory:
    return MemoryHistory(FakeClock())


@pytest.fixture
def intake(history: MemoryHistory) -> Intake:
    return Intake(history=history, clock=FakeClock(), device_id="robot-1", snapshot=lambda _: "asset-1")


def look(path: Path) -> Recording | Damaged:
    found = Examiner([path.parent], "optional").look(path, sidecar_overdue=True)
    assert isinstance(found, (Recording, Damaged))
    return found


def accepted(intake: Intake, path: Path) -> SyncLog:
    log = intake.accept(look(path))
    assert log is not None
    return log


def fail(history: MemoryHistory, log: SyncLog, code: str, **changes: Any) -> None:
    history.move(log.id, "claimed")
    event: Any = "blocked_alone" if "next_retry_at" in changes else "gave_up"
    history.move(log.id, event, error=Fault("final", code, "it failed", ""), **changes)


def test_a_new_recording_is_queued_with_what_is_known_of_it(intake: Intake, tmp_path: Path) -> None:
    recording = write_mcap(tmp_path / "a.mcap")
    write_sidecar(recording, {"episode_id": "ep-7"})
    log = accepted(intake, recording)
    assert (log.status, log.attempt_count, log.trigger, log.resync) == ("pending", 0, "discovered", False)
    assert (log.episode_id, log.path, log.file_size) == ("ep-7", str(recording), recording.stat().st_size)
    assert (log.device_id, log.asset_id) == ("robot-1", "asset-1")
    assert log.sidecar_sha256
    assert log.queued_at.endswith("Z")


def test_a_recording_that_is_queued_adds_nothing_under_any_name(intake: Intake, tmp_path: Path) -> None:
    accepted(intake, write_mcap(tmp_path / "a.mcap"))
    (tmp_path / "a.mcap").rename(tmp_path / "b.mcap")
    assert intake.accept(look(tmp_path / "b.mcap")) is None


def test_one_name_with_other_bytes_is_another_recording(intake: Intake, tmp_path: Path) -> None:
    first = accepted(intake, write_mcap(tmp_path / "a.mcap", seed=1))
    second = accepted(intake, write_mcap(tmp_path / "a.mcap", seed=2))
    assert first.fingerprint != second.fingerprint


def test_a_completed_recording_is_never_queued_again(intake: Intake, history: MemoryHistory, tmp_path: Path) -> None:
    log = accepted(intake, write_mcap(tmp_path / "a.mcap"))
    history.move(log.id, "claimed")
    history.move(log.id, "done")
    assert intake.accept(look(tmp_path / "a.mcap")) is None


def test_a_damaged_file_is_recorded_once_with_its_reason(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    file = damaged(tmp_path / "a.mcap")
    log = accepted(intake, file)
    assert (log.status, log.next_retry_at) == ("failed", None)
    assert log.error is not None
    assert log.error.code == "damaged"
    assert intake.accept(look(file)) is None
    file.write_bytes(b"garbage" + file.read_bytes())  # it goes on changing
    assert intake.accept(look(file)) is None
    assert len(history.documents) == 1


def test_a_mended_sidecar_begins_a_new_chain_and_leaves_the_old(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    recording = write_mcap(tmp_path / "a.mcap")
    recording.with_suffix(".json").write_text("[]")
    old = accepted(intake, recording)
    fail(history, old, "sidecar_invalid")
    assert intake.accept(look(recording)) is None
    write_sidecar(recording)
    new = accepted(intake, recording)
    assert (new.trigger, new.status, new.attempt_count) == ("cause-changed", "pending", 0)
    assert history.get(old.id).status == "failed"


@pytest.mark.parametrize("code", ["gone", "replaced"])
def test_bytes_that_were_gone_and_are_found_again_begin_a_new_chain(
    intake: Intake, history: MemoryHistory, tmp_path: Path, code: str
) -> None:
    recording = write_mcap(tmp_path / "a.mcap")
    fail(history, accepted(intake, recording), code)
    assert accepted(intake, recording).status == "pending"


def test_what_failed_for_another_reason_stays_failed(intake: Intake, history: MemoryHistory, tmp_path: Path) -> None:
    recording = write_mcap(tmp_path / "a.mcap")
    fail(history, accepted(intake, recording), "checksum")
    assert intake.accept(look(recording)) is None


def test_a_document_that_waits_for_its_folder_goes_on_when_the_recording_is_seen(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    recording = write_mcap(tmp_path / "a.mcap")
    log = accepted(intake, recording)
    fail(history, log, "folder_missing", next_retry_at="2026-01-01T00:00:00.000Z")
    woken = accepted(intake, recording)
    assert (woken.id, woken.status) == (log.id, "pending")


def test_a_full_disk_loses_nothing(intake: Intake, history: MemoryHistory, tmp_path: Path) -> None:
    recording = write_mcap(tmp_path / "a.mcap")
    history.full = True
    with pytest.raises(HistoryFullError):
        intake.accept(look(recording))
    history.full = False
    assert accepted(intake, recording).status == "pending"
