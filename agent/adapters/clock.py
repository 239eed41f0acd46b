"""The real clocks."""

from __future__ import annotations

import threading
import time


class RealClock:
    """The machine's own clocks, as ``agent.model.ports.Clock`` describes them."""

    def __init__(self) -> None:
        """Nothing waits yet."""
        self._stopped = threading.Event()

    def monotonic(self) -> float:
        """Seconds since boot, time asleep included."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` pass, or less when the clock is stopped."""
        self._stopped.wait(seconds)

    def stop(self) -> None:
        """Wake those who wait; from now on nobody waits at all."""
        self._stopped.set()
