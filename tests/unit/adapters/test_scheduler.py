"""The times at which periodic work is done."""

from __future__ import annotations

import logging
import threading
from datetime import datetime, timedelta, timezone

import pytest

from agent.adapters.scheduler import Every, Scheduler
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


def test_a_job_that_still_runs_at_its_next_time_is_told_once_an_hour(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on, turns = threading.Event(), threading.Semaphore(0)
    now = 0.0

    def take_long() -> None:
        go_on.wait(60)

    def take_a_turn() -> None:
        turns.release()

    caplog.set_level(logging.INFO)
    schedule = Scheduler(lambda: now)
    schedule.set([(take_long, 0.05), (take_a_turn, 0.05)])
    schedule.start()
    try:
        for told in (1, 2):
            for _ in range(5):
                assert turns.acquire(timeout=30)
            messages = [record.message for record in caplog.records if "skipped" in record.message]
            assert len(messages) == told
            assert all("take_long" in message for message in messages)
            now += 3600.0
    finally:
        go_on.set()
        schedule.stop()


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
