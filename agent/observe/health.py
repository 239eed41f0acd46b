"""The health of the running agent, for /healthz and for the service manager's watchdog."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

_log = logging.getLogger(__name__)

# What cures a fault: a restart of the agent, time alone, or an act of the operator.
Cure = Literal["restart", "wait", "operator"]


@dataclass(frozen=True, slots=True)
class HealthFault:
    """Something that is wrong with the running agent, and what would cure it."""

    code: str
    message: str
    cure: Cure


@dataclass(frozen=True, slots=True)
class StateCheck:
    """A check of a part of the agent. ``fault`` is there while ``is_well`` returns False."""

    fault: HealthFault
    is_well: Callable[[], bool]


@dataclass(slots=True)
class ProgressCheck:
    """A check that a counter goes on: ``fault`` is there when it has stood still for too long.

    A thread that hangs still exists, so its existence proves nothing. Therefore the agent's loops
    count their rounds. ``max_seconds`` is the time for which the counter may stand still.
    ``last_count`` was first read at the monotonic time ``last_progress``.
    """

    fault: HealthFault
    count: Callable[[], int]
    max_seconds: float
    last_count: int = -1
    last_progress: float = 0.0

    def is_stuck(self, now: float) -> bool:
        """Read the counter at the monotonic time ``now`` and return whether it stands still."""
        count = self.count()
        if count != self.last_count:
            self.last_count, self.last_progress = count, now
        return now - self.last_progress > self.max_seconds


class Health:
    """Knows what is wrong with the agent at this moment.

    /healthz shows the faults. The agent stops its signs of life to the service manager while a
    restart would cure a fault, so the manager restarts the agent.

    ``check`` is called by one thread. All other methods may be called from any thread.
    """

    def __init__(
        self,
        states: Sequence[StateCheck],
        progress: Sequence[ProgressCheck],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use these checks. ``monotonic`` is a clock in seconds that stops during suspend."""
        self._states = states
        self._progress = progress
        self._monotonic = monotonic
        self._logged: Sequence[HealthFault] = ()
        self._lock = threading.Lock()

    def faults(self) -> Sequence[HealthFault]:
        """Return what is wrong now. The list is empty if all is well."""
        now = self._monotonic()
        faults = [check.fault for check in self._states if not check.is_well()]
        with self._lock:
            return faults + [check.fault for check in self._progress if check.is_stuck(now)]

    def messages(self) -> list[str]:
        """Return the messages of all faults, for /healthz."""
        return [fault.message for fault in self.faults()]

    def needs_restart(self) -> bool:
        """Return whether a restart by the service manager would cure any fault."""
        return any(fault.cure == "restart" for fault in self.faults())

    def check(self) -> None:
        """Read all counters, and log each fault once. To be called every 10 seconds."""
        faults = self.faults()
        for fault in faults:
            if fault not in self._logged:
                _log.error("not healthy: %s", fault.message, extra={"event": "unhealthy"})
        self._logged = faults
