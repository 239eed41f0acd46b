"""The order in which recordings are sent, and what happens to the queue after a failure."""

from __future__ import annotations

import errno
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from agent.discovery.examine import NotYet
from agent.model.errors import CloudError, FileChangedError, HistoryFullError
from agent.model.sync_log import SyncLog
from agent.model.unforeseen import SHORTAGES
from agent.model.values import Damaged, Recording, utc_text
from tests.harness.fakes.gateway import PROFILE
from tests.harness.phase import phase_of
from tests.harness.recorders import write_mcap, write_sidecar
from tests.harness.robot import Robot
from tests.harness.shortages import no_descriptors


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path / "recordings")


def states(robot: Robot) -> list[str]:
    return [log.status for log in robot.history.documents.values()]


def test_the_oldest_document_goes_first_and_no_more_than_allowed_at_once(tmp_path: Path) -> None:
    robot = Robot(tmp_path / "recordings", upload={"max_concurrent": 2})
    for number in range(5):
        robot.record(f"{number}.mcap", seed=number)
    robot.dispatch.tick()
    robot.dispatch.tick()
    assert states(robot) == ["in_progress", "in_progress", "pending", "pending", "pending"]
    robot.run()
    assert states(robot) == ["completed"] * 5


def test_an_outage_closes_the_gate_once_and_costs_no_attempt_and_no_history(robot: Robot) -> None:
    robot.gateway.fail("ExchangeCredential", times=10_000)
    for number in range(3):
        robot.record(f"{number}.mcap", seed=number)
    robot.run()
    before = dict(robot.history.documents)
    for _ in range(200):
        robot.advance(600)
    assert robot.history.documents == before
    assert [log.attempt_count for log in before.values()] == [0, 0, 0]
    robot.gateway.mend()
    robot.advance(1800)
    assert states(robot) == ["completed"] * 3
    assert [log.attempt_count for log in robot.history.documents.values()] == [1, 1, 1]


def test_a_queue_in_which_everything_waits_is_looked_through_once_and_when_its_first_date_has_come(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        log = robot.record(f"{number}.mcap", seed=number)
        robot.history.move(log.id, "claimed")
        robot.history.move(
            log.id, "blocked_alone", next_retry_at=utc_text(robot.clock.now() + 60 + number)
        )
    reads = 0
    read = robot.history.open

    def counted() -> Sequence[SyncLog]:
        nonlocal reads
        reads += 1
        return read()

    monkeypatch.setattr(robot.history, "open", counted)
    for _ in range(50):
        robot.advance(1)
    assert reads == 1
    robot.advance(15)
    assert states(robot) == ["completed"] * 5


def test_probes_go_through_the_queue_in_turn(robot: Robot) -> None:
    robot.store.fail("UploadPart", times=10_000)
    for number in range(3):
        robot.record(f"{number}.mcap", seed=number)
    probed = []
    robot.gateway.before = lambda call: (
        probed.append(robot.dispatch.in_flight()[0].log.id)
        if call.startswith(("Create", "GetUp"))
        else None
    )
    robot.run()
    for _ in range(6):
        robot.advance(1800)
    # The second recording probes at once, to see whether only the first is refused.
    assert probed == [
        1,
        2,
        3,
        1,
        2,
        3,
        1,
        2,
    ]


def test_a_recording_that_fails_alone_does_not_hold_up_the_others(robot: Robot) -> None:
    bad = robot.record("bad.mcap", seed=1)
    robot.store.before = lambda call: _refuse(robot, bad.id, call)
    for number in range(5):
        robot.record(f"{number}.mcap", seed=10 + number)
    for number in range(12):
        robot.record(f"later-{number}.mcap", seed=100 + number)
        robot.advance(1800)
    assert states(robot) == ["failed"] + ["completed"] * 17
    failed = robot.log(bad.id)
    assert failed.error is not None
    assert (failed.error.code, failed.next_retry_at, failed.attempt_count) == ("HTTP_500", None, 5)


def test_an_error_that_everybody_gets_fails_nobody_for_good(robot: Robot) -> None:
    robot.gateway.fail(
        "CompleteUpload", error=CloudError("CompleteUpload", "INTERNAL_ERROR"), times=10_000
    )
    for number in range(3):
        robot.record(f"{number}.mcap", seed=number)
    for _ in range(10):
        robot.advance(600)
    assert "failed" not in states(robot)
    robot.gateway.mend()
    for _ in range(4):
        robot.advance(1800)
    assert states(robot) == ["completed"] * 3


def test_a_counted_failure_waits_for_its_date_and_keeps_its_attempts(robot: Robot) -> None:
    robot.record()
    robot.store.flip(3)
    robot.run()
    log = robot.log()
    assert (log.status, log.attempt_count) == ("failed", 1)
    assert log.next_retry_at is not None
    robot.advance(29)
    assert robot.log().status == "failed"
    robot.advance(1)
    assert (robot.log().status, robot.log().attempt_count) == ("completed", 2)


def test_a_clock_that_jumps_changes_no_wait(robot: Robot) -> None:
    robot.record()
    robot.store.flip(3)
    robot.run()
    robot.clock.set_now(0)
    robot.advance(29)
    assert robot.log().status == "failed"
    robot.clock.set_now(4e9)
    robot.advance(1)
    assert robot.log().status == "completed"


def test_after_a_restart_a_wait_is_what_is_left_of_it_and_never_longer_than_the_maximum(
    robot: Robot,
) -> None:
    robot.record()
    robot.store.flip(3)
    robot.run()
    # The date in the document is now decades ahead.
    robot.clock.set_now(0)
    robot.restart()
    robot.run()
    robot.advance(1799)
    assert robot.log().status == "failed"
    robot.advance(1)
    assert robot.log().status == "completed"


def test_what_a_kill_left_in_progress_goes_on_with_no_attempt_lost(robot: Robot) -> None:
    robot.record(size=5000)
    robot.dispatch.tick()
    assert robot.log().status == "in_progress"
    robot.restart()
    robot.run()
    assert (robot.log().status, robot.log().attempt_count) == ("completed", 1)


def test_a_stop_puts_back_what_is_in_flight_and_starts_nothing(robot: Robot) -> None:
    robot.record("a.mcap", seed=1)
    robot.record("b.mcap", seed=2)

    def stop(call: str) -> None:
        if call == "CreateMultipartUpload":
            robot.dispatch.stop(0, 0)

    robot.store.before = stop
    robot.run()
    assert states(robot) == ["pending", "pending"]
    assert robot.log().attempt_count == 0
    assert robot.log().require_session().multipart_upload_id
    robot.store.before = lambda _call: None
    robot.restart()
    robot.run()
    assert states(robot) == ["completed", "completed"]


def test_a_full_disk_closes_the_gate_and_opens_it_when_there_is_room(robot: Robot) -> None:
    robot.record()
    robot.history.full = True
    robot.run()
    closed = robot.gate.closed()
    assert closed is not None
    assert closed.code == "disk_full"
    robot.history.full = False
    robot.advance(30)
    assert states(robot) == ["completed"]


def test_a_full_disk_is_tried_again_also_while_uploads_are_paused(robot: Robot) -> None:
    robot.gate.hold("pause", "paused")
    robot.dispatch.disk_failed(HistoryFullError("no room"))
    assert robot.gate.is_held_by("disk_full")
    robot.advance(30)
    assert not robot.gate.is_held_by("disk_full")
    assert robot.gate.is_held_by("pause")


def test_a_disk_that_fills_up_in_mid_upload_loses_nothing(robot: Robot) -> None:
    robot.record(size=5000)

    def fill(call: str) -> None:
        robot.history.full = call == "UploadPart"

    robot.store.before = fill
    robot.run()
    robot.store.before = lambda _call: None
    robot.history.full = False
    robot.advance(30)
    assert states(robot) == ["completed"]
    assert robot.log().attempt_count == 1


def test_a_recording_without_an_asset_id_waits_alone(robot: Robot) -> None:
    robot.profiles.profiles["robot-2"] = replace(PROFILE, asset_id="robot-2")
    orphan = robot.record("orphan.mcap", seed=1)
    named = write_mcap(robot.folder / "named.mcap", seed=2)
    write_sidecar(named, {"asset_id": "robot-1"})
    robot.find(named)
    robot.run()
    assert states(robot) == ["failed", "completed"]
    waiting = robot.log(orphan.id)
    assert waiting.error is not None
    assert (waiting.error.kind, waiting.error.code, waiting.attempt_count) == (
        "blocked",
        "no_asset_id",
        0,
    )
    assert waiting.next_retry_at is not None
    robot.assets["robot"] = "robot-1"
    robot.dispatch.cause_changed()
    robot.run()
    assert states(robot) == ["completed", "completed"]


def test_an_open_session_is_given_up_when_the_asset_id_changes(robot: Robot) -> None:
    robot.profiles.profiles["robot-2"] = replace(PROFILE, asset_id="robot-2", api_key="api-key-2")
    robot.gateway.profiles["api-key-2"] = robot.profiles.profiles["robot-2"]
    robot.assets["robot"] = "robot-1"
    robot.store.fail("UploadPart", times=3)
    robot.record()
    robot.run()
    assert robot.log().session
    robot.assets["robot"] = "robot-2"
    robot.advance(1800)
    assert robot.log().status == "completed"
    assert robot.log().asset_id == "robot-2"
    stages = {session.asset_id: session.stage for session in robot.gateway.sessions.values()}
    assert stages == {"robot-1": "terminal", "robot-2": "completed"}


def test_a_profile_file_that_is_missing_blocks_until_it_is_there(robot: Robot) -> None:
    robot.profiles.error = CloudError("LoadProfiles", "profile_file", "there is no such file")
    robot.record()
    robot.run()
    closed = robot.gate.closed()
    assert closed is not None
    assert closed.kind == "blocked"
    robot.profiles.error = None
    robot.dispatch.cause_changed()
    robot.run()
    assert states(robot) == ["completed"]


@pytest.mark.parametrize("sidecar", ["[]", "not json", json.dumps({"site": "elsewhere"})])
def test_a_sidecar_that_can_not_be_used_is_final_before_any_session(
    robot: Robot, sidecar: str
) -> None:
    recording = write_mcap(robot.folder / "a.mcap")
    recording.with_suffix(".json").write_text(sidecar)
    robot.find(recording)
    robot.run()
    assert states(robot) == ["failed"]
    assert robot.log().next_retry_at is None
    assert robot.gateway.sessions == {}


def test_a_required_sidecar_that_is_missing_is_final_and_its_coming_begins_a_new_chain(
    robot: Robot,
) -> None:
    robot.restart(watch={"sidecar": "required"})
    robot.record()
    robot.run()
    assert states(robot) == ["failed"]
    write_sidecar(robot.folder / "a.mcap")
    robot.find(robot.folder / "a.mcap")
    robot.run()
    assert states(robot) == ["failed", "completed"]
    assert robot.log(2).trigger == "cause-changed"


def test_a_recording_that_is_being_compressed_waits_and_is_not_taken_for_another(
    robot: Robot,
) -> None:
    robot.record()
    compressed = robot.folder / "a.mcap.zstd"
    compressed.touch()
    robot.run()
    waiting = robot.log()
    assert waiting.error is not None
    assert (waiting.error.code, waiting.attempt_count) == ("compressing", 0)
    compressed.unlink()
    robot.advance(1800)
    assert states(robot) == ["completed"]


def test_a_recording_that_a_program_has_open_for_writing_is_put_back_and_goes_once_it_is_closed(
    robot: Robot,
) -> None:
    log = robot.record()
    robot.clock.set_now(Path(log.path).stat().st_mtime + 0.5)
    with Path(log.path).open("r+b"):
        robot.run()
        assert (robot.log().status, robot.log().attempt_count) == ("pending", 0)
        robot.advance(29)
        assert robot.store.calls == []
    robot.advance(2)
    assert robot.log().status == "completed"


def test_a_writer_that_never_closes_keeps_a_recording_back_only_so_long_after_its_last_change(
    robot: Robot,
) -> None:
    log = robot.record()
    robot.clock.set_now(Path(log.path).stat().st_mtime + 0.5)
    with Path(log.path).open("r+b"):
        for _ in range(20):
            robot.run()
            assert robot.log().status == "pending"
            robot.clock.advance(30)
        robot.run()
    assert robot.log().status == "completed"


def test_a_day_of_refusals_by_the_bucket_ends_by_itself(robot: Robot) -> None:
    denied = CloudError("UploadPart", "AccessDenied", status=403)
    robot.store.fail("UploadPart", error=denied, times=100_000)
    for number in range(3):
        robot.record(f"{number}.mcap", seed=number)
    for _ in range(48):
        robot.advance(1800)
    assert "failed" not in states(robot)
    robot.store.mend()
    robot.advance(1800)
    robot.advance(1800)
    assert states(robot) == ["completed"] * 3


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), OSError(5, "Input/output error")])
def test_what_nobody_foresaw_costs_no_attempt_and_stops_nobody_else(
    robot: Robot, error: Exception
) -> None:
    robot.store.fail("HeadObject", error=error, times=1)
    robot.record("a.mcap", seed=1)
    robot.record("b.mcap", seed=2)
    robot.run()
    assert states(robot) == ["completed", "completed"]
    assert [log.attempt_count for log in robot.history.documents.values()] == [1, 1]


@pytest.mark.parametrize("error", [ZeroDivisionError("oops"), OSError(5, "Input/output error")])
def test_what_nobody_foresaw_and_everybody_meets_fails_nobody_and_is_told_once(
    robot: Robot, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    robot.store.fail("CompleteMultipartUpload", error=error, times=10_000)
    for number in range(5):
        robot.record(f"{number}.mcap", seed=number)
    for _ in range(48):
        robot.advance(1800)
    assert states(robot) == ["pending"] * 5
    assert [log.attempt_count for log in robot.history.documents.values()] == [0] * 5
    closed = robot.gate.closed()
    assert closed is not None
    assert (closed.kind, closed.reason) == ("offline", f"{type(error).__name__}: {error}")
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) <= 2
    assert len([record for record in caplog.records if record.exc_info]) == isinstance(
        error, ZeroDivisionError
    )
    robot.store.mend()
    robot.advance(1800)
    assert states(robot) == ["completed"] * 5


def test_a_recording_that_meets_what_nobody_foresaw_alone_ends_and_keeps_nobody_waiting(
    robot: Robot,
) -> None:
    bad = robot.record("bad.mcap", seed=1)

    def fail(call: str) -> None:
        flying = robot.dispatch.in_flight()
        if call == "UploadPart" and flying and flying[0].log.id == bad.id:
            raise ZeroDivisionError("oops")

    robot.store.before = fail
    for number in range(12):
        late = robot.record(f"later-{number}.mcap", seed=100 + number)
        robot.advance(1800)
        assert robot.log(late.id).status == "completed"
    failed = robot.log(bad.id)
    assert failed.error is not None
    assert (failed.status, failed.next_retry_at, failed.attempt_count) == ("failed", None, 5)
    assert failed.error.code == "bug"


@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), OSError(errno.EMFILE, "Too many open files")]
)
def test_what_this_robot_lacks_closes_the_gate_until_there_is_enough_again(
    robot: Robot, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    robot.record("first.mcap", seed=99)
    robot.run()
    robot.store.fail("UploadPart", error=error, times=10_000)
    for number in range(5):
        robot.record(f"{number}.mcap", seed=number)
    for _ in range(48):
        robot.advance(1800)
    assert states(robot) == ["completed"] + ["pending"] * 5
    closed = robot.gate.closed()
    assert closed is not None
    assert closed.reason in SHORTAGES.values()
    assert closed.code in SHORTAGES
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    robot.store.mend()
    robot.advance(1800)
    assert states(robot) == ["completed"] * 6
    assert {log.attempt_count for log in robot.history.documents.values()} == {1}


def test_a_file_that_can_not_be_opened_for_want_of_descriptors_is_not_on_a_missing_disk(
    robot: Robot,
) -> None:
    robot.record()
    with no_descriptors():
        robot.run()
    closed = robot.gate.closed()
    assert closed is not None
    assert closed.code == "out_of_descriptors"
    assert states(robot) == ["pending"]
    robot.advance(30)
    assert states(robot) == ["completed"]
    assert robot.log().attempt_count == 1


def test_a_recording_that_alone_is_too_much_for_the_memory_keeps_nobody_waiting(
    robot: Robot,
) -> None:
    bad = robot.record("bad.mcap", seed=1)

    def fail(call: str) -> None:
        flying = robot.dispatch.in_flight()
        if call == "UploadPart" and flying and flying[0].log.id == bad.id:
            raise MemoryError

    robot.store.before = fail
    for number in range(12):
        late = robot.record(f"later-{number}.mcap", seed=100 + number)
        robot.advance(30)
        robot.advance(1800)
        assert robot.log(late.id).status == "completed"
    waiting = robot.log(bad.id)
    assert waiting.error is not None
    assert (waiting.error.kind, waiting.error.code, waiting.attempt_count) == (
        "blocked",
        "out_of_memory",
        0,
    )
    robot.store.before = lambda _call: None
    robot.advance(1800)
    assert robot.log(bad.id).status == "completed"


def test_an_upload_that_can_not_be_given_up_leaves_its_document_at_its_end(robot: Robot) -> None:
    robot.store.flip(1_000)
    robot.store.fail("AbortMultipartUpload", error=LookupError("unknown encoding"), times=1_000)
    robot.store.fail(
        "ListMultipartUploads",
        error=CloudError("ListMultipartUploads", "AccessDenied", status=403),
        times=1_000,
    )
    robot.record()
    for _ in range(10):
        robot.advance(1800)
    log = robot.log()
    assert log.error is not None
    assert (log.status, log.next_retry_at, log.attempt_count) == ("failed", None, 5)
    assert len(robot.history.orphans()) == 1


def _refuse(robot: Robot, bad: int, call: str) -> None:
    flying = robot.dispatch.in_flight()
    if call == "UploadPart" and flying and flying[0].log.id == bad:
        raise CloudError("UploadPart", "HTTP_500", status=500)


def test_an_outage_after_a_success_is_everybodys_and_counts_for_nobody(robot: Robot) -> None:
    robot.record("first.mcap", seed=99)
    robot.run()
    robot.store.fail(
        "UploadPart", error=CloudError("UploadPart", "SlowDown", status=503), times=10_000
    )
    for number in range(4):
        robot.record(f"{number}.mcap", seed=number)
    robot.run()
    assert states(robot) == ["completed"] + ["pending"] * 4
    assert robot.gate.closed() is not None


def test_a_recording_moved_away_from_under_a_link_is_found_where_it_lies(robot: Robot) -> None:
    robot.record()
    (robot.folder / "archive").mkdir()
    (robot.folder / "a.mcap").rename(robot.folder / "archive" / "a.mcap")
    (robot.folder / "a.mcap").symlink_to("archive/a.mcap")
    robot.find_names()
    robot.run()
    assert states(robot) == ["completed"]


def test_a_document_that_is_woken_goes_on_at_once(robot: Robot) -> None:
    disk = robot.folder / "disk"
    disk.mkdir()
    robot.record("disk/a.mcap")
    disk.rename(robot.folder.parent / "unmounted")
    robot.run()
    assert states(robot) == ["failed"]
    (robot.folder.parent / "unmounted").rename(disk)
    robot.find(disk / "a.mcap")
    robot.run()
    assert states(robot) == ["completed"]


def test_what_is_stored_is_reported_though_its_file_is_gone(robot: Robot) -> None:
    robot.gateway.fail("CompleteUpload", times=3)
    robot.record()
    robot.run()
    assert phase_of(robot.log()) == "completing"
    (robot.folder / "a.mcap").unlink()
    robot.advance(1800)
    assert states(robot) == ["completed"]
    assert robot.log().source_deleted


def test_a_sidecar_that_breaks_after_the_session_began_changes_nothing(robot: Robot) -> None:
    robot.store.fail("UploadPart", times=3)
    write_sidecar(write_mcap(robot.folder / "a.mcap"))
    log = robot.find(robot.folder / "a.mcap")
    robot.run()
    (robot.folder / "a.json").write_text("[")
    robot.advance(1800)
    assert states(robot) == ["completed"]
    assert robot.log(log.id).raw_tags["episode_id"] == "ep-a"


def test_a_file_that_can_not_be_read_is_counted_with_its_reason(robot: Robot) -> None:
    robot.store.fail("UploadPart", error=FileChangedError("Input/output error"), times=10_000)
    robot.record()
    for _ in range(10):
        robot.advance(1800)
    log = robot.log()
    assert log.error is not None
    assert (log.status, log.error.code, log.attempt_count) == ("failed", "io_error", 5)


def test_a_mended_profile_file_opens_the_gate_for_all(tmp_path: Path) -> None:
    robot = Robot(tmp_path / "recordings", upload={"max_concurrent": 2})
    robot.profiles.error = CloudError("DeviceProfiles", "profile_file", "there is no such file")
    robot.record("a.mcap", seed=1)
    robot.record("b.mcap", seed=2)
    robot.run()
    robot.profiles.error = None
    robot.dispatch.cause_changed()
    open_during_parts = []
    robot.store.before = lambda _call: open_during_parts.append(robot.gate.closed() is None)
    robot.run()
    assert set(open_during_parts) == {True}
    assert states(robot) == ["completed", "completed"]


def test_a_cause_mended_while_it_is_refused_is_tried_again_at_once(robot: Robot) -> None:
    robot.gateway.refused["api-key-1"] = "KEY_DISABLED"

    def mend(call: str) -> None:
        if call == "ExchangeCredential":
            robot.gateway.before = lambda _call: None
            robot.dispatch.cause_changed()

    robot.gateway.before = mend
    robot.record()
    robot.run(most=1)
    robot.gateway.refused.clear()
    robot.run()
    assert states(robot) == ["completed"]


def test_a_long_retry_after_is_left_to_the_gate(robot: Robot) -> None:
    error = CloudError("UploadPart", "SlowDown", status=503, retry_after=600)
    robot.store.fail("UploadPart", error=error, times=1)
    robot.record()
    robot.run()
    assert robot.store.calls.count("UploadPart") == 1
    robot.advance(599)
    assert robot.store.calls.count("UploadPart") == 1
    robot.advance(1)
    assert states(robot) == ["completed"]


def test_workers_that_can_not_be_started_close_the_gate_and_leave_nothing_claimed(
    robot: Robot, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        robot.record(f"{number}.mcap", seed=number)
    robot.executor.broken = True
    for _ in range(48):
        robot.advance(1800)
    assert robot.dispatch.in_flight() == ()
    assert states(robot) == ["pending"] * 3
    assert [log.attempt_count for log in robot.history.documents.values()] == [0] * 3
    closed = robot.gate.closed()
    assert closed is not None
    assert (closed.code, closed.reason) == ("out_of_threads", SHORTAGES["out_of_threads"])
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1
    robot.executor.broken = False
    robot.advance(1800)
    assert states(robot) == ["completed"] * 3
    assert {log.attempt_count for log in robot.history.documents.values()} == {1}


def test_a_probe_that_can_not_begin_is_not_the_last_one(robot: Robot) -> None:
    robot.store.fail("UploadPart", times=3)
    robot.record()
    robot.run()
    robot.executor.broken = True
    robot.advance(1800)
    closed = robot.gate.closed()
    assert closed is not None
    assert closed.code == "out_of_threads"
    robot.executor.broken = False
    robot.advance(1800)
    assert states(robot) == ["completed"]


def test_what_a_kill_left_in_progress_waits_where_no_worker_can_be_started(robot: Robot) -> None:
    robot.record()
    robot.dispatch.tick()
    assert robot.log().status == "in_progress"
    robot.restart()
    robot.executor.broken = True
    robot.run()
    assert robot.log().status == "pending"
    robot.executor.broken = False
    robot.advance(30)
    assert (robot.log().status, robot.log().attempt_count) == ("completed", 1)


def test_a_certificate_refused_in_1970_is_blamed_on_the_clock(robot: Robot) -> None:
    robot.gateway.fail("ExchangeCredential", error=CloudError("ExchangeCredential", "certificate"))
    robot.clock.set_now(86400)
    robot.record()
    robot.run()
    closed = robot.gate.closed()
    assert closed is not None
    assert closed.hint.startswith("this robot's clock says 1970-01-02")
    robot.clock.set_now(1_790_000_000)
    robot.dispatch.cause_changed()
    robot.run()
    assert states(robot) == ["completed"]


def test_a_cause_that_changes_while_the_disk_is_full_is_seen_when_there_is_room_again(
    robot: Robot,
) -> None:
    robot.assets["robot"] = ""
    robot.record()
    robot.run()
    assert robot.log().error is not None
    robot.assets["robot"] = PROFILE.asset_id
    robot.history.full = True
    robot.dispatch.cause_changed()
    closed = robot.gate.closed()
    assert closed is not None
    assert closed.code == "disk_full"
    robot.history.full = False
    robot.advance(1800)
    assert robot.log().status == "completed"


def test_a_sidecar_that_went_bad_after_the_recording_was_queued_is_noted_as_the_cause(
    robot: Robot,
) -> None:
    log = robot.record()
    sidecar = Path(log.path).with_suffix(".json")
    sidecar.write_text("[1")
    robot.run()
    failed = robot.log()
    assert failed.error is not None
    assert (failed.status, failed.error.code) == ("failed", "sidecar_invalid")
    sidecar.unlink()
    mended = robot.find(Path(log.path))
    assert mended.trigger == "cause-changed"
    robot.run()
    assert robot.log(mended.id).status == "completed"


# The tests below cover the order of uploads.


@pytest.mark.parametrize(
    ("newest_first", "expected"), [(False, [3, 2, 1, 4]), (True, [3, 2, 4, 1])]
)
def test_what_was_put_ahead_goes_before_the_queue_the_last_one_first(
    robot: Robot, newest_first: bool, expected: list[int]
) -> None:
    robot.restart(upload={"order": "newest" if newest_first else "oldest"})
    for number in range(4):
        robot.record(f"{number}.mcap", seed=number)
    for ahead, id_ in enumerate((2, 3), start=1):
        robot.history.amend(id_, ahead=ahead)
    begun: list[int] = []
    robot.gateway.before = lambda call: (
        begun.append(robot.dispatch.in_flight()[0].log.id) if call.startswith("Create") else None
    )
    robot.run()
    assert begun == expected


def test_one_put_ahead_that_fails_holds_up_no_other(robot: Robot) -> None:
    for number in range(2):
        robot.record(f"{number}.mcap", seed=number)
    robot.history.amend(2, ahead=1)
    robot.assets["robot"] = ""
    robot.run()
    assert states(robot) == ["failed", "failed"]
    robot.assets.clear()
    robot.dispatch.cause_changed()
    assert [claim.log.id for claim in robot.dispatch.in_flight()] == [2]


def test_what_waits_for_its_date_goes_at_once_when_somebody_asks(robot: Robot) -> None:
    robot.record()
    robot.assets["robot"] = ""
    robot.run()
    assert states(robot) == ["failed"]
    robot.assets.clear()
    robot.run()
    assert states(robot) == ["failed"]
    robot.history.move(1, "asked")
    robot.run()
    assert states(robot) == ["completed"]


@pytest.mark.parametrize("why", ["flight is full", "held", "cloud is away"])
def test_a_long_queue_costs_nothing_while_nothing_may_go(
    robot: Robot, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    for number in range(2):
        robot.record(f"{number}.mcap", seed=number)
    if why == "flight is full":
        robot.dispatch.tick()
    elif why == "held":
        robot.gate.hold("test", "the test says so")
    else:
        robot.gateway.fail("ExchangeCredential", times=10_000)
        robot.run()
    asked: list[str] = []
    everything = robot.history.open

    def counted() -> Sequence[SyncLog]:
        asked.append("open")
        return everything()

    monkeypatch.setattr(robot.history, "open", counted)
    robot.dispatch.tick()
    assert asked == []
    if why == "cloud is away":
        robot.clock.advance(1800)
        robot.dispatch.tick()
        assert asked == ["open"], "a probe is due"


def test_files_that_can_not_be_read_are_their_own_fault_and_hold_up_no_others(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = [robot.record("bad1.mcap", seed=1), robot.record("bad2.mcap", seed=2)]
    examine = robot.examiner.look

    def refusing(path: Path, **overdue: bool) -> Recording | Damaged | NotYet:
        if path.name.startswith("bad"):
            raise PermissionError(errno.EACCES, "Permission denied", path.name)
        return examine(path, **overdue)

    monkeypatch.setattr(robot.examiner, "look", refusing)
    robot.run()
    assert robot.gate.closed() is None
    for log in bad:
        failed = robot.log(log.id)
        assert failed.error is not None
        assert (failed.status, failed.attempt_count) == ("failed", 1)
        assert (failed.error.kind, failed.error.code) == ("counted", "io_error")
        assert log.path in failed.error.message
    good = robot.record("good.mcap", seed=3)
    robot.run()
    assert robot.log(good.id).status == "completed"
