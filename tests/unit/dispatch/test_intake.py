"""The intake, the only part of the agent that creates documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.discovery.examine import Examiner
from agent.dispatch.intake import Intake
from agent.model.errors import HistoryFullError
from agent.model.sync_log import Fault, SyncLog
from agent.model.values import Answer, Ask, Damaged, Recording
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.history import MemoryHistory
from tests.harness.recorders import damaged, write_mcap, write_sidecar


@pytest.fixture
def history() -> MemoryHistory:
    return MemoryHistory(FakeClock())


@pytest.fixture
def intake(history: MemoryHistory) -> Intake:
    return Intake(
        history=history, clock=FakeClock(), device_id="robot-1", snapshot=lambda _: "asset-1"
    )


def examined(path: Path) -> Recording | Damaged:
    found = Examiner([path.parent], "optional").look(path, sidecar_overdue=True)
    assert isinstance(found, (Recording, Damaged))
    return found


def accepted(intake: Intake, path: Path) -> SyncLog:
    log = intake.accept(examined(path))
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
    assert (log.status, log.attempt_count, log.trigger, log.resync) == (
        "pending",
        0,
        "discovered",
        False,
    )
    assert (log.episode_id, log.path, log.file_size) == (
        "ep-7",
        str(recording),
        recording.stat().st_size,
    )
    assert (log.device_id, log.asset_id) == ("robot-1", "asset-1")
    assert log.sidecar_sha256
    assert log.queued_at.endswith("Z")


def test_a_recording_that_is_queued_adds_nothing_under_any_name(
    intake: Intake, tmp_path: Path
) -> None:
    accepted(intake, write_mcap(tmp_path / "a.mcap"))
    (tmp_path / "a.mcap").rename(tmp_path / "b.mcap")
    assert intake.accept(examined(tmp_path / "b.mcap")) is None


def test_one_name_with_other_bytes_is_another_recording(intake: Intake, tmp_path: Path) -> None:
    first = accepted(intake, write_mcap(tmp_path / "a.mcap", seed=1))
    second = accepted(intake, write_mcap(tmp_path / "a.mcap", seed=2))
    assert first.fingerprint != second.fingerprint


def test_a_completed_recording_is_never_queued_again(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    log = accepted(intake, write_mcap(tmp_path / "a.mcap"))
    history.move(log.id, "claimed")
    history.move(log.id, "done")
    assert intake.accept(examined(tmp_path / "a.mcap")) is None


def test_a_damaged_file_is_recorded_once_with_its_reason(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    file = damaged(tmp_path / "a.mcap")
    log = accepted(intake, file)
    assert (log.status, log.next_retry_at) == ("failed", None)
    assert log.error is not None
    assert log.error.code == "damaged"
    assert intake.accept(examined(file)) is None
    # The file goes on changing.
    file.write_bytes(b"garbage" + file.read_bytes())
    assert intake.accept(examined(file)) is None
    assert len(history.documents) == 1


def test_a_mended_sidecar_begins_a_new_chain_and_leaves_the_old(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    recording = write_mcap(tmp_path / "a.mcap")
    recording.with_suffix(".json").write_text("[]")
    old = accepted(intake, recording)
    fail(history, old, "sidecar_invalid")
    assert intake.accept(examined(recording)) is None
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


def test_what_failed_for_another_reason_stays_failed(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    recording = write_mcap(tmp_path / "a.mcap")
    fail(history, accepted(intake, recording), "checksum")
    assert intake.accept(examined(recording)) is None


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
        intake.accept(examined(recording))
    history.full = False
    assert accepted(intake, recording).status == "pending"


# The tests below cover requests.


def asked(intake: Intake, path: Path, ask: Ask = "resync", reason: str = "") -> Answer:
    found = examined(path)
    assert isinstance(found, Recording)
    return intake.ask(found, trigger="marker", ask=ask, reason=reason)


def complete(history: MemoryHistory, log: SyncLog) -> SyncLog:
    history.move(log.id, "claimed")
    return history.move(log.id, "done")


@pytest.mark.parametrize("ask", ["resync", "first"])
def test_a_recording_that_nobody_knew_is_queued_and_is_no_resync(
    intake: Intake, history: MemoryHistory, tmp_path: Path, ask: Ask
) -> None:
    answer = asked(intake, write_mcap(tmp_path / "a.mcap"), ask, "it was dark")
    log = history.get(1)
    assert (answer.status, answer.episode_id) == ("accepted", log.episode_id)
    assert (log.status, log.resync, log.trigger, log.reason) == (
        "pending",
        False,
        "marker",
        "it was dark",
    )
    assert log.ahead == (1 if ask == "first" else 0)


def test_a_resync_of_what_is_uploaded_is_a_new_document_and_the_old_one_stays(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    before = complete(history, accepted(intake, path))
    path = path.rename(tmp_path / "b.mcap")
    assert asked(intake, path, reason="too dark").status == "accepted"
    assert history.get(1) == before
    log = history.get(2)
    assert (log.resync, log.reason, log.path, log.attempt_count) == (True, "too dark", str(path), 0)
    assert (log.session, log.error) == (None, None)


def test_a_second_resync_adds_nothing_while_the_first_one_waits_or_runs(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    complete(history, accepted(intake, path))
    asked(intake, path)
    assert asked(intake, path).status == "already_queued"
    history.move(2, "claimed")
    before = history.get(2)
    assert asked(intake, path).status == "already_queued"
    assert (history.last_id, history.get(2)) == (2, before)


def test_what_waits_after_a_failure_is_due_now_with_all_its_attempts(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    log = accepted(intake, path)
    history.move(log.id, "claimed")
    history.move(
        log.id,
        "counted",
        error=Fault("counted", "X", "it failed", ""),
        next_retry_at="2030-01-01T00:00:00Z",
    )
    assert asked(intake, path).status == "accepted"
    log = history.get(1)
    assert (log.status, log.attempt_count, log.next_retry_at, history.last_id) == (
        "pending",
        0,
        None,
        1,
    )


def test_what_failed_for_good_begins_anew_and_is_no_resync_when_it_was_never_uploaded(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    fail(history, accepted(intake, path), "INVALID_ARGUMENT")
    before = history.get(1)
    assert asked(intake, path).status == "accepted"
    assert (history.get(1), history.get(2).resync) == (before, False)


def test_after_a_resync_that_failed_the_recording_is_still_one_that_was_uploaded(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    complete(history, accepted(intake, path))
    asked(intake, path)
    fail(history, history.get(2), "INVALID_ARGUMENT")
    assert asked(intake, path, "first").status == "accepted"
    assert (history.get(3).resync, history.get(3).ahead) == (True, 1)


def test_a_resync_whose_file_went_away_is_still_one_when_it_comes_back(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    complete(history, accepted(intake, path))
    asked(intake, path)
    fail(history, history.get(2), "gone")
    assert accepted(intake, path).resync is True


def test_first_goes_ahead_of_all_that_were_put_ahead_before_also_after_a_restart(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    paths = [write_mcap(tmp_path / f"{seed}.mcap", seed=seed) for seed in range(3)]
    for path in paths:
        accepted(intake, path)
    assert [asked(intake, path, "first").status for path in paths[:2]] == ["accepted"] * 2
    restarted = Intake(
        history=history, clock=FakeClock(), device_id="robot-1", snapshot=lambda _: "asset-1"
    )
    assert asked(restarted, paths[2], "first").message == "it goes next"
    assert [history.get(id_).ahead for id_ in (1, 2, 3)] == [1, 2, 3]


def test_first_of_what_waits_after_a_failure_is_due_now_and_ahead(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    fail(history, accepted(intake, path), "asset", next_retry_at="2030-01-01T00:00:00Z")
    assert asked(intake, path, "first").status == "accepted"
    assert (history.get(1).status, history.get(1).ahead) == ("pending", 1)


def test_first_of_what_is_uploaded_is_refused(
    intake: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    log = complete(history, accepted(intake, path))
    answer = asked(intake, path, "first")
    assert (answer.status, answer.episode_id, history.last_id) == ("rejected", log.episode_id, 1)
    assert "a resync sends it again" in answer.message


def test_what_was_uploaded_by_a_forgotten_document_is_known_to_be(
    intake: Intake, history: MemoryHistory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    monkeypatch.setattr(history, "synced", lambda _fingerprint: True)
    assert intake.accept(examined(path)) is None
    assert asked(intake, path, "first").status == "rejected"
    assert asked(intake, path).status == "accepted"
    assert history.get(1).resync is True


# The tests below cover watch.auto = false.


@pytest.fixture
def intake_without_auto(history: MemoryHistory) -> Intake:
    return Intake(
        history=history, clock=FakeClock(), device_id="robot-1", snapshot=lambda _: "", auto=False
    )


def test_what_is_merely_found_waits_until_somebody_asks(
    intake_without_auto: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    paths = [write_mcap(tmp_path / f"{seed}.mcap", seed=seed) for seed in range(2)]
    for path in paths * 2:
        assert intake_without_auto.accept(examined(path)) is None
    assert (history.last_id, intake_without_auto.unasked) == (0, 2)
    assert asked(intake_without_auto, paths[0]).status == "accepted"
    assert (history.last_id, intake_without_auto.unasked) == (1, 1)


def test_damage_is_recorded_though_nobody_asked(
    intake_without_auto: Intake, tmp_path: Path
) -> None:
    assert accepted(intake_without_auto, damaged(tmp_path / "a.mcap")).status == "failed"


def test_what_is_queued_already_goes_on(
    intake_without_auto: Intake, history: MemoryHistory, tmp_path: Path
) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    asked(intake_without_auto, path)
    fail(history, history.get(1), "sidecar_invalid")
    write_sidecar(path, {"mended": True})
    assert accepted(intake_without_auto, path).trigger == "cause-changed"
    assert intake_without_auto.unasked == 0


def test_a_sidecar_that_comes_after_the_upload_is_said_once_where_tags_can_t_be_sent_anew(
    intake: Intake, history: MemoryHistory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recording = write_mcap(tmp_path / "a.mcap")
    log = accepted(intake, recording)
    history.move(log.id, "claimed")
    done = history.move(log.id, "done")
    write_sidecar(recording, {"scene": "kitchen"})
    for _ in range(2):
        assert intake.accept(examined(recording)) is None
    said = [record for record in caplog.records if "without it" in record.message]
    assert [(record.levelname, vars(record)["event"]) for record in said] == [
        ("WARNING", "sidecar_changed")
    ]
    note = history.get(2)
    assert (note.status, note.trigger, note.completed_at) == (
        "completed",
        "sidecar",
        done.completed_at,
    )
    assert "without it" in note.sidecar_fault
    assert history.get(log.id) == done
