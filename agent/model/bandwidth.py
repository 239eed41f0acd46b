"""How many bytes a second may leave this robot, all uploads together."""

from __future__ import annotations

import threading
from collections.abc import Callable

_BURST = 0.1  # seconds of the cap that may be caught up on: timers wake late
_TURN = 0.05  # seconds of the cap that one turn takes
_LEAST, _MOST = 512, 64 * 1024  # bytes of a turn


class Bandwidth:
    """A token bucket of bytes. Asking is reserving: who asks later goes later, so those who ask in turn share alike.

    Every method may be called from any thread.
    """

    def __init__(self, bytes_per_second: float, monotonic: Callable[[], float]) -> None:
        """``bytes_per_second`` is the cap, 0 for none; ``monotonic`` tells the time in seconds."""
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._rate, self._free_at = 0.0, float("-inf")
        self.limit(bytes_per_second)

    def limit(self, bytes_per_second: float) -> None:
        """Another cap, for all that asks from now on; 0 for none."""
        with self._lock:
            if bytes_per_second != self._rate:
                self._rate, self._free_at = bytes_per_second, float("-inf")

    @property
    def turn(self) -> int:
        """The bytes that one turn takes; 0 without a cap."""
        # A turn is short however narrow the cap: a connection that says nothing for long is cut by the store.
        return max(_LEAST, min(_MOST, int(self._rate * _TURN))) if self._rate else 0

    def reserve(self, count: int) -> float:
        """Take ``count`` bytes; returns the seconds from now after which they may go, 0 for at once."""
        with self._lock:
            if not self._rate:
                return 0.0
            now = self._monotonic()
            start = max(self._free_at, now - _BURST)
            self._free_at = start + count / self._rate
            return max(0.0, start - now)
