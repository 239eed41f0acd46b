"""Long failures on the fake clock: what a robot without an operator does in hours and days."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.model.errors import CloudError
from agent.model.sync_log import SyncLog
from agent.model.values import CredentialLease, UploadSession
from tests.harness.fakes.gateway import GATEWAY_CALLS
from tests.harness.fakes.store import STORE_CALLS, FakeStore, FakeTarget
from tests.harness.recorders import write_mcap
from tests.harness.robot import Robot

MINUTE, HOUR, DAY = 60, 3600, 86_400
FOR_EVER = 10**9


class StoreWithOneBadKey(FakeStore):
    """A store that answers 500 to every request about one key.

    The key is the first one that the store gets.
    """

    bad_key = ""

    def at(self, session: UploadSession, lease: Callable[[], CredentialLease]) -> FakeTarget:
        self.bad_key = self.bad_key or session.object_key

        def refuse() -> CredentialLease:
            self.calls.append("refused")
            raise CloudError("ListMultipartUploads", "InternalError", status=500)

        return super().at(session, refuse if session.object_key == self.bad_key else lease)


def store_says(robot: Robot, code: str, status: int) -> None:
    for call in STORE_CALLS:
        robot.store.fail(call, error=CloudError(call, code, status=status), times=FOR_EVER)


def gateway_says(robot: Robot, code: str) -> None:
    for call in GATEWAY_CALLS:
        robot.gateway.fail(call, error=CloudError(call, code), times=FOR_EVER)


def record_many(robot: Robot, count: int) -> None:
    for number in range(count):
        robot.record(f"{number:03}.mcap", size=300, seed=number)


def pass_time(robot: Robot, seconds: float, step: float = MINUTE) -> None:
    until = robot.clock.monotonic() + seconds
    while robot.clock.monotonic() < until:
        robot.advance(step)


def logs(robot: Robot) -> list[SyncLog]:
    return list(robot.history.documents.values())


def assert_all_complete_at_the_first_attempt(robot: Robot) -> None:
    robot.run(most=10_000)
    pass_time(robot, HOUR)
    assert {(log.status, log.attempt_count) for log in logs(robot)} == {("completed", 1)}
    for log in logs(robot):
        assert robot.stored(log) == Path(log.path).read_bytes()
    assert robot.store.multiparts == {}


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path / "recordings", upload={"max_concurrent": 2})


@pytest.fixture
def writes(robot: Robot) -> list[str]:
    """The names of the history's transactions, one entry for each."""
    written: list[str] = []
    robot.history.before = written.append
    return written


def test_a_day_without_gateway_costs_500_queued_recordings_no_attempt_and_no_line(
    robot: Robot, writes: list[str]
) -> None:
    gateway_says(robot, "UNAVAILABLE")
    record_many(robot, 500)
    pass_time(robot, HOUR)
    writes.clear()
    before = dict(robot.history.documents)
    asked = len(robot.gateway.calls)
    pass_time(robot, DAY)
    assert robot.history.documents == before
    assert writes == []
    assert asked < len(robot.gateway.calls) < asked + 500, "it went on asking, and not all the time"
    robot.gateway.mend()
    assert_all_complete_at_the_first_attempt(robot)


def test_a_day_without_store_costs_no_more_than_a_sessions_ids_a_probe(
    robot: Robot, writes: list[str]
) -> None:
    store_says(robot, "ServiceUnavailable", 503)
    record_many(robot, 500)
    pass_time(robot, HOUR)
    writes.clear()
    probes = len(
        [
            call
            for call in robot.gateway.calls
            if call in {"CreateLogicalUpload", "GetUploadRecovery"}
        ]
    )
    before = dict(robot.history.documents)
    pass_time(robot, DAY)
    probes = (
        len(
            [
                call
                for call in robot.gateway.calls
                if call in {"CreateLogicalUpload", "GetUploadRecovery"}
            ]
        )
        - probes
    )
    changed = [log for log in logs(robot) if log != before[log.id]]
    assert 0 < probes < 100
    assert len(writes) == len(changed) <= probes
    assert all(log.session and log.status == "pending" for log in changed)
    robot.store.mend()
    assert_all_complete_at_the_first_attempt(robot)


def test_a_recording_that_always_fails_alone_keeps_nobody_waiting_and_ends_with_its_reason(
    tmp_path: Path,
) -> None:
    robot = Robot(tmp_path / "recordings", store=StoreWithOneBadKey(), upload={"max_concurrent": 2})
    record_many(robot, 51)
    pass_time(robot, 3 * MINUTE, step=10)
    bad, *good = logs(robot)
    assert {log.status for log in good} == {"completed"}
    assert bad.open
    for number in range(24):
        late = robot.record(f"late-{number}.mcap", size=300, seed=1000 + number)
        pass_time(robot, MINUTE, step=10)
        assert robot.log(late.id).status == "completed"
        pass_time(robot, 9 * MINUTE, step=10)
    bad = robot.log(bad.id)
    assert bad.error is not None
    assert (bad.status, bad.next_retry_at, bad.error.code, bad.attempt_count) == (
        "failed",
        None,
        "InternalError",
        5,
    )
    assert {log.attempt_count for log in logs(robot) if log.id != bad.id} == {1}


def test_ten_minutes_of_internal_errors_for_everything_fail_nothing_for_good(robot: Robot) -> None:
    record_many(robot, 20)
    robot.advance(1)
    gateway_says(robot, "INTERNAL")
    for number in range(20, 40):
        robot.record(f"{number:03}.mcap", size=300, seed=number)
    pass_time(robot, 10 * MINUTE, step=1)
    assert [log for log in logs(robot) if not log.open and log.status == "failed"] == []
    assert sum(log.status == "completed" for log in logs(robot)) == 20
    robot.gateway.mend()
    assert_all_complete_at_the_first_attempt(robot)


def test_a_bucket_that_denies_everything_for_a_day_and_then_permits_needs_nobody_here(
    robot: Robot,
) -> None:
    store_says(robot, "AccessDenied", 403)
    record_many(robot, 30)
    pass_time(robot, DAY)
    closed = robot.gate.closed()
    assert closed is not None
    assert (closed.kind, closed.code) == ("blocked", "AccessDenied")
    assert [log for log in logs(robot) if log.status != "pending"] == []
    robot.store.mend()
    assert_all_complete_at_the_first_attempt(robot)


def test_a_recording_that_its_own_bytes_replace_in_mid_upload_is_uploaded_after_all(
    robot: Robot,
) -> None:
    path = write_mcap(robot.folder / "a.mcap")
    robot.find_names()

    def replace_once(call: str) -> None:
        if call == "UploadPart" and not robot.store.sent_parts:
            robot.store.before = lambda _call: None
            copy = path.with_suffix(".tmp")
            copy.write_bytes(path.read_bytes())
            copy.replace(path)
            # Discovery sees the other file while the upload still goes on.
            robot.find_names()

    robot.store.before = replace_once
    robot.run()
    robot.settle()
    assert [(log.status, log.error and log.error.code) for log in logs(robot)] == [
        ("failed", "replaced"),
        ("completed", None),
    ]
    assert robot.stored(logs(robot)[1]) == path.read_bytes()
