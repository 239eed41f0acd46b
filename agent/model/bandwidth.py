"""Limits the bytes per second that all uploads of this robot send together."""

from __future__ import annotations

import threading
from collections.abc import Callable

# For how much time unused bandwidth may be caught up on. Timers wake threads a little late.
_BURST_SECONDS = 0.1

# For how much time of the limit one turn lasts. A turn is short however low the limit is, because
# the store closes a connection on which nothing arrives for long.
_TURN_SECONDS = 0.05

# The bounds of the bytes of one turn.
_TURN_MIN_BYTES = 512
_TURN_MAX_BYTES = 64 * 1024


class Bandwidth:
    """A token bucket of bytes that all uploads share.

    A request reserves bytes, and later requests get later times. So uploads that ask in turns get
    equal shares.

    Every method may be called from any thread.
    """

    def __init__(self, bytes_per_second: float, monotonic: Callable[[], float]) -> None:
        """Set the limit, 0 for none. ``monotonic`` returns the time in seconds."""
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._bytes_per_second = 0.0
        # The monotonic time from which nothing is reserved.
        self._free_at = float("-inf")
        self.limit(bytes_per_second)

    def limit(self, bytes_per_second: float) -> None:
        """Set another limit for all later requests, 0 for none."""
        with self._lock:
            if bytes_per_second != self._bytes_per_second:
                self._bytes_per_second = bytes_per_second
                self._free_at = float("-inf")

    @property
    def turn(self) -> int:
        """The bytes of one turn, or 0 without a limit."""
        if not self._bytes_per_second:
            return 0
        turn = int(self._bytes_per_second * _TURN_SECONDS)
        return max(_TURN_MIN_BYTES, min(_TURN_MAX_BYTES, turn))

    def reserve(self, count: int) -> float:
        """Reserve ``count`` bytes, and return after how many seconds from now they may be sent."""
        with self._lock:
            if not self._bytes_per_second:
                return 0.0
            now = self._monotonic()
            start = max(self._free_at, now - _BURST_SECONDS)
            self._free_at = start + count / self._bytes_per_second
            return max(0.0, start - now)
