"""The gate: one answer to the question whether anything may be sent now."""

from __future__ import annotations

import pytest

from agent.gate.gate import Delays, Gate
from agent.model.errors import CloudError, GateClosedError, judge
from tests.harness.fakes.clock import FakeClock

REFUSED = CloudError("UploadPart", "refused")
DENIED = CloudError("UploadPart", "AccessDenied", status=403)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def gate(clock: FakeClock) -> Gate:
    return Gate(clock, Delays(base=30, maximum=1800, jitter=0))


def close(gate: Gate, error: CloudError = REFUSED) -> bool:
    return gate.close(error, judge(error))


def test_a_new_gate_is_open(gate: Gate) -> None:
    assert gate.closed() is None
    gate.check(probe=False)


def test_a_closed_gate_names_its_reason_and_stops_all_but_the_probe(gate: Gate) -> None:
    assert close(gate)
    with pytest.raises(GateClosedError, match="refused"):
        gate.check(probe=False)
    gate.check(probe=True)


def test_only_the_call_that_closed_it_opens_it(gate: Gate) -> None:
    close(gate)
    gate.passed("HeadObject", who=1)
    assert gate.closed() is not None
    gate.passed("UploadPart", who=1)
    assert gate.closed() is None


def test_a_later_failure_of_another_call_does_not_change_what_opens_it(gate: Gate) -> None:
    close(gate)
    assert not close(gate, CloudError("CreateLogicalUpload", "UNAVAILABLE"))
    gate.passed("CreateLogicalUpload", who=1)
    assert gate.closed() is not None


def test_one_probe_at_a_time_and_only_when_it_is_due(gate: Gate, clock: FakeClock) -> None:
    close(gate)
    assert not gate.begin_probe(1)
    clock.advance(30)
    assert gate.begin_probe(1)
    assert not gate.begin_probe(1)
    gate.end_probe(synced=False)
    assert not gate.begin_probe(1)
    clock.advance(30)
    assert gate.begin_probe(1)


def test_offline_probes_come_at_growing_distances_up_to_the_maximum(
    gate: Gate, clock: FakeClock
) -> None:
    close(gate)
    waits = []
    for _ in range(9):
        closed = gate.closed()
        assert closed is not None
        assert closed.next_probe is not None
        waits.append(closed.next_probe - clock.monotonic())
        clock.advance(waits[-1])
        assert gate.begin_probe(1)
        close(gate)
        gate.end_probe(synced=False)
    assert waits == [30, 60, 120, 240, 480, 960, 1800, 1800, 1800]


def test_blocked_probes_come_at_the_maximum_and_at_once_when_the_cause_changes(
    gate: Gate, clock: FakeClock
) -> None:
    close(gate, DENIED)
    clock.advance(1799)
    assert not gate.begin_probe(1)
    gate.probe_now()
    assert gate.begin_probe(1)


def test_retry_after_is_honoured(gate: Gate, clock: FakeClock) -> None:
    close(gate, CloudError("UploadPart", "SlowDown", status=503, retry_after=100))
    clock.advance(99)
    assert not gate.begin_probe(1)
    clock.advance(1)
    assert gate.begin_probe(1)


def test_a_probe_that_comes_through_whole_opens_the_gate_whatever_closed_it(
    gate: Gate, clock: FakeClock
) -> None:
    close(gate, CloudError("CreateMultipartUpload", "refused"))
    clock.advance(30)
    assert gate.begin_probe(1)
    gate.end_probe(synced=True)
    assert gate.closed() is None


def test_a_hold_stops_probes_too_until_it_is_released(gate: Gate, clock: FakeClock) -> None:
    close(gate)
    clock.advance(30)
    assert gate.hold("disk_full", "the disk is full")
    assert not gate.hold("disk_full", "the disk is full")
    assert not gate.begin_probe(1)
    with pytest.raises(GateClosedError, match="the disk is full"):
        gate.check(probe=True)
    assert gate.is_held_by("disk_full")
    assert gate.release("disk_full")
    assert not gate.is_held_by("disk_full")
    assert gate.begin_probe(1)


def test_a_probe_is_due_exactly_while_some_document_may_begin_one(
    gate: Gate, clock: FakeClock
) -> None:
    def agrees() -> bool:
        due = gate.probe_due()
        begun = [who for who in (1, 2) if not gate._probing and gate.begin_probe(who)]
        if begun:
            # The question alone must not count as a probe, so the flag is set back.
            gate._probing = False
        assert due == bool(begun)
        return due

    assert not agrees()
    close(gate)
    assert not agrees()
    clock.advance(30)
    assert agrees()
    gate.hold("pause", "an operator paused the agent")
    assert not agrees()
    gate.release("pause")
    assert gate.begin_probe(1)
    assert not gate.probe_due(), "one at a time"
    gate.end_probe(synced=False)
    assert not agrees()
    gate.probe_now()
    assert agrees()
    gate.passed("UploadPart", who=1)
    assert not agrees()
    error = CloudError("UploadPart", "InternalError", status=500)
    gate.close(error, judge(error), alone=1)
    assert agrees(), "whether it is that document's own fault is found out at once"


def test_a_hold_that_stands_takes_the_new_reason_and_date_and_keeps_its_beginning(
    gate: Gate, clock: FakeClock
) -> None:
    since = clock.monotonic()
    assert gate.hold("windows", "closed", next_probe=since + 60)
    clock.advance(10)
    assert not gate.hold("windows", "still closed", next_probe=since + 90)
    closed = gate.closed()
    assert closed is not None
    assert (closed.reason, closed.since, closed.next_probe) == ("still closed", since, since + 90)


def test_it_knows_whether_others_passed_a_call_since(gate: Gate, clock: FakeClock) -> None:
    gate.passed("CompleteUpload", who=1)
    before = clock.monotonic()
    assert gate.others_passed("CompleteUpload", who=2, since=before - 1)
    assert not gate.others_passed("CompleteUpload", who=1, since=before - 1)
    assert not gate.others_passed("CompleteUpload", who=2, since=before)
    clock.advance(1)
    for who in (2, 2, 2):
        gate.passed("CompleteUpload", who=who)
    assert gate.others_passed("CompleteUpload", who=1, since=before)
    assert gate.others_passed("CompleteUpload", who=2, since=before - 1)


@pytest.mark.parametrize(
    ("attempt", "least", "most"), [(1, 30, 60), (2, 60, 90), (6, 960, 990), (7, 1800, 1800)]
)
def test_a_delay_doubles_is_spread_and_capped(attempt: int, least: float, most: float) -> None:
    delays = Delays(base=30, maximum=1800, jitter=30)
    drawn = [delays.after(attempt) for _ in range(200)]
    assert least <= min(drawn)
    assert max(drawn) <= most
    assert delays.after(10_000) == 1800


def test_whether_a_refusal_is_one_recordings_own_is_found_out_at_once(gate: Gate) -> None:
    error = CloudError("UploadPart", "InternalError", status=500)
    assert gate.close(error, judge(error), alone=1)
    assert not gate.begin_probe(1)
    assert gate.begin_probe(2)
    gate.close(error, judge(error), alone=2)
    gate.end_probe(synced=False)
    assert not gate.begin_probe(3), "two were refused: it is everybody's"


def test_a_store_that_asks_for_time_gets_it(gate: Gate) -> None:
    error = CloudError("UploadPart", "SlowDown", status=503, retry_after=100)
    gate.close(error, judge(error), alone=1)
    assert not gate.begin_probe(2)
