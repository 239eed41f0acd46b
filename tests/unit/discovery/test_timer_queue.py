"""The queue of the times at which files are examined again."""

from __future__ import annotations

import math
import random

from agent.discovery.timer_queue import Batch, TimerQueue


def batch_of(mtimes: list[int]) -> Batch:
    batch = Batch()
    for mtime in mtimes:
        batch.add(mtime, "/r", f"{mtime}.mcap")
    return batch


def taken(timers: TimerQueue) -> list[tuple[float, int]]:
    found = []
    while (first := timers.first()) != (math.inf, 0):
        due, mtime_ns, folder, name = timers.pop()
        assert (due, mtime_ns) == first
        assert (folder, name) == ("/r", f"{mtime_ns}.mcap")
        found.append(first)
    return found


def test_looks_come_by_due_and_then_by_the_age_of_the_file_however_they_were_given() -> None:
    timers, expected = TimerQueue(), []
    for due, count in ((3.0, 2500), (2.0, 10), (2.0, 1500), (5.0, 1000)):
        mtimes = random.Random(count).sample(range(10**18), count)
        timers.push_all(batch_of(mtimes), due)
        expected += [(due, mtime) for mtime in mtimes]
    for mtime in (1, 10**18):
        timers.push((2.0, mtime, "/r", f"{mtime}.mcap"))
        expected.append((2.0, mtime))
    assert taken(timers) == sorted(expected)


def test_files_of_any_date_come_in_order_and_the_many_of_one_walk_too() -> None:
    for count in (10, 2000):
        timers, batch = TimerQueue(), Batch()
        mtimes = [-(2**100), -1, *range(count), 2**100]
        for mtime in random.Random(count).sample(mtimes, len(mtimes)):
            batch.add(mtime, "/r", f"{mtime}.mcap")
        timers.push_all(batch, 1.0)
        assert [timers.pop()[3] for _ in mtimes] == [f"{mtime}.mcap" for mtime in mtimes]


def test_nothing_to_be_looked_at_is_never_due() -> None:
    timers = TimerQueue()
    timers.push_all(Batch(), 1.0)
    assert timers.first() == (math.inf, 0)
