"""Limits how many bytes the embedded cloud passes on in a second."""

from __future__ import annotations

import threading
import time

# A link with a bandwidth may send at once what it could have sent in this time.
_BURST_SECONDS = 0.05


class ByteRate:
    """Limits all connections together to one number of bytes per second.

    The demo and the tests use it to imitate a slow uplink. Safe for several threads.
    """

    def __init__(self, bytes_per_second: float) -> None:
        """Limit to ``bytes_per_second``; 0 means no limit."""
        self.bytes_per_second = bytes_per_second
        self._lock = threading.Lock()
        self._cut = threading.Event()
        self._free_at = 0.0

    def take(self, size: int) -> None:
        """Wait until ``size`` bytes may have passed the link. Return at once after ``cut``."""
        if not self.bytes_per_second:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST_SECONDS) + size / self.bytes_per_second
            wait = self._free_at - now
        if wait > 0:
            self._cut.wait(wait)

    def cut(self) -> None:
        """Release all threads that wait in ``take``, now and later."""
        self._cut.set()
