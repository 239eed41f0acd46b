"""When the operator lets uploads go: hours of the day and days of the week, in local time.

The local wall clock of the moment decides. So where the clock is put back an hour, what is open in that hour is open
twice; an hour that is left out does not come.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, tzinfo

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HOURS = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-(?:([01][0-9]|2[0-3]):([0-5][0-9])|24:00)")
_MINUTE = 60
_WEEK_AND_A_DAY = 8 * 24 * 60  # minutes


@dataclass(frozen=True, slots=True)
class Span:
    """A whole day of the week, or the minutes of each day from ``begin`` to before ``end``, maybe over midnight."""

    day: int | None  # Monday is 0; None: every day
    begin: int = 0
    end: int = 24 * 60

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read ``"22:00-06:00"`` or ``"sat"``; raises ValueError for anything else, also for hours of no length."""
        if text in _DAYS:
            return cls(_DAYS.index(text))
        found = _HOURS.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no day of the week and no hours of the day")
        begin, end = (
            60 * int(hour or 24) + int(minute or 0)
            for hour, minute in (found.group(1, 2), found.group(3, 4))
        )
        if begin == end:
            raise ValueError(f"{text!r} is no time at all")
        return cls(None, begin, end)

    def holds(self, local: datetime) -> bool:
        """Whether that moment lies in it."""
        if self.day is not None:
            return local.weekday() == self.day
        minute = 60 * local.hour + local.minute
        if self.begin < self.end:
            return self.begin <= minute < self.end
        return minute >= self.begin or minute < self.end


@dataclass(frozen=True, slots=True)
class Hours:
    """All spans together; none at all means always. ``zone`` None is the robot's own."""

    spans: tuple[Span, ...]
    zone: tzinfo | None = None

    @classmethod
    def parse(cls, texts: Iterable[str], zone: tzinfo | None = None) -> Hours:
        """Read each as :meth:`Span.parse` does."""
        return cls(tuple(map(Span.parse, texts)), zone)

    def open(self, now: float) -> bool:
        """Whether uploads may go at ``now``, seconds since 1970."""
        if not self.spans:
            return True
        local = datetime.fromtimestamp(now, self.zone)
        return any(span.holds(local) for span in self.spans)

    def opens_at(self, now: float) -> float:
        """For a ``now`` that is closed: the first whole minute that is open, seconds since 1970.

        It is looked for minute by minute, because a change of the clocks may lie in between; that costs milliseconds.
        Times that a change of the clocks leaves out for a week and longer are given up: then a week from ``now``.
        """
        first = -int(-now // _MINUTE)
        minutes = range(first, first + _WEEK_AND_A_DAY)
        return next(
            (float(_MINUTE * minute) for minute in minutes if self.open(_MINUTE * minute)),
            now + 7 * 86_400,
        )
