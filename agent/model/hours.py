"""The hours in which the operator allows uploads: hours of the day and days of the week.

The robot's local wall clock decides. If the clock is set back by an hour, the rules apply to that
hour twice. An hour that is left out when the clock is set forward does not come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, tzinfo

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")

_MINUTE_SECONDS = 60
_WEEK_SECONDS = 7 * 86_400

# How far the search for the next open minute goes.
_SEARCH_MINUTES = 8 * 24 * 60


@dataclass(frozen=True, slots=True)
class Span:
    """A whole day of the week, or some hours of each day.

    ``day`` is 0 for Monday, and None for every day. ``begin`` and ``end`` are minutes of the day,
    of which ``end`` does not belong to the span. A span may go over midnight.
    """

    day: int | None
    begin: int = 0
    end: int = 24 * 60

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read a text such as ``"22:00-06:00"`` or ``"sat"``.

        Raises ValueError for any other text, and for hours without length.
        """
        if text in _DAYS:
            return cls(_DAYS.index(text))
        found = _HOURS.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no day of the week and no hours of the day")
        # Without groups the end is 24:00.
        begin, end = (
            60 * int(hour or 24) + int(minute or 0)
            for hour, minute in (found.group(1, 2), found.group(3, 4))
        )
        if begin == end:
            raise ValueError(f"{text!r} is no span of time: begin and end are the same")
        return cls(None, begin, end)

    def holds(self, local: datetime) -> bool:
        """Return whether the local time belongs to the span."""
        if self.day is not None:
            return local.weekday() == self.day
        minute = 60 * local.hour + local.minute
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


@dataclass(frozen=True, slots=True)
class Hours:
    """The hours in which uploads may run: those of any span, or always if there is no span.

    ``zone`` is the time zone, or None for the robot's own.
    """

    spans: tuple[Span, ...]
    zone: tzinfo | None = None

    @classmethod
    def parse(cls, texts: Iterable[str], zone: tzinfo | None = None) -> Hours:
        """Read each text as :meth:`Span.parse` does. Raises ValueError."""
        return cls(tuple(map(Span.parse, texts)), zone)

    def open(self, now: float) -> bool:
        """Return whether uploads may run at ``now``, in seconds since 1970."""
        if not self.spans:
            return True
        local = datetime.fromtimestamp(now, self.zone)
        return any(span.holds(local) for span in self.spans)

    def opens_at(self, now: float) -> float:
        """Return the first whole minute from ``now`` on in which uploads may run.

        Both times are in seconds since 1970. Each minute is tried, because a change of the clocks
        may come in between. This takes milliseconds. If no minute of the next eight days is open,
        because changes of the clocks leave out the hours, the result is a week after ``now``.
        """
        first = -int(-now // _MINUTE_SECONDS)
        for minute in range(first, first + _SEARCH_MINUTES):
            moment = _MINUTE_SECONDS * minute
            if self.open(moment):
                return float(moment)
        return now + _WEEK_SECONDS
