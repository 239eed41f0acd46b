"""Enrolment: a robot without a key of the platform asks for one, keeps it, and from then on has it.

The platform tells a key once, to the first who asks. So whether it can be kept is tried before it is asked for, and
where writing it fails all the same it is written again, not asked for again.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable

from agent.gate.gate import Delays, Gate
from agent.model.errors import AgentError, CloudError, RefusedError, judge
from agent.model.ports import Clock, DeviceInit, ProfileKeeper
from agent.model.values import Enrolled

_log = logging.getLogger(__name__)

_HOLD = "not_enrolled"
_NOBODY = (
    "ask the platform's administrator whether this device may enrol; it is tried again by itself"
)
_RISK = "mend that before this process is stopped, or the key is lost: the platform does not tell it again"
_UNWRITABLE = "let the agent's user write to the folder of the device profile file, or move the file into agent.state_dir"
_NO_PLACE = "ask the platform's administrator for a device profile file with endpoints.deviceInit"


class Enrol:
    """One device's way to its key. May be used from any thread, by one at a time."""

    def __init__(
        self, platform: DeviceInit, profiles: ProfileKeeper, hide: Callable[..., None]
    ) -> None:
        """``hide`` is told each key before anybody else."""
        self._platform = platform
        self.profiles = profiles
        self._hide = hide
        self._unkept: dict[str, Enrolled] = {}  # told by the platform, not written yet
        self._asking = threading.Lock()
        self._ended = False

    def succeed(self, before: Enrol) -> None:
        """Take the place of ``before``: what it is told and can't write, this one writes."""
        self._unkept = before._unkept

    def end(self, seconds: float) -> bool:
        """Begin to ask no more; tells whether within ``seconds`` what was asked is answered and written."""
        self._ended = True
        if not self._asking.acquire(timeout=seconds):
            return False
        self._asking.release()
        return True

    def wanted(self) -> bool:
        """Whether the profile file says where to enrol, and names no device yet. Raises CloudError("profile_file")."""
        return not self.profiles.load() and bool(self.profiles.device_init())

    def once(self, device: str, *, rotate: bool = False) -> bool:
        """Ask for the key of ``device`` and keep it; False when it has one already and is not to ``rotate``.

        Raises CloudError, RefusedError where it is not known where to ask, and AgentError where nothing can be written:
        "profile_unwritable" before anything was asked, "key_unkept" after that; then calling again writes it.
        """
        try:
            with self._asking, self.profiles.changing():
                if device not in self._unkept:
                    known = self.profiles.load().get(device)
                    if known is not None and known.api_key and not rotate:
                        return False
                    self._unkept[device] = self._asked(device, rotate=rotate)
                self.profiles.put(device, self._unkept[device])
                del self._unkept[device]
        except (CloudError, OSError) as error:
            if device in self._unkept:
                raise AgentError(
                    f"the new key can't be written: {_text(error)}", code="key_unkept", hint=_RISK
                ) from error
            if isinstance(error, CloudError):
                raise
            message = f"the device profile file can't be written: {_text(error)}"
            raise AgentError(message, code="profile_unwritable", hint=_UNWRITABLE) from error
        _log.info(
            "device %s %s",
            device,
            "has a new key" if rotate else "is enrolled",
            extra={"event": "enrolled"},
        )
        return True

    def _asked(self, device: str, *, rotate: bool) -> Enrolled:
        if self._ended:
            raise CloudError(
                "InitDevice", "CANCELLED", "the agent goes on by another configuration, or stops"
            )
        endpoint = self.profiles.device_init()
        if not endpoint:
            raise RefusedError(
                "the device profile file does not say where devices enrol", hint=_NO_PLACE
            )
        answer = self._platform.enrol(endpoint, device, rotate=rotate)
        self._hide(answer.api_key, lasting=True)
        return answer


def _text(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)
    return (f"{error.filename}: " if error.filename else "") + (error.strerror or str(error))


def remedy(error: AgentError) -> str:
    """What to do about a failed enrolment."""
    if not isinstance(error, CloudError) or error.hint:
        return error.hint
    verdict = judge(error)
    return verdict.hint if verdict.kind in ("offline", "blocked") else _NOBODY


class Enrolling:
    """Enrols a robot whose profile file names no device, for as long as it takes; the gate is held meanwhile."""

    def __init__(self, enrol: Enrol, device: str, gate: Gate, clock: Clock, delays: Delays) -> None:
        """Nothing is asked yet."""
        self._enrol = enrol
        self._device = device
        self._gate = gate
        self._clock = clock
        self._delays = delays
        self._attempts = 0
        self._due = 0.0
        self._stamp: object = None
        self._told = ""

    def succeed(self, before: Enrolling) -> None:
        """Take the place of ``before``."""
        self._enrol.succeed(before._enrol)

    def end(self, seconds: float) -> bool:
        """Begin to ask no more; tells whether within ``seconds`` what was asked is answered and written."""
        return self._enrol.end(seconds)

    def prepare(self, not_before: float = 0.0) -> None:
        """Hold the gate where this robot is to enrol. Asks nobody; ``not_before`` (monotonic) is when ``look`` may."""
        self._stamp, self._due = self._enrol.profiles.stamp(), not_before
        if self._wanted():
            self._announce()

    def look(self) -> None:
        """Enrol, if that is to be and is due; to be called again and again."""
        if not self._wanted():
            self._gate.release(_HOLD)
            return
        stamp, now = self._enrol.profiles.stamp(), self._clock.monotonic()
        if stamp != self._stamp:  # somebody mended it
            self._stamp, self._due = stamp, now
        if now < self._due:
            if not self._attempts:
                self._announce()
            return
        self._attempts += 1
        try:
            self._enrol.once(self._device)
        except AgentError as error:
            self._due = self._clock.monotonic() + self._wait(error)
            self._hold(error.message, remedy(error), self._due)
            if error.message != self._told:
                self._told = error.message
                _log.warning(
                    "not enrolled yet: %s (%s)",
                    error.message,
                    remedy(error),
                    extra={"event": "enrolment_failed"},
                )
        else:
            self._gate.release(_HOLD)

    def _wanted(self) -> bool:
        try:
            return self._enrol.wanted()
        except CloudError:
            return False  # without a usable file nothing goes, and that is said elsewhere

    def _wait(self, error: AgentError) -> float:
        """Refusals that somebody has to mend elsewhere are asked about seldom; a full disk or a network often."""
        blocked = isinstance(error, CloudError) and judge(error).kind == "blocked"
        return self._delays.maximum if blocked else self._delays.after(self._attempts)

    def _announce(self) -> None:
        now = self._clock.monotonic()
        when = f"in {math.ceil(self._due - now)} s" if now < self._due else "now"
        self._hold(f"the platform is asked {when}", "wait a moment", max(now, self._due))

    def _hold(self, why: str, hint: str, until: float) -> None:
        reason = f"robot {self._device} is not enrolled yet: {why}"
        self._gate.hold(_HOLD, reason, hint, next_probe=until, cause="enrolment")
