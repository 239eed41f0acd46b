"""Decides how many parts of each recording are sent at one time, and how many in all.

The right number depends on the network, so it is found by measuring: a search over powers of two.
The *width* is the number of parts that one recording has in flight. The throughput of a width is
measured while every upload has that many parts in flight and more parts wait. Then another width is
tried. A doubled width is kept if it is faster, a halved width if it is as fast. A trial that brings
nothing is undone, and the next trial follows after a pause that grows. A part that fails on its way
halves the width at once. The width outlives the uploads that found it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

# The most parts of one recording in flight.
MAX_PARTS_PER_UPLOAD = 16

# The most parts of all recordings in flight. Each costs a thread, a block and a connection.
MAX_PARTS_IN_FLIGHT = 32

# The width before anything was measured.
_FIRST_WIDTH = 4

# A doubled width is kept if the throughput grows by this factor.
_GAIN = 1.05

# A halved width is kept if the throughput stays above this share.
_KEEPS = 0.95

# After a change of the width connections need time to get going. Throughput counts from then on.
_SETTLE_SECONDS = 1.0

# How long the throughput of a width is measured.
_MEASURE_SECONDS = 3.0

# The least bytes for each part in flight that must be sent while connections get going, and while
# throughput is measured. Fewer bytes may only have filled buffers.
_SETTLE_BYTES = 256 * 1024
_MEASURE_BYTES = 512 * 1024

# The pause after a trial that brought nothing. Each further one doubles the pause, up to the
# longest.
_FIRST_PAUSE_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 960.0

# Failures within this time count as one.
_SAME_FAILURE_SECONDS = 10.0


class Run:
    """One upload's share in the measurement; made by :meth:`PartConcurrency.begin`.

    Changed only by :class:`PartConcurrency`, under its lock.
    """

    def __init__(self, sent: Callable[[], int]) -> None:
        """Measure an upload by ``sent``.

        It returns the bytes that were handed to the network so far, those of failed parts included.
        """
        self.sent = sent
        self.flying = 0
        self.more = False


@dataclass(frozen=True, slots=True)
class _Span:
    """A span of time that ends when so many seconds have passed and so many bytes were sent."""

    began: float
    sent: int
    seconds: float
    bytes: int

    # Whether the throughput of this span counts. Otherwise connections only get going.
    measures: bool

    def over(self, now: float, sent: int) -> bool:
        """Return whether the span has ended, given the monotonic time and all bytes sent."""
        return now - self.began >= self.seconds and sent - self.sent >= self.bytes

    def rate(self, now: float, sent: int) -> float:
        """Return the throughput since the span began, in bytes a second."""
        return (sent - self.sent) / max(now - self.began, 0.001)


class PartConcurrency:
    """The number of parts that each upload may have in flight.

    Every method may be called from any thread. Times are monotonic, in seconds.
    """

    def __init__(self, fixed: int = 0) -> None:
        """Begin with a small width, or stay at a fixed one.

        Args:
            fixed: How many parts of one recording are in flight, 1 to 16; 0: found by measuring.
        """
        self._fixed = fixed
        self._lock = threading.Lock()
        self._runs: set[Run] = set()
        self._width = fixed or _FIRST_WIDTH
        self._direction: Literal["up", "down"] = "up"
        # The width before the trial that runs; None while there is no trial.
        self._width_before: int | None = None
        # The throughput of the width before the trial, in bytes a second.
        self._rate: float | None = None
        self._span: _Span | None = None
        self._pause = _FIRST_PAUSE_SECONDS
        self._pause_until = float("-inf")
        self._failures_count_from = float("-inf")

    @property
    def width(self) -> int:
        """How many parts one recording may have in flight now."""
        with self._lock:
            return self._share()

    def begin(self, sent: Callable[[], int]) -> Run:
        """Note that an upload begins to send parts, and return its share in the measurement.

        ``sent`` returns the bytes that the upload has handed to the network so far.
        """
        run = Run(sent)
        with self._lock:
            self._runs.add(run)
            self._forget()
        return run

    def end(self, run: Run) -> None:
        """Note that an upload has no more parts to send."""
        with self._lock:
            self._runs.discard(run)
            self._forget()

    def look(self, run: Run, now: float, *, flying: int, more: bool) -> None:
        """Measure. Must be called about twice a second by each upload.

        Args:
            run: The upload.
            now: The monotonic time.
            flying: How many parts the upload has in flight.
            more: Whether more parts wait.
        """
        with self._lock:
            run.flying, run.more = flying, more
            width = self._share()
            if self._fixed:
                return
            if not all(each.more for each in self._runs):
                # Throughput says nothing about a width that is not used.
                self._forget()
            elif any(each.flying != width for each in self._runs):
                # The width was changed just now, and not each upload has followed.
                self._span = None
            else:
                self._measure(now, sum(each.sent() for each in self._runs), width * len(self._runs))

    def failed(self, now: float) -> None:
        """Halve the width because a part failed on its way, unless that was done just now."""
        with self._lock:
            if self._fixed or now < self._failures_count_from:
                return
            self._width_before = None
            self._width = max(1, self._width // 2)
            self._forget()
            self._direction = "up"
            self._pause = _FIRST_PAUSE_SECONDS
            self._pause_until = now + _FIRST_PAUSE_SECONDS
            self._failures_count_from = now + _SAME_FAILURE_SECONDS

    def _share(self) -> int:
        """Return the width, less where all uploads together would have too many parts."""
        return max(1, min(self._width, MAX_PARTS_IN_FLIGHT // max(1, len(self._runs))))

    def _forget(self) -> None:
        """Forget what was measured, because later measurements can't be compared with it.

        A trial is undone, and made again later.
        """
        if self._width_before is not None:
            self._width, self._width_before = self._width_before, None
        self._rate = self._span = None

    def _measure(self, now: float, sent: int, flying: int) -> None:
        """Go on with the span that runs, or begin the next one.

        Args:
            now: The monotonic time.
            sent: All bytes sent so far.
            flying: The parts in flight of all uploads.
        """
        span = self._span
        if span is None or (span.measures and span.over(now, sent)):
            if span is not None:
                self._judge(span.rate(now, sent), now)
            self._span = _Span(now, sent, _SETTLE_SECONDS, _SETTLE_BYTES * flying, measures=False)
        elif span.over(now, sent):
            self._span = _Span(now, sent, _MEASURE_SECONDS, _MEASURE_BYTES * flying, measures=True)

    def _judge(self, rate: float, now: float) -> None:
        """Keep or undo the trial that has ended with the throughput ``rate``, in bytes a second."""
        if self._width_before is None or self._rate is None:
            self._rate = rate
            if now >= self._pause_until:
                self._begin_trial(now)
        elif rate >= self._rate * (_GAIN if self._direction == "up" else _KEEPS):
            self._width_before = None
            self._rate = rate
            self._pause = _FIRST_PAUSE_SECONDS
            self._begin_trial(now)
        else:
            self._width, self._width_before = self._width_before, None
            self._turn(now)

    def _begin_trial(self, now: float) -> None:
        """Try the next width in the direction of the search, unless there is none."""
        other = self._width * 2 if self._direction == "up" else self._width // 2
        if 1 <= other <= MAX_PARTS_PER_UPLOAD:
            self._width_before, self._width = self._width, other
        else:
            self._turn(now)

    def _turn(self, now: float) -> None:
        """Pause, and then search in the other direction."""
        self._direction = "down" if self._direction == "up" else "up"
        self._pause_until = now + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
