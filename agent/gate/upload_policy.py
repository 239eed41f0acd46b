"""What the operator allows, as holds of the gate: at which hours, over which link."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agent.gate.gate import Gate
from agent.model.hours import Hours
from agent.model.ports import Clock
from agent.model.values import Link

_log = logging.getLogger(__name__)

_HOURS, _LINK = "windows", "link"
_SET_CLOCK = "set this robot's clock; uploads go on by themselves"
_WAIT = "nothing to do: uploads go on by themselves; upload.windows says when"
_CONNECT = "connect the robot to an allowed network, or change upload.interfaces; uploads go on by themselves"
_METERED = 'connect the robot to another network, or set upload.metered = "allow"; uploads go on by themselves'


@dataclass(frozen=True, slots=True)
class _Pause:
    reason: str
    hint: str
    until: float | None = None  # monotonic


class UploadPolicy:
    """Holds and releases the gate. Every method may be called from any thread, each by one at a time."""

    def __init__(
        self,
        gate: Gate,
        clock: Clock,
        *,
        hours: Hours,
        built: float,
        interfaces: Sequence[str] = (),
        pause_metered: bool = False,
    ) -> None:
        """Allow nothing before the link is known, where it matters.

        Args:
            gate: It is held with the codes "windows" and "link".
            clock: Both of its clocks are asked.
            hours: When uploads may go.
            built: A moment that has passed for certain, seconds since 1970: a clock that says less is wrong.
            interfaces: Globs of the network interfaces that uploads may leave by; none: any.
            pause_metered: Whether a metered link is not to be used.
        """
        self._gate = gate
        self._clock = clock
        self._hours = hours
        self._built = built
        self._interfaces = tuple(interfaces)
        self._pause_metered = pause_metered
        self._asked, self._opens = (
            0.0,
            0.0,
        )  # the closed time for which it is known when the hours open
        unknown = _Pause(
            "it is not known yet by which link the cloud is reached", "wait a few seconds"
        )
        self._set(
            _LINK, unknown if self.asks_link else None
        )  # those before a reload may have held it

    @property
    def asks_link(self) -> bool:
        """Whether anybody need look at the link."""
        return bool(self._interfaces) or self._pause_metered

    def look_at_clock(self) -> None:
        """Hold or release the gate by the hour. Cheap."""
        self._set(_HOURS, self._by_hour())

    def see(self, link: Link) -> None:
        """Hold or release the gate by the link as it is now."""
        if self.asks_link:
            self._set(_LINK, self._by_link(link))

    def _by_hour(self) -> _Pause | None:
        now = self._clock.now()
        if not self._hours.spans:
            return None
        if now < self._built:
            return _Pause(
                "this robot's clock is wrong, so it is not known whether upload.windows is open",
                _SET_CLOCK,
            )
        if self._hours.open(now):
            return None
        if not self._asked <= now < self._opens:
            self._asked, self._opens = now, self._hours.opens_at(now)
        return _Pause("outside upload.windows", _WAIT, self._clock.monotonic() + self._opens - now)

    def _by_link(self, link: Link) -> _Pause | None:
        if self._interfaces and link.interfaces is not None:
            allowed = ", ".join(self._interfaces)
            if not link.interfaces:
                return _Pause(
                    f"there is no way to the cloud; upload.interfaces allows {allowed}", _CONNECT
                )
            strange = [name for name in sorted(link.interfaces) if not self._allowed(name)]
            if strange:
                used = ", ".join(strange)
                return _Pause(
                    f"the way to the cloud is {used}; upload.interfaces allows {allowed}", _CONNECT
                )
        if self._pause_metered and link.metered:
            return _Pause("the link is metered, says NetworkManager", _METERED)
        return None

    def _allowed(self, name: str) -> bool:
        return any(fnmatchcase(name, glob) for glob in self._interfaces)

    def _set(self, code: str, pause: _Pause | None) -> None:
        if pause is None:
            if self._gate.release(code):
                _log.info("uploads may go on: %s", code, extra={"event": f"{code}_open"})
        elif self._gate.hold(code, pause.reason, pause.hint, next_probe=pause.until):
            _log.info(
                "uploads pause: %s. %s", pause.reason, pause.hint, extra={"event": f"{code}_closed"}
            )
