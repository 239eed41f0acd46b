"""Spreads the first calls of a fleet that is switched on at one moment.

After a power cut all robots of a fleet start together. Without this module each of them would call
the cloud in the same second.
"""

from __future__ import annotations

from agent.gate.gate import Delays, Gate
from agent.model.ports import Clock

_HOLD = "power_on"

# An agent that starts within this time after its robot was started together with the robot. A
# later start was made by hand and is not delayed.
_BOOT_SECONDS = 300.0

_HINT = "nothing to do: uploads begin by themselves; retry.jitter_seconds bounds that moment"


class BootJitter:
    """Holds the gate for a random time where the agent starts together with its robot.

    May be used from any thread.
    """

    def __init__(self, gate: Gate, clock: Clock, delays: Delays) -> None:
        """Choose how long the gate is held, at random within the jitter of ``delays``.

        ``until`` is the monotonic time at which the gate is released. It lies in the past where the
        agent was started by hand.
        """
        self._gate = gate
        self._clock = clock
        now = clock.monotonic()
        self.until = now + delays.spread() if now < _BOOT_SECONDS else now

    def look(self) -> None:
        """Hold the gate, or release it when the time has passed.

        Must be called again and again. The call is cheap.
        """
        if self._clock.monotonic() < self.until:
            self._gate.hold(
                _HOLD,
                "this robot was just switched on, like others perhaps",
                _HINT,
                next_probe=self.until,
            )
        else:
            self._gate.release(_HOLD)
