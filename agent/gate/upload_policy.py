"""Holds the gate where the operator allows no upload: at this hour, or over this link."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agent.gate.gate import Gate
from agent.model.hours import Hours
from agent.model.ports import Clock
from agent.model.transfer import Link

_log = logging.getLogger(__name__)

# The codes of the two holds. They are also the prefixes of the log events.
_HOURS_CODE = "windows"
_LINK_CODE = "link"

_SET_CLOCK = "set this robot's clock; uploads go on by themselves"
_WAIT = "nothing to do: uploads go on by themselves; upload.windows says when"
_CONNECT = (
    "connect the robot to an allowed network, or change upload.interfaces;"
    " uploads go on by themselves"
)
_METERED = (
    'connect the robot to another network, or set upload.metered = "allow";'
    " uploads go on by themselves"
)


@dataclass(frozen=True, slots=True)
class _Pause:
    """Why the gate is held, and the monotonic time at which that ends if it is known."""

    reason: str
    hint: str
    until: float | None = None


class UploadPolicy:
    """Turns the settings ``upload.windows``, ``interfaces`` and ``metered`` into holds of the gate.

    Every method may be called from any thread, but each method by one thread at a time.
    """

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
        """Hold the gate until the link is known, where the link matters.

        Args:
            gate: The gate that is held with the codes "windows" and "link".
            clock: Both its wall time and its monotonic time are used.
            hours: When uploads are allowed.
            built: A time that has passed for certain, in seconds since 1970. A clock that shows an
                earlier time is wrong.
            interfaces: Globs of the network interfaces that uploads may use; empty: any.
            pause_metered: Whether a metered link is not used.
        """
        self._gate = gate
        self._clock = clock
        self._hours = hours
        self._built = built
        self._interfaces = tuple(interfaces)
        self._pause_metered = pause_metered
        # The closed time that was computed last: from one wall time to another.
        self._closed_from = 0.0
        self._closed_until = 0.0
        unknown = _Pause(
            "it is not known yet by which link the cloud is reached", "wait a few seconds"
        )
        # The policy of the settings before a reload may hold the gate. So a release matters, too.
        self._set(_LINK_CODE, unknown if self.asks_link else None)

    @property
    def asks_link(self) -> bool:
        """Whether the settings depend on the link, so that it must be observed."""
        return bool(self._interfaces) or self._pause_metered

    def look_at_clock(self) -> None:
        """Hold or release the gate by the hour. The call is cheap."""
        self._set(_HOURS_CODE, self._by_hour())

    def see(self, link: Link) -> None:
        """Hold or release the gate by ``link``, the link as it is now."""
        if self.asks_link:
            self._set(_LINK_CODE, self._by_link(link))

    def _by_hour(self) -> _Pause | None:
        """Return why no upload is allowed at this hour; None where uploads are allowed."""
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
        if not self._closed_from <= now < self._closed_until:
            self._closed_from = now
            self._closed_until = self._hours.opens_at(now)
        until = self._clock.monotonic() + self._closed_until - now
        return _Pause("outside upload.windows", _WAIT, until)

    def _by_link(self, link: Link) -> _Pause | None:
        """Return why no upload is allowed over ``link``; None where uploads are allowed."""
        if self._interfaces and link.interfaces is not None:
            allowed = ", ".join(self._interfaces)
            if not link.interfaces:
                return _Pause(
                    f"there is no way to the cloud; upload.interfaces allows {allowed}", _CONNECT
                )
            forbidden = [name for name in sorted(link.interfaces) if not self._is_allowed(name)]
            if forbidden:
                used = ", ".join(forbidden)
                return _Pause(
                    f"the way to the cloud is {used}; upload.interfaces allows {allowed}", _CONNECT
                )
        if self._pause_metered and link.metered:
            return _Pause("the link is metered, says NetworkManager", _METERED)
        return None

    def _is_allowed(self, interface: str) -> bool:
        return any(fnmatchcase(interface, glob) for glob in self._interfaces)

    def _set(self, code: str, pause: _Pause | None) -> None:
        """Hold the gate with ``code`` because of ``pause``, or release it where there is none."""
        if pause is None:
            if self._gate.release(code):
                _log.info("uploads may go on: %s", code, extra={"event": f"{code}_open"})
        elif self._gate.hold(code, pause.reason, pause.hint, next_probe=pause.until):
            _log.info(
                "uploads pause: %s. %s", pause.reason, pause.hint, extra={"event": f"{code}_closed"}
            )
