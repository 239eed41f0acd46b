"""The times at which periodic work is done."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta, timezone

import pytest

from agent.adapters.scheduler import Every, OncePerHour, Scheduler
from tests.harness.shortages import NoThreads

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("period", "now", "due"), [(1, 0.004, 1), (1, 0.9, 1), (2, 0.004, 2), (10, 3.7, 13)]
)
def test_jobs_fall_on_the_second_so_that_the_machine_wakes_for_all_at_once(
    period: float, now: float, due: float
) -> None:
    assert Every(period).get_next_fire_time(NOON, after(now)) == after(due)


def test_what_is_done_more_often_than_each_second_is_done_so() -> None:
    assert Every(0.05).get_next_fire_time(NOON, after(0.5)) == after(0.55)


def test_the_first_time_is_at_once() -> None:
    assert Every(3600).get_next_fire_time(None, after(0.5)) == after(0.5)


@pytest.mark.parametrize("jump", [-86400.0, 86400.0])
def test_a_clock_that_jumps_neither_stalls_nor_floods(jump: float) -> None:
    assert Every(2).get_next_fire_time(NOON, after(jump)) == after(jump + 2)


def test_a_job_that_takes_long_is_no_warning_each_time_it_is_due(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on, turns = threading.Event(), threading.Semaphore(0)

    def take_long() -> None:
        go_on.wait(60)

    def take_a_turn() -> None:
        turns.release()

    schedule = Scheduler()
    schedule.set([(take_long, 0.05), (take_a_turn, 0.05)])
    schedule.start()
    try:
        for _ in range(5):
            assert turns.acquire(timeout=30)
    finally:
        go_on.set()
        schedule.stop()
    assert len(caplog.records) <= 1


def test_warnings_of_the_library_are_one_line_an_hour() -> None:
    time = 0.0
    once_an_hour = OncePerHour(lambda: time)
    warning, error = (
        logging.makeLogRecord({"levelno": level}) for level in (logging.WARNING, logging.ERROR)
    )
    passed = []
    for _ in range(2 * 3600):
        passed.append(once_an_hour.filter(warning))
        time += 1.0
    assert passed.count(True) == 2
    assert [once_an_hour.filter(error) for _ in range(3)] == [True] * 3


def test_jobs_are_done_though_no_thread_can_be_started_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lack = NoThreads(monkeypatch)
    schedule = Scheduler()
    together = threading.Barrier(4, timeout=10)
    done = threading.Event()

    def first() -> None:
        together.wait()

    def second() -> None:
        together.wait()

    def third() -> None:
        together.wait()

    schedule.set([(first, 3600), (second, 3600), (third, 3600)])
    schedule.start()
    try:
        lack.lacking = True
        together.wait()
        schedule.set([(done.set, 3600)])
        assert done.wait(10)
    finally:
        lack.lacking = False
        schedule.stop()
