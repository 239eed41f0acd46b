"""The schedule of scans: when one is due, and whether a requested full scan has ended."""

from __future__ import annotations

import math
import threading

import pytest

from agent.discovery.scan_schedule import ScanSchedule
from tests.harness.fakes.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def schedule(clock: FakeClock) -> ScanSchedule:
    return ScanSchedule(clock, threading.RLock(), settle_seconds=2.0, rescan_seconds=60.0)


def scan(schedule: ScanSchedule, *, failed: bool = False) -> bool:
    """Do one scan and return whether it was a full scan."""
    run = schedule.begin()
    if not failed:
        schedule.complete()
    schedule.end(run, failed=failed)
    return run.number is None


def test_the_first_scan_and_those_that_were_asked_for_are_full(schedule: ScanSchedule) -> None:
    assert scan(schedule)
    assert not scan(schedule)
    schedule.request()
    assert scan(schedule)
    assert not scan(schedule)


def test_a_scan_that_was_asked_for_is_due_settle_seconds_after_the_last_one(
    schedule: ScanSchedule, clock: FakeClock
) -> None:
    scan(schedule)
    schedule.request()
    assert schedule.due == clock.monotonic() + 2
    clock.advance(10)
    schedule.request()
    assert schedule.due == clock.monotonic() - 8


def test_no_scan_is_due_while_one_runs_unless_another_one_is_asked_for(
    schedule: ScanSchedule,
) -> None:
    run = schedule.begin()
    assert schedule.due == math.inf
    schedule.request()
    assert math.isfinite(schedule.due)
    schedule.end(run, failed=False)
    assert scan(schedule)


def test_a_ticket_is_done_when_a_full_scan_that_began_after_it_has_ended(
    schedule: ScanSchedule,
) -> None:
    run = schedule.begin()
    ticket = schedule.next_full_scan()
    schedule.complete()
    schedule.end(run, failed=False)
    assert (ticket.begun, ticket.done) == (False, False), "this scan began before"
    scan(schedule)
    assert (ticket.begun, ticket.done) == (False, False), "this scan is no full one"
    schedule.request()
    run = schedule.begin()
    assert (ticket.begun, ticket.done) == (True, False)
    schedule.complete()
    assert ticket.done


def test_after_a_full_scan_that_failed_the_next_one_is_full_and_serves_the_ticket(
    schedule: ScanSchedule,
) -> None:
    ticket = schedule.next_full_scan()
    assert scan(schedule, failed=True)
    assert (ticket.begun, ticket.done) == (True, False)
    assert scan(schedule)
    assert ticket.done


def test_a_ticket_asks_for_no_scan_and_many_share_one(schedule: ScanSchedule) -> None:
    scan(schedule)
    due = schedule.due
    assert schedule.next_full_scan() is schedule.next_full_scan()
    assert schedule.due == due
    assert not scan(schedule)
