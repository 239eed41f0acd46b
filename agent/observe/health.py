"""Whether every part of the agent is at work, for /healthz and whoever else must know."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_log = logging.getLogger(__name__)

RESTART = "restart the agent"
"""How a fault ends that a restart cures."""


@dataclass(slots=True)
class Beat:
    """A count that must go on: ``seconds`` is how long it may stand still."""

    count: Callable[[], int]
    seconds: float
    seen: int = -1
    since: float = 0.0  # when ``seen`` was first seen

    def stands_still(self, now: float) -> bool:
        """Look at the count."""
        count = self.count()
        if count != self.seen:
            self.seen, self.since = count, now
        return now - self.since > self.seconds


class Health:
    """Knows the faults of this moment; any thread may ask."""

    def __init__(
        self,
        well: Mapping[str, Callable[[], bool]],
        beats: Mapping[str, Beat],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Both by the fault that it is when they fail. ``monotonic`` stands still while the robot sleeps."""
        self._well = well
        self._beats = beats
        self._monotonic = monotonic
        self._told: list[str] = []
        self._lock = threading.Lock()

    def faults(self) -> list[str]:
        """What is wrong, a sentence each; empty while all is well."""
        now = self._monotonic()
        faults = [fault for fault, well in self._well.items() if not well()]
        with self._lock:
            return faults + [fault for fault, beat in self._beats.items() if beat.stands_still(now)]

    def needs_restart(self) -> bool:
        """Whether any of it is cured by a restart, for the service manager."""
        return any(fault.endswith(RESTART) for fault in self.faults())

    def look(self) -> None:
        """Note how far the counts have come, and say once what is wrong. To be called every 10 s."""
        faults = self.faults()
        for fault in faults:
            if fault not in self._told:
                _log.error("not healthy: %s", fault, extra={"event": "unhealthy"})
        self._told = faults
