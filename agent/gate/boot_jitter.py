"""After a power cut a whole fleet starts at once: each robot lets a moment of its own pass before it calls."""

from __future__ import annotations

from agent.gate.gate import Delays, Gate
from agent.model.ports import Clock

_HOLD = "power_on"
_BOOTING = 300.0  # seconds after the robot's own start in which that of the agent belongs to it
_WAIT = "nothing to do: uploads begin by themselves; retry.jitter_seconds bounds that moment"


class BootJitter:
    """Holds the gate for a random moment where the agent starts with its robot. May be used from any thread."""

    def __init__(self, gate: Gate, clock: Clock, delays: Delays) -> None:
        """Choose the moment; a start by hand, long after the robot's own, has none."""
        self._gate = gate
        self._clock = clock
        now = clock.monotonic()
        self.until = now + delays.spread() if now < _BOOTING else now  # monotonic

    def look(self) -> None:
        """Hold the gate, or release it when the moment has passed; to be called again and again. Cheap."""
        if self._clock.monotonic() < self.until:
            self._gate.hold(
                _HOLD,
                "this robot was just switched on, like others perhaps",
                _WAIT,
                next_probe=self.until,
            )
        else:
            self._gate.release(_HOLD)
