from __future__ import annotations

from agent.retention.clock_safe_age import ClockSafeAge
from tests.harness.fakes.clock import FakeClock

BUILT = 1_780_000_000.0
NOW = 1_790_000_000.0
HOUR, YEAR = 3600.0, 365 * 86_400.0


class Looked:
    """Ages on a clock that is moved by hand."""

    def __init__(self, now: float = NOW) -> None:
        self.clock = FakeClock(now=now)
        self.offset: float | None = None
        self.age = ClockSafeAge(self.clock, built=BUILT, offset=lambda: self.offset)

    def of(self, moment: float, seen: float | None = None) -> float | None:
        return self.age.seconds_since(moment, self.clock.monotonic() if seen is None else seen)


def test_an_age_is_what_the_wall_clock_says() -> None:
    looked = Looked()
    assert looked.of(NOW - HOUR) == HOUR
    looked.clock.advance(HOUR)
    assert looked.of(NOW - HOUR) == 2 * HOUR


def test_a_clock_from_before_the_build_date_tells_no_age() -> None:
    looked = Looked(now=1000)
    assert looked.of(NOW - HOUR) is None
    looked.clock.advance(YEAR)
    assert looked.of(500.0) is None


def test_a_clock_that_is_set_tells_the_age_at_once() -> None:
    looked = Looked(now=1000)
    looked.age.observe_clocks()
    looked.clock.set_now(NOW)
    assert looked.of(NOW - HOUR) == HOUR


def test_a_moment_from_an_unknown_time_counts_from_the_first_sight() -> None:
    looked = Looked(now=1000)
    seen = looked.clock.monotonic()
    looked.clock.advance(HOUR)
    looked.clock.set_now(NOW)
    assert looked.of(1000.0, seen) == HOUR
    looked.clock.advance(HOUR)
    assert looked.of(1000.0, seen) == 2 * HOUR


def test_a_moment_that_is_still_to_come_counts_from_the_first_sight() -> None:
    looked = Looked()
    seen = looked.clock.monotonic()
    looked.clock.advance(HOUR)
    assert looked.of(NOW + YEAR, seen) == HOUR


def test_a_jump_forward_makes_nothing_older() -> None:
    looked = Looked()
    looked.clock.set_now(NOW + YEAR)
    assert looked.of(NOW - HOUR) == HOUR
    looked.clock.advance(HOUR)
    assert looked.of(NOW - HOUR) == 2 * HOUR
    looked.clock.set_now(NOW + 3 * YEAR)
    assert looked.of(NOW - HOUR) == 2 * HOUR


def test_what_came_after_a_jump_has_its_own_age() -> None:
    looked = Looked()
    looked.clock.set_now(NOW + YEAR)
    looked.age.observe_clocks()
    looked.clock.advance(1)
    moment = looked.clock.now()
    looked.clock.advance(HOUR)
    assert looked.of(moment) == HOUR


def test_a_jump_backward_makes_nothing_older_either() -> None:
    looked = Looked()
    looked.clock.set_now(NOW - 2 * HOUR)
    age = looked.of(NOW - 3 * HOUR)
    assert age == HOUR
    looked.clock.set_now(NOW)
    age = looked.of(NOW - 3 * HOUR)
    assert age is not None
    assert age <= 3 * HOUR


def test_a_clock_put_right_in_small_steps_is_no_jump() -> None:
    looked = Looked()
    for _ in range(10):
        looked.clock.set_now(looked.clock.now() + 59)
        looked.age.observe_clocks()
    assert looked.of(NOW) == 590


def test_the_cloud_tells_the_age_where_this_clock_is_unknown() -> None:
    looked = Looked(now=1000)
    looked.offset = NOW - 1000
    assert looked.of(NOW - HOUR) == HOUR


def test_a_clock_that_was_wrong_before_the_start_is_overruled_by_the_clouds() -> None:
    looked = Looked(now=NOW + YEAR)
    assert looked.of(NOW - HOUR) == YEAR + HOUR
    looked.offset = -YEAR
    assert looked.of(NOW - HOUR) == HOUR


def test_a_clock_that_always_was_behind_makes_nothing_older_than_it_is() -> None:
    looked = Looked(now=BUILT + HOUR)
    looked.offset = NOW - BUILT - HOUR
    assert looked.of(BUILT) == HOUR
