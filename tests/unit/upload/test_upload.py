"""The upload of one recording, and how it continues after each interruption."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.model.errors import CloudError
from agent.model.sync_log import Orphan
from agent.model.values import Recovery
from tests.harness.fakes.store import FakeStore
from tests.harness.phase import phase_of
from tests.harness.robot import Robot

CUT = CloudError("UploadPart", "reset")


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path / "recordings")


def run_until_done(robot: Robot, *, strays: bool = False) -> None:
    """Run until ``a.mcap`` is completed.

    With ``strays``, a multipart upload may stay in the bucket: no lease is granted to abort it.
    """
    for _ in range(20):
        robot.run()
        if robot.log().status == "completed":
            break
        robot.clock.advance(1800)
    assert robot.log().status == "completed", robot.log().error
    assert robot.stored(robot.log()) == (robot.folder / "a.mcap").read_bytes()
    assert strays or robot.store.multiparts == {}


def test_a_recording_is_stored_verified_and_reported(robot: Robot) -> None:
    robot.record()
    run_until_done(robot)
    log = robot.log()
    (session,) = robot.gateway.sessions.values()
    assert session.reported is not None
    assert (
        session.reported.require_session().part_count,
        session.reported.require_session().etag,
    ) == (log.require_session().part_count, log.require_session().etag)
    assert session.reported.raw_tags == log.raw_tags
    assert session.opened_for.raw_tags == log.raw_tags
    assert (log.attempt_count, log.bytes_sent, log.error) == (1, log.file_size, None)


def test_a_multipart_that_takes_a_part_no_more_is_given_up_and_begun_again(robot: Robot) -> None:
    robot.store.fail("UploadPart", error=CloudError("UploadPart", "NotImplemented", status=501))
    robot.record()
    robot.run()
    assert robot.log().require_session().multipart_upload_id == ""
    assert robot.store.multiparts == {}
    run_until_done(robot)
    assert (len(robot.gateway.sessions), robot.log().attempt_count) == (1, 1)


def test_ids_are_durable_before_what_they_name_is_used(robot: Robot) -> None:
    seen: dict[str, tuple[str, bool, bool]] = {}

    def note(call: str) -> None:
        log = robot.log()
        has_multipart = log.session is not None and log.session.multipart_upload_id != ""
        seen.setdefault(call, (phase_of(log), log.session is not None, has_multipart))

    robot.store.before = robot.gateway.before = note
    robot.record()
    run_until_done(robot)
    assert seen["CreateLogicalUpload"] == ("", False, False)
    assert seen["CreateMultipartUpload"] == ("opening", True, False)
    assert seen["UploadPart"] == ("uploading", True, True)
    assert seen["CompleteUpload"] == ("completing", True, True)


@pytest.mark.parametrize(
    "call",
    [
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
        "HeadObject",
        "ListMultipartUploads",
    ],
)
@pytest.mark.parametrize("lost", [False, True])
def test_a_call_to_the_store_that_fails_or_whose_answer_is_lost_leaves_one_object(
    robot: Robot, call: str, lost: bool
) -> None:
    robot.store.fail(call, error=CloudError(call, "reset"), times=4, lost=lost)
    robot.record()
    run_until_done(robot)
    assert robot.log().attempt_count == 1
    assert len(robot.store.objects) == 1


@pytest.mark.parametrize("call", ["ExchangeCredential", "CreateLogicalUpload", "CompleteUpload"])
def test_a_call_to_the_gateway_that_fails_is_made_again_later(robot: Robot, call: str) -> None:
    robot.gateway.fail(call, times=4)
    robot.record()
    run_until_done(robot)
    assert robot.log().attempt_count == 1
    assert len(robot.store.objects) == 1


def test_a_lost_answer_on_complete_upload_is_looked_up(robot: Robot) -> None:
    robot.gateway.fail("CompleteUpload", times=3, lost=True)
    robot.record()
    run_until_done(robot)
    assert robot.store.calls.count("CompleteMultipartUpload") == 1
    assert len(robot.gateway.sessions) == 1


def test_opening_a_session_is_never_repeated_blindly(robot: Robot) -> None:
    robot.gateway.fail(
        "CreateLogicalUpload", error=CloudError("CreateLogicalUpload", "DEADLINE_EXCEEDED")
    )
    robot.record()
    robot.run()
    assert robot.gateway.calls.count("CreateLogicalUpload") == 1
    assert robot.log().status == "pending"


def test_a_half_done_upload_sends_only_what_is_missing(robot: Robot) -> None:
    robot.record(size=5000)
    sent_first = 2
    robot.store.before = lambda call: _fail_after(robot, call, sent_first)
    robot.run()
    assert robot.store.sent_parts == [1, 2]
    robot.store.before = lambda _call: None
    run_until_done(robot)
    assert robot.store.sent_parts == [1, 2, 3, 4, 5, 6]
    assert len(robot.gateway.sessions) == 1


def test_a_listed_part_with_other_bytes_is_sent_again(robot: Robot) -> None:
    robot.record(size=5000)
    robot.store.before = lambda call: _fail_after(robot, call, 2)
    robot.run()
    robot.store.before = lambda _call: None
    (multipart,) = robot.store.multiparts.values()
    data, sent = multipart.parts[1]
    multipart.parts[1] = (data, replace(sent, checksum="AAAA", etag='"0"'))
    run_until_done(robot)
    assert robot.store.sent_parts == [1, 2, 1, 3, 4, 5, 6]


def test_where_parts_may_not_be_listed_the_multipart_begins_again(robot: Robot) -> None:
    robot.record(size=5000)
    robot.store.before = lambda call: _fail_after(robot, call, 2)
    robot.run()
    robot.store.before = lambda _call: None
    robot.store.fail(
        "ListParts", error=CloudError("ListParts", "AccessDenied", status=403), times=9
    )
    run_until_done(robot)
    assert robot.store.sent_parts == [1, 2, 1, 2, 3, 4, 5, 6]


def test_a_multipart_that_is_gone_begins_again_in_the_same_session(robot: Robot) -> None:
    robot.record(size=5000)
    robot.store.before = lambda call: _fail_after(robot, call, 2)
    robot.run()
    robot.store.before = lambda _call: None
    robot.store.multiparts.clear()
    run_until_done(robot)
    assert len(robot.gateway.sessions) == 1


def test_strays_under_the_same_key_are_given_up_before_a_new_multipart(robot: Robot) -> None:
    robot.store.fail(
        "CreateMultipartUpload",
        error=CloudError("CreateMultipartUpload", "reset"),
        times=3,
        lost=True,
    )
    robot.record()
    robot.run()
    assert len(robot.store.multiparts) == 1
    run_until_done(robot)


def test_a_stop_breaks_off_what_waits_for_the_store_and_costs_nothing(robot: Robot) -> None:
    robot.record(size=5000)

    def stop(call: str) -> None:
        if call == "CompleteMultipartUpload":
            robot.store.before = lambda _call: None
            robot.dispatch.stop(0, 0)

    robot.store.before = stop
    robot.store.fail(
        "CompleteMultipartUpload", error=CloudError("CompleteMultipartUpload", "reset")
    )
    robot.run()
    assert (robot.log().status, robot.log().attempt_count) == ("pending", 0)
    robot.restart()
    run_until_done(robot)
    assert robot.log().attempt_count == 1


def test_an_ended_lease_is_renewed_and_the_same_part_sent_again(robot: Robot) -> None:
    robot.record(size=5000)

    def expire_once(call: str) -> None:
        if call == "UploadPart" and robot.store.sent_parts == [1, 2]:
            robot.store.before = lambda _call: None
            robot.gateway.expire_leases()

    robot.store.before = expire_once
    run_until_done(robot)
    assert robot.log().credential_refreshes == 1
    assert robot.store.sent_parts == [1, 2, 3, 4, 5, 6]
    assert len(set(robot.store.keys_used)) == 2


def test_the_scheduler_renews_a_lease_before_it_ends(robot: Robot) -> None:
    robot.gateway.lease_seconds = 20
    robot.record(size=5000)

    def pass_time(call: str) -> None:
        if call == "UploadPart":
            robot.clock.advance(6)
            assert robot.credentials.refresh_due() == []

    robot.store.before = pass_time
    run_until_done(robot)
    assert robot.log().credential_refreshes == 3
    assert "ExpiredToken" not in str(robot.log().error)


def test_no_request_is_signed_with_a_lease_known_to_be_over(robot: Robot) -> None:
    robot.gateway.lease_seconds = 20
    robot.record(size=5000)
    robot.store.before = lambda call: robot.clock.advance(21) if call == "UploadPart" else None
    run_until_done(robot)
    assert robot.log().credential_refreshes == 6


def test_the_part_size_stays_whatever_a_reissued_lease_says(robot: Robot) -> None:
    robot.gateway.lease_seconds = 20
    robot.gateway.reissued_part_size = 4096
    robot.record(size=5000)
    robot.store.before = lambda call: robot.clock.advance(21) if call == "UploadPart" else None
    run_until_done(robot)
    assert robot.log().require_session().part_size_bytes == 1024
    assert robot.log().require_session().part_count == 6


def test_a_lease_for_another_place_is_refused(robot: Robot) -> None:
    robot.record(size=5000)
    robot.store.before = lambda call: _fail_after(robot, call, 2)
    robot.run()
    robot.store.before = lambda _call: None
    (session,) = robot.gateway.sessions.values()
    session.session = replace(session.session, bucket="elsewhere")
    robot.advance(1800)
    assert robot.log().status == "pending"
    closed = robot.gate.closed()
    assert closed is not None
    assert closed.code == "lying_server"
    assert {bucket for bucket, _ in robot.store.objects} == set()


def test_a_refused_access_token_is_replaced_once(robot: Robot) -> None:
    robot.record()
    robot.run(most=0)
    robot.gateway.before = lambda call: (
        robot.gateway.expire_tokens() if call == "CompleteUpload" else None
    )
    robot.executor.waiting.popleft()()
    assert robot.gateway.calls.count("ExchangeCredential") >= 2


def test_a_key_that_is_refused_for_good_blocks_without_costing_an_attempt(robot: Robot) -> None:
    robot.gateway.refused["api-key-1"] = "KEY_DISABLED"
    robot.record()
    robot.run()
    closed = robot.gate.closed()
    assert closed is not None
    assert (closed.code, closed.kind, robot.log().attempt_count) == ("KEY_DISABLED", "blocked", 0)
    robot.gateway.refused.clear()
    run_until_done(robot)


@pytest.mark.parametrize("flavour", ["s3", "oss", "opaque"])
@pytest.mark.parametrize("checksums", [True, False])
def test_every_kind_of_etag_and_checksum_is_understood(
    tmp_path: Path, flavour: Any, checksums: bool
) -> None:
    robot = Robot(tmp_path / "recordings", store=FakeStore(checksums=checksums, etags=flavour))
    robot.record(size=5000)
    run_until_done(robot)


def test_a_damaged_part_is_sent_again(robot: Robot) -> None:
    robot.record(size=5000)
    robot.store.flip(2)
    run_until_done(robot)
    assert robot.log().attempt_count == 1


def test_a_part_that_always_arrives_damaged_is_counted_and_then_given_up(robot: Robot) -> None:
    robot.record(size=5000)
    robot.store.flip(10_000)
    for _ in range(10):
        robot.advance(1800)
    log = robot.log()
    assert (log.status, log.attempt_count, log.next_retry_at) == ("failed", 5, None)
    assert log.error is not None
    assert log.error.code == "checksum"
    assert robot.store.multiparts == {}, "what was given up is aborted"
    assert [session.stage for session in robot.gateway.sessions.values()] == ["terminal"]


# The tests below cover requests of the platform.


def half_done(robot: Robot) -> Recovery:
    robot.record(size=5000)
    robot.store.before = lambda call: _fail_after(robot, call, 2)
    robot.run()
    robot.store.before = lambda _call: None
    log = robot.log()
    assert phase_of(log) == "uploading"
    return Recovery(
        log.require_session().logical_upload_id,
        log.require_session().upload_id,
        "active",
        "continue",
        0,
        "",
        "",
    )


def test_restart_opens_a_new_session_from_the_old_one(robot: Robot) -> None:
    known = half_done(robot)
    robot.gateway.advice[known.logical_upload_id] = replace(known, action="restart")
    run_until_done(robot)
    assert len(robot.gateway.sessions) == 2
    assert robot.log().restarts == 1


@pytest.mark.parametrize("action", ["abort", "unspecified"])
def test_an_ended_session_is_forgotten_and_costs_one_attempt(robot: Robot, action: Any) -> None:
    known = half_done(robot)
    robot.gateway.advice[known.logical_upload_id] = replace(known, action=action)
    run_until_done(robot)
    assert len(robot.gateway.sessions) == 2
    assert robot.log().attempt_count == 2


def test_a_session_that_the_platform_does_not_know_is_forgotten(robot: Robot) -> None:
    half_done(robot)
    robot.gateway.sessions.clear()
    run_until_done(robot, strays=True)
    assert len(robot.gateway.sessions) == 1


def test_other_errors_of_recovery_keep_the_session(robot: Robot) -> None:
    known = half_done(robot)
    robot.gateway.fail("GetUploadRecovery", times=3)
    robot.advance(1800)
    assert robot.log().require_session().logical_upload_id == known.logical_upload_id
    run_until_done(robot)
    assert len(robot.gateway.sessions) == 1


def test_an_object_that_vanished_before_it_was_reported_is_sent_again(robot: Robot) -> None:
    robot.gateway.fail("CompleteUpload", times=3)
    robot.record()
    robot.run()
    assert phase_of(robot.log()) == "completing"
    robot.store.objects.clear()
    run_until_done(robot)
    assert robot.log().restarts == 1
    assert len(robot.gateway.sessions) == 2


def test_restarts_without_end_cost_attempts_and_end(robot: Robot) -> None:
    robot.record(size=5000)
    robot.store.fail("UploadPart", error=CUT, times=100_000)

    def always_restart(call: str) -> None:
        log = robot.log()
        if call == "GetUploadRecovery":
            known = Recovery(
                log.require_session().logical_upload_id,
                log.require_session().upload_id,
                "active",
                "restart",
                0,
                "",
                "",
            )
            robot.gateway.advice[log.require_session().logical_upload_id] = known

    robot.gateway.before = always_restart
    for _ in range(60):
        robot.advance(1800)
    log = robot.log()
    assert log.error is not None
    assert (log.status, log.error.code, log.next_retry_at) == ("failed", "too_many_restarts", None)
    assert log.restarts <= 3 * 5
    assert robot.store.multiparts == {}


def test_a_multipart_that_is_left_for_a_restart_is_given_up(robot: Robot) -> None:
    known = half_done(robot)
    robot.gateway.advice[known.logical_upload_id] = replace(known, action="restart")
    run_until_done(robot)


def test_what_can_not_be_given_up_now_is_owed_and_paid_later(robot: Robot) -> None:
    half_done(robot)
    (robot.folder / "a.mcap").unlink()
    robot.store.fail("AbortMultipartUpload", times=1)
    robot.advance(1800)
    assert robot.log().status == "failed"
    (orphan,) = robot.history.orphans()
    assert orphan.multipart_upload_id in robot.store.multiparts
    robot.upload.abort_orphans(robot.profiles.load())
    assert robot.history.orphans() == []
    assert robot.store.multiparts == {}
    assert [session.stage for session in robot.gateway.sessions.values()] == ["terminal"]


def test_a_session_that_a_killed_agent_goes_on_with_is_not_aborted_under_it(robot: Robot) -> None:
    half_done(robot)
    log = robot.log()
    session = log.require_session()
    # The agent was killed after it had given the session up, and before the document said so.
    robot.history.add_orphan(
        Orphan(
            0,
            log.asset_id,
            session.logical_upload_id,
            session.upload_id,
            session.multipart_upload_id,
            session.object_key,
            "INVALID_ARGUMENT",
            log.queued_at,
        )
    )
    robot.restart()

    def abort_in_mid_upload(call: str) -> None:
        if call == "UploadPart":
            robot.upload.abort_orphans(robot.profiles.load())

    robot.store.before = abort_in_mid_upload
    run_until_done(robot)
    assert robot.log().require_session().logical_upload_id == session.logical_upload_id
    robot.upload.abort_orphans(robot.profiles.load())
    assert list(robot.history.orphans()) == []
    assert robot.store.multiparts == {}
    assert robot.stored(robot.log()) == (robot.folder / "a.mcap").read_bytes()


def test_an_orphan_waits_while_the_cloud_is_away_and_ends_when_no_lease_can_be_had(
    robot: Robot,
) -> None:
    half_done(robot)
    (robot.folder / "a.mcap").unlink()
    robot.store.fail("AbortMultipartUpload", times=2)
    robot.advance(1800)
    with pytest.raises(CloudError, match="ServiceUnavailable"):
        robot.upload.abort_orphans(robot.profiles.load())
    assert len(robot.history.orphans()) == 1
    robot.gateway.sessions.clear()
    robot.upload.abort_orphans(robot.profiles.load())
    assert robot.history.orphans() == []


# The tests below cover changes of the file.


def test_a_file_replaced_while_it_uploads_fails_and_the_new_bytes_are_another_recording(
    robot: Robot,
) -> None:
    robot.record(size=5000)
    other = robot.folder / "other"
    other.write_bytes(b"x" * 5000)

    def replace_once(call: str) -> None:
        if _is_part(call) and other.exists():
            other.replace(robot.folder / "a.mcap")

    robot.store.before = replace_once
    robot.run()
    log = robot.log()
    assert (log.status, log.next_retry_at) == ("failed", None)
    assert log.error is not None
    assert log.error.code == "replaced"
    assert robot.store.objects == {}


def test_a_file_that_is_only_touched_settles_and_goes_on_in_its_session(robot: Robot) -> None:
    log = robot.record(size=5000)

    def touch_once(call: str) -> None:
        if _is_part(call):
            robot.store.before = lambda _call: None
            (robot.folder / "a.mcap").touch()

    robot.store.before = touch_once
    robot.run()
    assert (robot.log().status, robot.log().attempt_count) == ("pending", 0)
    session = robot.log().require_session().logical_upload_id
    robot.advance(2)
    assert (robot.log(log.id).status, robot.log().require_session().logical_upload_id) == (
        "completed",
        session,
    )


def test_a_file_deleted_while_it_uploads_is_read_to_its_end(robot: Robot) -> None:
    robot.record(size=5000)
    path = robot.folder / "a.mcap"
    content = path.read_bytes()
    robot.store.before = lambda call: path.unlink(missing_ok=True) if _is_part(call) else None
    robot.run()
    assert robot.log().status == "completed"
    assert robot.log().source_deleted
    assert robot.stored(robot.log()) == content


def test_a_file_renamed_before_its_turn_is_found_under_its_new_name(robot: Robot) -> None:
    robot.record()
    content = (robot.folder / "a.mcap").read_bytes()
    (robot.folder / "a.mcap").rename(robot.folder / "b.mcap")
    robot.find_names()
    robot.run()
    assert robot.stored(robot.log()) == content


def test_a_file_deleted_before_its_turn_is_gone_for_good(robot: Robot) -> None:
    robot.record()
    (robot.folder / "a.mcap").unlink()
    robot.run()
    log = robot.log()
    assert log.error is not None
    assert (log.status, log.error.code, log.next_retry_at) == ("failed", "gone", None)


def test_a_file_whose_folder_is_not_there_waits_for_it(robot: Robot) -> None:
    disk = robot.folder / "disk"
    disk.mkdir()
    robot.record("disk/a.mcap")
    disk.rename(robot.folder.parent / "unmounted")
    robot.run()
    log = robot.log()
    assert log.error is not None
    assert (log.error.code, log.attempt_count) == ("folder_missing", 0)
    assert log.next_retry_at is not None
    (robot.folder.parent / "unmounted").rename(disk)
    robot.advance(1800)
    assert robot.log().status == "completed"


def test_a_recording_of_too_many_parts_is_final_with_a_hint(robot: Robot) -> None:
    robot.gateway.part_size = 1
    robot.record(size=20_000)
    robot.run()
    log = robot.log()
    assert log.error is not None
    assert (log.status, log.error.code) == ("failed", "too_many_parts")
    assert "part size" in log.error.hint


def _is_part(call: str) -> bool:
    return call == "UploadPart"


def _fail_after(robot: Robot, call: str, count: int) -> None:
    if call == "UploadPart" and len(robot.store.sent_parts) >= count:
        raise CUT


def test_a_document_of_an_older_agent_takes_the_owner_of_the_file_that_its_session_begins_with(
    robot: Robot,
) -> None:
    log = robot.record()
    robot.history.amend(log.id, owner=None)
    robot.run()
    assert (robot.log().status, robot.log().owner) == ("completed", os.getuid())


@pytest.mark.parametrize("owner", [None, os.getuid() + 1])
def test_parts_of_files_of_several_owners_belong_to_nobody(robot: Robot, owner: int | None) -> None:
    log = robot.record()
    robot.store.fail("CompleteMultipartUpload")
    robot.run()
    assert robot.log().session
    robot.history.amend(log.id, owner=owner)
    robot.advance(3600)
    assert (robot.log().status, robot.log().owner) == ("completed", None)
