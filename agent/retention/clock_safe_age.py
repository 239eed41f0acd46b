"""How long ago something was, by clocks that may be wrong and may jump.

A jump of the wall clock makes nothing older, so it deletes no recording too early.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from agent.model.ports import Clock

# A smaller step of the wall clock is no jump, but a clock that is corrected bit by bit.
_JUMP_SECONDS = 60.0


def _unknown_offset() -> float | None:
    return None


class ClockSafeAge:
    """Measures ages by the wall clock, the monotonic clock and the cloud's clock.

    It watches how far the wall clock runs ahead of the monotonic one. What the wall clock jumped
    forward is taken off the ages of earlier moments.

    Used by one thread.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        built: float,
        offset: Callable[[], float | None] = _unknown_offset,
    ) -> None:
        """Read the clocks for the first time.

        Args:
            clock: Both of its sides are read.
            built: A moment that has certainly passed, in seconds since 1970. A wall clock that
                says less is wrong.
            offset: Returns by how many seconds the cloud's clock is ahead of the robot's; None
                while this is unknown.
        """
        self._clock = clock
        self._built = built
        self._offset = offset
        self._last_now = -math.inf
        self._last_ahead = 0.0
        # By how many seconds the wall clock jumped forward in all.
        self._jumped = 0.0
        # The wall clock after its jumps: a moment later than this is after all of them.
        self._jumped_to = -math.inf
        self.observe_clocks()

    def observe_clocks(self) -> None:
        """Detect a jump. This is cheap and must be called every few seconds."""
        now = self._clock.now()
        ahead = now - self._clock.monotonic()
        # A clock that was wrong and is set is no jump.
        was_known = self._last_now >= self._built
        if ahead - self._last_ahead > _JUMP_SECONDS and was_known:
            self._jumped += ahead - self._last_ahead
            self._jumped_to = max(self._jumped_to, now)
        self._last_now, self._last_ahead = now, ahead

    def seconds_since(self, moment: float, seen: float) -> float | None:
        """Return the seconds since ``moment``, the least that the clocks allow.

        Args:
            moment: Wall clock, seconds since 1970. A moment that is unknown or in the future
                counts from ``seen``.
            seen: The monotonic time when the moment was first read.

        Returns:
            None while no clock is known to be right.
        """
        self.observe_clocks()
        now, offset = self._clock.now(), self._offset()
        known: list[float] = []
        ages: list[float] = []
        if now >= self._built:
            known.append(now)
            ages.append(now - moment - (self._jumped if moment < self._jumped_to else 0.0))
        if offset is not None:
            known.append(now + offset)
            ages.append(now + offset - moment)
        if not known:
            return None
        if not self._built <= moment <= max(known) + _JUMP_SECONDS:
            return self._clock.monotonic() - seen
        return min(ages)
