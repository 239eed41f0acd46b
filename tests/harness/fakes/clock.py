"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading


class FakeClock:
    """Implements ``agent.model.ports.Clock`` without real time.

    The monotonic and the wall clock go forward together. The wall clock can also jump. Safe for
    several threads.
    """

    def __init__(self, monotonic: float = 1000.0, now: float = 1_790_000_000.0) -> None:
        """Start the two clocks at ``monotonic`` and ``now``, in seconds."""
        self._monotonic = monotonic
        self._now = now
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Return the seconds of the monotonic clock."""
        with self._lock:
            return self._monotonic

    def now(self) -> float:
        """Return the seconds since 1970."""
        with self._lock:
            return self._now

    def wait(self, seconds: float) -> None:
        """Move both clocks by ``seconds``, and return at once."""
        self.advance(seconds)

    def stop(self) -> None:
        """Do nothing, because nothing ever waits."""

    def advance(self, seconds: float) -> None:
        """Move both clocks by ``seconds``."""
        with self._lock:
            self._monotonic += seconds
            self._now += seconds

    def set_now(self, now: float) -> None:
        """Let the wall clock jump to ``now``. The monotonic clock stays as it is."""
        with self._lock:
            self._now = now
