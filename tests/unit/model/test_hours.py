"""The hours and days at which uploads are allowed.

The tests cover spans over midnight and changes between summer and winter time.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.model.hours import Hours, Span

# In 2026 the clocks here go forward on 29 March at 02:00 and back on 25 October at 03:00.
BERLIN = ZoneInfo("Europe/Berlin")
# Summer time moves the clocks here by half an hour only.
LORD_HOWE = ZoneInfo("Australia/Lord_Howe")
# The clocks here are 5 hours and 45 minutes ahead of UTC.
KATHMANDU = ZoneInfo("Asia/Kathmandu")


def at(text: str, zone: ZoneInfo = BERLIN, *, fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()


def open_at(text: str, *spans: str, zone: ZoneInfo = BERLIN) -> bool:
    return Hours.parse(spans, zone).open(at(text, zone))


def opens(text: str, *spans: str, zone: ZoneInfo = BERLIN) -> str:
    moment = Hours.parse(spans, zone).opens_at(at(text, zone))
    return datetime.fromtimestamp(moment, zone).isoformat(sep=" ", timespec="minutes")


def test_no_spans_mean_always() -> None:
    assert Hours.parse([]).open(0)


@pytest.mark.parametrize(
    ("time", "is_open"),
    [
        ("21:59", False),
        ("22:00", True),
        ("23:59", True),
        ("00:00", True),
        ("05:59", True),
        ("06:00", False),
    ],
)
def test_hours_over_midnight_hold_from_the_first_minute_to_before_the_last(
    time: str, *, is_open: bool
) -> None:
    assert open_at(f"2026-06-10 {time}", "22:00-06:00") is is_open


@pytest.mark.parametrize(
    ("time", "is_open"), [("17:59", False), ("18:00", True), ("23:59", True), ("00:00", False)]
)
def test_midnight_as_an_end_is_24_or_0(time: str, *, is_open: bool) -> None:
    assert open_at(f"2026-06-10 {time}", "18:00-24:00") is is_open
    assert open_at(f"2026-06-10 {time}", "18:00-00:00") is is_open


def test_a_day_is_the_whole_local_day() -> None:
    assert not open_at("2026-06-12 23:59", "sat")
    assert open_at("2026-06-13 00:00", "sat")
    assert open_at("2026-06-13 23:59", "sat")
    assert not open_at("2026-06-14 00:00", "sat")


def test_any_span_that_holds_opens() -> None:
    spans = ("22:00-06:00", "sat", "sun")
    assert open_at("2026-06-13 12:00", *spans)
    assert open_at("2026-06-12 22:30", *spans)
    assert not open_at("2026-06-12 12:00", *spans)


def test_it_is_known_when_it_opens_next() -> None:
    assert opens("2026-06-10 12:00", "22:00-06:00") == "2026-06-10 22:00+02:00"
    assert opens("2026-06-10 12:00", "sat") == "2026-06-13 00:00+02:00"
    assert opens("2026-06-14 00:00", "sat") == "2026-06-20 00:00+02:00"
    assert opens("2026-06-12 12:00", "22:00-06:00", "sat") == "2026-06-12 22:00+02:00"
    assert opens("2026-06-10 12:00:30", "13:00-14:00") == "2026-06-10 13:00+02:00"
    assert opens("2026-06-10 06:00", "22:15-06:00", zone=KATHMANDU) == "2026-06-10 22:15+05:45"


def test_hours_that_begin_in_the_hour_left_out_open_when_the_clocks_have_moved() -> None:
    assert opens("2026-03-29 01:00", "02:30-04:00") == "2026-03-29 03:00+02:00"
    assert not open_at("2026-03-29 01:59", "02:30-04:00")
    assert open_at("2026-03-29 03:00", "02:30-04:00")


def test_hours_left_out_as_a_whole_come_the_next_day() -> None:
    assert opens("2026-03-29 01:00", "02:15-02:45") == "2026-03-30 02:15+02:00"


def test_an_hour_that_comes_twice_is_open_twice() -> None:
    hours = Hours.parse(["02:00-03:00"], BERLIN)
    first, second = at("2026-10-25 02:30"), at("2026-10-25 02:30", fold=1)
    assert second - first == 3600
    assert hours.open(first)
    assert hours.open(second)
    assert not hours.open(at("2026-10-25 03:00"))


def test_hours_over_a_night_of_a_change_open_and_close_at_the_local_times() -> None:
    assert opens("2026-10-25 12:00", "22:00-06:00") == "2026-10-25 22:00+01:00"
    assert opens("2026-10-24 12:00", "22:00-06:00") == "2026-10-24 22:00+02:00"
    assert open_at("2026-10-25 05:59", "22:00-06:00")
    assert not open_at("2026-10-25 06:00", "22:00-06:00")


def test_a_change_of_half_an_hour_is_a_change_like_any_other() -> None:
    assert opens("2026-10-04 01:45", "02:10-05:00", zone=LORD_HOWE) == "2026-10-04 02:30+11:00"


@pytest.mark.parametrize(
    "text",
    ["", "always", "Sat", "saturday", "sat ", "22:00", "22-06", "22:00-22:00", "00:00-00:00",
     "24:00-06:00", "22:00-24:01", "7:00-8:00", "22:60-06:00", "22:00 06:00", "22:00-06:00,sat",
     "sat-sun", "٢٢:00-06:00"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        Span.parse(text)


CLOCK = st.integers(0, 24 * 60 - 1).map(lambda minute: f"{minute // 60:02}:{minute % 60:02}")
SPAN = st.sampled_from(["mon", "sun"]) | st.tuples(CLOCK, CLOCK).filter(
    lambda two: two[0] != two[1]
).map("-".join)


@given(
    st.lists(SPAN, min_size=1, max_size=3),
    st.integers(int(at("2026-01-01")), int(at("2027-12-31"))),
    st.sampled_from([BERLIN, LORD_HOWE, KATHMANDU]),
)
def test_it_is_open_at_the_time_named_and_at_no_minute_before(
    spans: list[str], now: int, zone: ZoneInfo
) -> None:
    hours = Hours.parse(spans, zone)
    assume(not hours.open(now))
    opening = hours.opens_at(now)
    assert now < opening <= now + timedelta(days=8).total_seconds()
    assert hours.open(opening)
    wait = int(opening - now)
    assert not any(hours.open(now + later) for later in range(0, wait, 60))
