"""A clock that stands still until a test moves it."""

from __future__ import annotations

import threading


class FakeClock:
    """Implements ``agent.model.ports.Clock``; both clocks go forward together, and the wall clock can jump."""

    def __init__(self, monotonic: float = 1000.0, now: float = 1_790_000_000.0) -> None:
        """``monotonic`` and ``now`` are where the two clocks stand at first, in seconds."""
        self._monotonic = monotonic
        self._now = now
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        """Seconds since some moment."""
        with self._lock:
            return self._monotonic

    def now(self) -> float:
        """Seconds since 1970."""
        with self._lock:
            return self._now

    def wait(self, seconds: float) -> None:
        """Pass at once, having moved both clocks."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        with self._lock:
            self._monotonic += seconds
            self._now += seconds

    def set_now(self, now: float) -> None:
        """Let the wall clock jump; the monotonic one does not notice."""
        with self._lock:
            self._now = now
