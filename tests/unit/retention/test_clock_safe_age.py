"""The age of a recording, also on a clock that is set or wrong."""

from __future__ import annotations

from agent.retention.clock_safe_age import ClockSafeAge
from tests.harness.fakes.clock import FakeClock

BUILT = 1_780_000_000.0
NOW = 1_790_000_000.0
HOUR, YEAR = 3600.0, 365 * 86_400.0


class AgesOnFakeClock:
    """Ages of recordings, measured on a clock that the test moves."""

    def __init__(self, now: float = NOW) -> None:
        self.clock = FakeClock(now=now)
        self.offset: float | None = None
        self.age = ClockSafeAge(self.clock, built=BUILT, offset=lambda: self.offset)

    def of(self, moment: float, seen: float | None = None) -> float | None:
        return self.age.seconds_since(moment, self.clock.monotonic() if seen is None else seen)


def test_an_age_is_what_the_wall_clock_says() -> None:
    ages = AgesOnFakeClock()
    assert ages.of(NOW - HOUR) == HOUR
    ages.clock.advance(HOUR)
    assert ages.of(NOW - HOUR) == 2 * HOUR


def test_a_clock_from_before_the_build_date_tells_no_age() -> None:
    ages = AgesOnFakeClock(now=1000)
    assert ages.of(NOW - HOUR) is None
    ages.clock.advance(YEAR)
    assert ages.of(500.0) is None


def test_a_clock_that_is_set_tells_the_age_at_once() -> None:
    ages = AgesOnFakeClock(now=1000)
    ages.age.observe_clocks()
    ages.clock.set_now(NOW)
    assert ages.of(NOW - HOUR) == HOUR


def test_a_moment_from_an_unknown_time_counts_from_the_first_sight() -> None:
    ages = AgesOnFakeClock(now=1000)
    seen = ages.clock.monotonic()
    ages.clock.advance(HOUR)
    ages.clock.set_now(NOW)
    assert ages.of(1000.0, seen) == HOUR
    ages.clock.advance(HOUR)
    assert ages.of(1000.0, seen) == 2 * HOUR


def test_a_moment_that_is_still_to_come_counts_from_the_first_sight() -> None:
    ages = AgesOnFakeClock()
    seen = ages.clock.monotonic()
    ages.clock.advance(HOUR)
    assert ages.of(NOW + YEAR, seen) == HOUR


def test_a_jump_forward_makes_nothing_older() -> None:
    ages = AgesOnFakeClock()
    ages.clock.set_now(NOW + YEAR)
    assert ages.of(NOW - HOUR) == HOUR
    ages.clock.advance(HOUR)
    assert ages.of(NOW - HOUR) == 2 * HOUR
    ages.clock.set_now(NOW + 3 * YEAR)
    assert ages.of(NOW - HOUR) == 2 * HOUR


def test_what_came_after_a_jump_has_its_own_age() -> None:
    ages = AgesOnFakeClock()
    ages.clock.set_now(NOW + YEAR)
    ages.age.observe_clocks()
    ages.clock.advance(1)
    moment = ages.clock.now()
    ages.clock.advance(HOUR)
    assert ages.of(moment) == HOUR


def test_a_jump_backward_makes_nothing_older_either() -> None:
    ages = AgesOnFakeClock()
    ages.clock.set_now(NOW - 2 * HOUR)
    age = ages.of(NOW - 3 * HOUR)
    assert age == HOUR
    ages.clock.set_now(NOW)
    age = ages.of(NOW - 3 * HOUR)
    assert age is not None
    assert age <= 3 * HOUR


def test_a_clock_put_right_in_small_steps_is_no_jump() -> None:
    ages = AgesOnFakeClock()
    for _ in range(10):
        ages.clock.set_now(ages.clock.now() + 59)
        ages.age.observe_clocks()
    assert ages.of(NOW) == 590


def test_the_cloud_tells_the_age_where_this_clock_is_unknown() -> None:
    ages = AgesOnFakeClock(now=1000)
    ages.offset = NOW - 1000
    assert ages.of(NOW - HOUR) == HOUR


def test_a_clock_that_was_wrong_before_the_start_is_overruled_by_the_clouds() -> None:
    ages = AgesOnFakeClock(now=NOW + YEAR)
    assert ages.of(NOW - HOUR) == YEAR + HOUR
    ages.offset = -YEAR
    assert ages.of(NOW - HOUR) == HOUR


def test_a_clock_that_always_was_behind_makes_nothing_older_than_it_is() -> None:
    ages = AgesOnFakeClock(now=BUILT + HOUR)
    ages.offset = NOW - BUILT - HOUR
    assert ages.of(BUILT) == HOUR
