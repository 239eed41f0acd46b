"""How many parts go at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.upload.concurrency import MOST, MOST_IN_ALL, PartConcurrency, Run

MBIT = 1e6 / 8
LOOK = 0.5
HOUR = 3600.0
Link = Callable[[int], float]  # parts in flight → bytes a second


class Road:
    """Uploads that share a link; nothing is real but the pace."""

    def __init__(self, pace: PartConcurrency, link: Link, uploads: int = 1) -> None:
        self.pace = pace
        self.link = link
        self.now = 1000.0
        self.sent = 0.0
        self.widths: list[int] = []
        self.runs: list[Run] = []
        for _ in range(uploads):
            self.begin()

    def begin(self) -> Run:
        run = self.pace.begin(lambda: int(self.sent / max(1, len(self.runs))))
        self.runs.append(run)
        return run

    def end(self, run: Run) -> None:
        self.runs.remove(run)
        self.pace.end(run)

    def drive(self, seconds: float, *, more: bool = True) -> int:
        """Let time pass with all uploads at the pace's width; returns that width at the end."""
        for _ in range(int(seconds / LOOK)):
            width = self.pace.width
            self.sent += self.link(width * len(self.runs)) * LOOK
            self.now += LOOK
            for run in list(self.runs):
                self.pace.look(run, self.now, flying=width, more=more)
            self.widths.append(self.pace.width)
        return self.pace.width


def capped(connection: float, link: float) -> Link:
    """Each connection is worth so much, up to what the link has."""
    return lambda flying: min(flying * connection, link)


def test_a_far_store_with_slow_connections_gets_all_that_are_allowed_within_half_a_minute() -> None:
    assert Road(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT)).drive(30) == MOST


def test_a_link_that_one_connection_fills_ends_with_one() -> None:
    road = Road(PartConcurrency(), capped(20 * MBIT, 20 * MBIT))
    road.drive(HOUR)
    assert sorted(road.widths)[len(road.widths) // 2] == 1


def test_a_width_is_doubled_only_while_that_makes_it_faster() -> None:
    road = Road(PartConcurrency(), capped(20 * MBIT, 160 * MBIT))
    road.drive(HOUR)
    assert sorted(road.widths)[len(road.widths) // 2] == 8


def test_the_wait_for_answers_is_filled_with_more_parts() -> None:
    road = Road(
        PartConcurrency(),
        lambda flying: 80 * MBIT if flying < 8 and answers_are_awaited() else 160 * MBIT,
    )

    def answers_are_awaited() -> bool:
        return int(road.now / LOOK) % 6 == 0  # once in the 3 s that a part takes

    road.drive(HOUR)
    assert sorted(road.widths)[len(road.widths) // 2] == 8


def test_what_one_upload_found_serves_the_next() -> None:
    road = Road(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT))
    road.drive(30)
    road.end(road.runs[0])
    road.begin()
    assert road.pace.width == MOST


def test_two_uploads_measure_together() -> None:
    road = Road(PartConcurrency(), capped(20 * MBIT, 320 * MBIT), uploads=2)
    road.drive(HOUR)
    assert sorted(road.widths)[len(road.widths) // 2] == 8


def test_an_upload_that_has_too_few_parts_teaches_nothing() -> None:
    road = Road(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT))
    assert road.drive(HOUR, more=False) == 4


def test_throughput_is_not_judged_while_parts_beyond_the_width_still_fly() -> None:
    road = Road(PartConcurrency(), capped(20 * MBIT, 40 * MBIT))
    run = road.runs[0]
    while road.pace.width >= 4:
        road.drive(LOOK)
    narrower = road.pace.width
    for _ in range(1000):
        road.now += LOOK
        road.sent += 320 * MBIT * LOOK
        road.pace.look(run, road.now, flying=narrower + 1, more=True)
        assert road.pace.width == narrower


def test_a_trial_that_an_upload_breaks_off_by_ending_is_undone() -> None:
    road = Road(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT), uploads=2)
    road.drive(6)
    assert road.pace.width == 8
    road.end(road.runs[0])
    assert road.pace.width == 4


def test_failures_halve_the_width_once_for_each_fault() -> None:
    road = Road(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT))
    road.drive(30)
    for _ in range(MOST):
        road.pace.failed(road.now)
    assert road.pace.width == MOST // 2
    road.pace.failed(road.now + 60)
    assert road.pace.width == MOST // 4


def test_after_a_failure_it_rests_and_then_finds_its_way_back() -> None:
    road = Road(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT))
    road.drive(30)
    road.pace.failed(road.now)
    assert road.drive(50) == MOST // 2
    assert road.drive(30) == MOST


def test_at_a_crawl_it_judges_by_enough_bytes_not_by_seconds() -> None:
    road = Road(PartConcurrency(), capped(50_000, 50_000))
    road.drive(30)
    assert set(road.widths) == {4}


@pytest.mark.parametrize("fixed", [1, 7, MOST])
def test_a_number_in_the_settings_is_the_width(fixed: int) -> None:
    road = Road(PartConcurrency(fixed), capped(20 * MBIT, 1000 * MBIT))
    road.drive(300)
    road.pace.failed(road.now)
    assert (set(road.widths), road.pace.width) == ({fixed}, fixed)


@given(uploads=st.integers(1, 100), fixed=st.sampled_from([0, 1, 10, MOST]))
def test_many_uploads_share_what_the_agent_may_have_and_each_has_one(
    uploads: int, fixed: int
) -> None:
    pace = PartConcurrency(fixed)
    for _ in range(uploads):
        pace.begin(lambda: 0)
    assert pace.width == 1 or pace.width * uploads <= MOST_IN_ALL
    assert 1 <= pace.width <= MOST


# Not just at a threshold, where rounding decides.
gains = st.lists(
    st.one_of(st.floats(0.5, 1.04), st.floats(1.06, 1.09), st.floats(1.11, 2.0)),
    min_size=4,
    max_size=4,
)


def shaped(first: float, factors: Sequence[float]) -> Link:
    """Each doubling multiplies throughput: by less each time, as links do."""
    falling = sorted(factors, reverse=True)

    def rate(flying: int) -> float:
        value, width = first, 1
        for factor in falling:
            if width * 2 > flying:
                break
            value, width = value * factor, width * 2
        return value

    return rate


@settings(deadline=None, max_examples=30)
@given(first=st.floats(3e5, 1e8), factors=gains)  # bytes a second; at less a trial lasts minutes
def test_it_converges_on_a_width_that_no_neighbour_beats(
    first: float, factors: Sequence[float]
) -> None:
    link = shaped(first, factors)
    road = Road(PartConcurrency(), link)
    road.drive(2 * HOUR)
    late = road.widths[len(road.widths) // 2 :]
    settled = max(set(late), key=late.count)
    assert late.count(settled) > 0.9 * len(late)
    assert settled == MOST or link(settled * 2) < link(settled) * 1.12
    assert settled == 1 or link(settled // 2) < link(settled) * 0.97


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["drive", "fail", "begin", "end", "idle", "back"]),
            st.floats(0, 300),
            st.floats(0, 1e9),
        ),
        max_size=60,
    )
)
def test_whatever_happens_the_width_stays_between_one_and_sixteen(
    steps: list[tuple[str, float, float]],
) -> None:
    road = Road(PartConcurrency(), lambda _: 0.0)
    for step, seconds, rate in steps:
        road.link = lambda _, rate=rate: rate  # type: ignore[misc] # bound now
        if step == "begin":
            road.begin()
        elif step == "end" and road.runs:
            road.end(road.runs[0])
        elif step == "fail":
            road.now += seconds
            road.pace.failed(road.now)
        elif step == "back":
            road.sent *= 0.5
        else:
            road.drive(seconds / 10, more=step != "idle")
        assert 1 <= road.pace.width <= MOST
        assert road.pace.width * len(road.runs) <= max(MOST_IN_ALL, len(road.runs))
