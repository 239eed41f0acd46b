"""The clocks of this machine."""

from __future__ import annotations

import threading
import time


class RealClock:
    """Implements ``agent.model.ports.Clock`` with the machine's own clocks.

    Features take the time from a clock that they are given, so that tests need not wait.

    Any thread may use it.
    """

    def __init__(self) -> None:
        """Begin as a clock that lets its callers wait."""
        self._stopped = threading.Event()

    def monotonic(self) -> float:
        """Return the seconds since the machine was booted, time asleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        """Return the seconds since 1970 by the wall clock."""
        return time.time()

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` pass, or less when the clock is stopped."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """End all waiting. After this :meth:`wait` returns at once."""
        self._stopped.set()
