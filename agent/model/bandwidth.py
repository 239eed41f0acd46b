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
        """``bytes_per_second`` is the cap, above 0; ``monotonic`` tells the time in seconds."""
        self._rate = bytes_per_second
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._free_at = float("-inf")
        # A turn is short however narrow the cap: a connection that says nothing for long is cut by the store.
        self.turn = max(_LEAST, min(_MOST, int(bytes_per_second * _TURN)))

    def reserve(self, count: int) -> float:
        """Take ``count`` bytes; returns the seconds from now after which they may go, 0 for at once."""
        with self._lock:
            now = self._monotonic()
            start = max(self._free_at, now - _BURST)
            self._free_at = start + count / self._rate
            return max(0.0, start - now)
