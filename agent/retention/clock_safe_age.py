"""How long ago something was, as far as this robot's clocks can tell; a jump of the wall clock makes nothing older."""

from __future__ import annotations

import math
from collections.abc import Callable

from agent.model.ports import Clock

_JUMP = 60.0  # seconds; what is less is a clock that is put right in small steps


class ClockSafeAge:
    """Used by one thread."""

    def __init__(
        self, clock: Clock, *, built: float, offset: Callable[[], float | None] = lambda: None
    ) -> None:
        """Look at the clocks for the first time.

        Args:
            clock: Both of its clocks are asked.
            built: A moment that has passed for certain, seconds since 1970: a time before it is unknown.
            offset: Seconds by which the cloud's clock is ahead of the robot's; None while that is not known.
        """
        self._clock = clock
        self._built = built
        self._offset = offset
        self._last_now, self._last_ahead = -math.inf, 0.0
        self._jumped = 0.0  # seconds in all by which the wall clock jumped forward
        self._jumped_to = -math.inf  # what was later than this was after all jumps
        self.look()

    def look(self) -> None:
        """Notice a jump. Cheap; to be called every few seconds."""
        now = self._clock.now()
        ahead = now - self._clock.monotonic()
        # Forward from a time that was unknown is a clock being set, and no jump.
        if ahead - self._last_ahead > _JUMP and self._last_now >= self._built:
            self._jumped += ahead - self._last_ahead
            self._jumped_to = max(self._jumped_to, now)
        self._last_now, self._last_ahead = now, ahead

    def of(self, moment: float, seen: float) -> float | None:
        """Seconds since ``moment`` (wall clock), the least of what can be told; None while no clock is known.

        A moment that is unknown, or still to come, counts from when it was first ``seen`` (monotonic).
        """
        self.look()
        now, offset = self._clock.now(), self._offset()
        known = [now] if now >= self._built else []
        ages = [now - moment - (self._jumped if moment < self._jumped_to else 0.0)] if known else []
        if offset is not None:
            known.append(now + offset)
            ages.append(now + offset - moment)
        if not known:
            return None
        if not self._built <= moment <= max(known) + _JUMP:
            return self._clock.monotonic() - seen
        return min(ages)
