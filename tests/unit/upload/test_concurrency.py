"""How many parts are sent at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.upload.concurrency import MAX_PARTS_IN_FLIGHT, MAX_PARTS_PER_UPLOAD, PartConcurrency, Run

MBIT = 1e6 / 8
MEASURE_INTERVAL_SECONDS = 0.5
HOUR_SECONDS = 3600.0
# The throughput of a link in bytes per second, for a number of parts in flight.
Link = Callable[[int], float]


class SimulatedUploads:
    """Uploads that share a simulated link. Only the concurrency control is real."""

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

    def run_for(self, seconds: float, *, more: bool = True) -> int:
        """Let time pass with all uploads at the current width. Return the width at the end."""
        for _ in range(int(seconds / MEASURE_INTERVAL_SECONDS)):
            width = self.pace.width
            self.sent += self.link(width * len(self.runs)) * MEASURE_INTERVAL_SECONDS
            self.now += MEASURE_INTERVAL_SECONDS
            for run in list(self.runs):
                self.pace.look(run, self.now, flying=width, more=more)
            self.widths.append(self.pace.width)
        return self.pace.width


def capped(connection: float, link: float) -> Link:
    """Return a link where each connection has a limit, up to the limit of the link."""
    return lambda flying: min(flying * connection, link)


def test_a_far_store_with_slow_connections_gets_all_that_are_allowed_within_half_a_minute() -> None:
    assert (
        SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT)).run_for(30)
        == MAX_PARTS_PER_UPLOAD
    )


def test_a_link_that_one_connection_fills_ends_with_one() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 20 * MBIT))
    uploads_on_link.run_for(HOUR_SECONDS)
    assert sorted(uploads_on_link.widths)[len(uploads_on_link.widths) // 2] == 1


def test_a_width_is_doubled_only_while_that_makes_it_faster() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 160 * MBIT))
    uploads_on_link.run_for(HOUR_SECONDS)
    assert sorted(uploads_on_link.widths)[len(uploads_on_link.widths) // 2] == 8


def test_the_wait_for_answers_is_filled_with_more_parts() -> None:
    uploads_on_link = SimulatedUploads(
        PartConcurrency(),
        lambda flying: 80 * MBIT if flying < 8 and answers_are_awaited() else 160 * MBIT,
    )

    def answers_are_awaited() -> bool:
        # A part takes 3 s, and its answer is awaited once in this time.
        return int(uploads_on_link.now / MEASURE_INTERVAL_SECONDS) % 6 == 0

    uploads_on_link.run_for(HOUR_SECONDS)
    assert sorted(uploads_on_link.widths)[len(uploads_on_link.widths) // 2] == 8


def test_what_one_upload_found_serves_the_next() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT))
    uploads_on_link.run_for(30)
    uploads_on_link.end(uploads_on_link.runs[0])
    uploads_on_link.begin()
    assert uploads_on_link.pace.width == MAX_PARTS_PER_UPLOAD


def test_two_uploads_measure_together() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 320 * MBIT), uploads=2)
    uploads_on_link.run_for(HOUR_SECONDS)
    assert sorted(uploads_on_link.widths)[len(uploads_on_link.widths) // 2] == 8


def test_an_upload_that_has_too_few_parts_teaches_nothing() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT))
    assert uploads_on_link.run_for(HOUR_SECONDS, more=False) == 4


def test_throughput_is_not_judged_while_parts_beyond_the_width_still_fly() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 40 * MBIT))
    run = uploads_on_link.runs[0]
    while uploads_on_link.pace.width >= 4:
        uploads_on_link.run_for(MEASURE_INTERVAL_SECONDS)
    narrower = uploads_on_link.pace.width
    for _ in range(1000):
        uploads_on_link.now += MEASURE_INTERVAL_SECONDS
        uploads_on_link.sent += 320 * MBIT * MEASURE_INTERVAL_SECONDS
        uploads_on_link.pace.look(run, uploads_on_link.now, flying=narrower + 1, more=True)
        assert uploads_on_link.pace.width == narrower


def test_a_trial_that_an_upload_breaks_off_by_ending_is_undone() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT), uploads=2)
    uploads_on_link.run_for(6)
    assert uploads_on_link.pace.width == 8
    uploads_on_link.end(uploads_on_link.runs[0])
    assert uploads_on_link.pace.width == 4


def test_failures_halve_the_width_once_for_each_fault() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT))
    uploads_on_link.run_for(30)
    for _ in range(MAX_PARTS_PER_UPLOAD):
        uploads_on_link.pace.failed(uploads_on_link.now)
    assert uploads_on_link.pace.width == MAX_PARTS_PER_UPLOAD // 2
    uploads_on_link.pace.failed(uploads_on_link.now + 60)
    assert uploads_on_link.pace.width == MAX_PARTS_PER_UPLOAD // 4


def test_after_a_failure_it_rests_and_then_finds_its_way_back() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(20 * MBIT, 1000 * MBIT))
    uploads_on_link.run_for(30)
    uploads_on_link.pace.failed(uploads_on_link.now)
    assert uploads_on_link.run_for(50) == MAX_PARTS_PER_UPLOAD // 2
    assert uploads_on_link.run_for(30) == MAX_PARTS_PER_UPLOAD


def test_at_a_crawl_it_judges_by_enough_bytes_not_by_seconds() -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(), capped(50_000, 50_000))
    uploads_on_link.run_for(30)
    assert set(uploads_on_link.widths) == {4}


@pytest.mark.parametrize("fixed", [1, 7, MAX_PARTS_PER_UPLOAD])
def test_a_number_in_the_settings_is_the_width(fixed: int) -> None:
    uploads_on_link = SimulatedUploads(PartConcurrency(fixed), capped(20 * MBIT, 1000 * MBIT))
    uploads_on_link.run_for(300)
    uploads_on_link.pace.failed(uploads_on_link.now)
    assert (set(uploads_on_link.widths), uploads_on_link.pace.width) == ({fixed}, fixed)


@given(uploads=st.integers(1, 100), fixed=st.sampled_from([0, 1, 10, MAX_PARTS_PER_UPLOAD]))
def test_many_uploads_share_what_the_agent_may_have_and_each_has_one(
    uploads: int, fixed: int
) -> None:
    pace = PartConcurrency(fixed)
    for _ in range(uploads):
        pace.begin(lambda: 0)
    assert pace.width == 1 or pace.width * uploads <= MAX_PARTS_IN_FLIGHT
    assert 1 <= pace.width <= MAX_PARTS_PER_UPLOAD


# The factors keep away from the thresholds, where rounding would decide.
gains = st.lists(
    st.one_of(st.floats(0.5, 1.04), st.floats(1.06, 1.09), st.floats(1.11, 2.0)),
    min_size=4,
    max_size=4,
)


def shaped(first: float, factors: Sequence[float]) -> Link:
    """Return a link where each doubling of the parts multiplies the throughput.

    The factor falls with each doubling, as on real links.
    """
    falling = sorted(factors, reverse=True)

    def rate(flying: int) -> float:
        value, width = first, 1
        for factor in falling:
            if width * 2 > flying:
                break
            value, width = value * factor, width * 2
        return value

    return rate


# The rate is in bytes per second. Below this range one trial would take minutes.
@settings(deadline=None, max_examples=30)
@given(first=st.floats(3e5, 1e8), factors=gains)
def test_it_converges_on_a_width_that_no_neighbour_beats(
    first: float, factors: Sequence[float]
) -> None:
    link = shaped(first, factors)
    uploads_on_link = SimulatedUploads(PartConcurrency(), link)
    uploads_on_link.run_for(2 * HOUR_SECONDS)
    late = uploads_on_link.widths[len(uploads_on_link.widths) // 2 :]
    settled = max(set(late), key=late.count)
    assert late.count(settled) > 0.9 * len(late)
    assert settled == MAX_PARTS_PER_UPLOAD or link(settled * 2) < link(settled) * 1.12
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
    uploads_on_link = SimulatedUploads(PartConcurrency(), lambda _: 0.0)
    for step, seconds, rate in steps:
        uploads_on_link.link = lambda _, rate=rate: rate  # type: ignore[misc] # bound now
        if step == "begin":
            uploads_on_link.begin()
        elif step == "end" and uploads_on_link.runs:
            uploads_on_link.end(uploads_on_link.runs[0])
        elif step == "fail":
            uploads_on_link.now += seconds
            uploads_on_link.pace.failed(uploads_on_link.now)
        elif step == "back":
            uploads_on_link.sent *= 0.5
        else:
            uploads_on_link.run_for(seconds / 10, more=step != "idle")
        assert 1 <= uploads_on_link.pace.width <= MAX_PARTS_PER_UPLOAD
        assert uploads_on_link.pace.width * len(uploads_on_link.runs) <= max(
            MAX_PARTS_IN_FLIGHT, len(uploads_on_link.runs)
        )
