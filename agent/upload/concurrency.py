"""How many parts go at once: found by measuring, for all uploads of the agent together.

A search over powers of two. While every upload has the width in flight and more parts wait, the bytes that leave
within a span of time are the throughput of that width. Then the width is doubled, and kept if that was faster; or
halved, and kept if that was as fast. What brought nothing is undone, and tried again after a rest that grows.
Failures on a way that is too narrow halve the width at once. What was found outlives the upload that found it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MOST = 16  # parts of one recording in flight
MOST_IN_ALL = 32  # parts of all recordings: each costs a thread, a block and a connection

_FIRST = 4
_GAIN = 1.05  # times the throughput that a doubled width must have to be kept
_KEEPS = 0.95  # times the throughput that a halved width must have to be kept
_SETTLE, _MEASURE = (
    1.0,
    3.0,
)  # seconds that connections have to get going, and then to show what they can
_SETTLE_BYTES, _MEASURE_BYTES = (
    256 * 1024,
    512 * 1024,
)  # and for each part in flight: less may lie in buffers
_REST, _LONGEST_REST = (
    60.0,
    960.0,
)  # seconds after a trial that brought nothing, doubled by each further one
_SAME_FAULT = 10.0  # seconds within which failures count as one


class Run:
    """One upload's share in the pace; made by :meth:`PartConcurrency.begin`."""

    def __init__(self, sent: Callable[[], int]) -> None:
        """``sent`` tells the bytes handed to the network so far, those of parts that failed included."""
        self.sent = sent
        self.flying = 0
        self.more = False


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of time that is over when so many seconds and bytes have passed."""

    began: float
    sent: int
    seconds: float
    bytes: int
    measures: bool

    def over(self, now: float, sent: int) -> bool:
        return now - self.began >= self.seconds and sent - self.sent >= self.bytes

    def rate(self, now: float, sent: int) -> float:
        return (sent - self.sent) / max(now - self.began, 0.001)


class PartConcurrency:
    """The width of all uploads. Every method may be called from any thread; ``now`` is monotonic."""

    def __init__(self, fixed: int = 0) -> None:
        """``fixed`` parts of one recording in flight, 1 to 16; 0: as many as measuring finds."""
        self._fixed = fixed
        self._lock = threading.Lock()
        self._runs: set[Run] = set()
        self._width = fixed or _FIRST
        self._direction: Literal["up", "down"] = "up"
        self._stood: int | None = None  # the width before the trial that runs
        self._rate: float | None = None  # bytes a second at the width that stands
        self._span: _Span | None = None
        self._rest = _REST
        self._rest_until = self._spared_until = float("-inf")

    @property
    def width(self) -> int:
        """Parts that one recording may have in flight now."""
        with self._lock:
            return self._share()

    def begin(self, sent: Callable[[], int]) -> Run:
        """An upload begins to send parts; ``sent`` tells the bytes that it has handed to the network so far."""
        run = Run(sent)
        with self._lock:
            self._runs.add(run)
            self._forget()
        return run

    def end(self, run: Run) -> None:
        """That upload has no more parts."""
        with self._lock:
            self._runs.discard(run)
            self._forget()

    def look(self, run: Run, now: float, *, flying: int, more: bool) -> None:
        """Measure; to be called about twice a second with the parts in flight and whether others wait."""
        with self._lock:
            run.flying, run.more = flying, more
            width = self._share()
            if self._fixed:
                return
            if not all(each.more for each in self._runs):
                self._forget()  # throughput says nothing about a width that is not used
            elif any(each.flying != width for each in self._runs):
                self._span = None  # the width was changed just now, and not all have followed
            else:
                self._measure(now, sum(each.sent() for each in self._runs), width * len(self._runs))

    def failed(self, now: float) -> None:
        """A part failed on its way: fewer at once, unless that was done just now."""
        with self._lock:
            if self._fixed or now < self._spared_until:
                return
            self._stood = None
            self._width = max(1, self._width // 2)
            self._forget()
            self._direction, self._rest = "up", _REST
            self._rest_until, self._spared_until = now + _REST, now + _SAME_FAULT

    def _share(self) -> int:
        return max(1, min(self._width, MOST_IN_ALL // max(1, len(self._runs))))

    def _forget(self) -> None:
        """What was measured can't be compared with what comes: a trial is undone, to be made again."""
        if self._stood is not None:
            self._width, self._stood = self._stood, None
        self._rate = self._span = None

    def _measure(self, now: float, sent: int, flying: int) -> None:
        span = self._span
        if span is None or (span.measures and span.over(now, sent)):
            if span is not None:
                self._judge(span.rate(now, sent), now)
            self._span = _Span(now, sent, _SETTLE, _SETTLE_BYTES * flying, measures=False)
        elif span.over(now, sent):
            self._span = _Span(now, sent, _MEASURE, _MEASURE_BYTES * flying, measures=True)

    def _judge(self, rate: float, now: float) -> None:
        if self._stood is None or self._rate is None:
            self._rate = rate
            if now >= self._rest_until:
                self._try(now)
        elif rate >= self._rate * (_GAIN if self._direction == "up" else _KEEPS):
            self._stood, self._rate, self._rest = None, rate, _REST
            self._try(now)
        else:
            self._width, self._stood = self._stood, None
            self._turn(now)

    def _try(self, now: float) -> None:
        """Another width for a span; at the end of the scale there is none."""
        other = self._width * 2 if self._direction == "up" else self._width // 2
        if 1 <= other <= MOST:
            self._stood, self._width = self._width, other
        else:
            self._turn(now)

    def _turn(self, now: float) -> None:
        """There is no more to be had in this direction: rest, then try the other."""
        self._direction = "down" if self._direction == "up" else "up"
        self._rest_until = now + self._rest
        self._rest = min(self._rest * 2, _LONGEST_REST)
