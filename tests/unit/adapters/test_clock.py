"""The clocks of the system."""

from __future__ import annotations

import threading
import time

from agent.adapters.clock import RealClock


def test_the_monotonic_clock_counts_the_time_asleep_too() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= RealClock().monotonic() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_wall_clock_counts_from_1970() -> None:
    before = time.time()
    assert before <= RealClock().now() <= time.time()


def test_waiting_takes_as_long_as_asked() -> None:
    clock = RealClock()
    before = clock.monotonic()
    clock.wait(0.02)
    assert clock.monotonic() - before >= 0.02


def test_stopping_wakes_those_who_wait_and_those_who_come_later() -> None:
    clock = RealClock()
    waiter = threading.Thread(target=clock.wait, args=(600,))
    waiter.start()
    clock.stop()
    waiter.join(10)
    assert not waiter.is_alive()
    clock.wait(600)
