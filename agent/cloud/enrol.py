"""Enrolment: gets this robot's key from the platform, and writes it into the device profile file.

The platform gives a key once, to the first robot that asks. So the agent checks that it can write
the file before it asks. Where writing fails all the same, the key is written again, not requested
again.
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

# The code of the gate's hold. The status shows it, so it never changes.
_HOLD = "not_enrolled"

_ASK_ADMINISTRATOR = (
    "ask the platform's administrator whether this device may enrol; it is tried again by itself"
)
_KEY_AT_RISK = (
    "mend that before this process is stopped, or the key is lost: "
    "the platform does not give it again"
)
_UNWRITABLE = (
    "let the agent's user write to the folder of the device profile file, "
    "or move the file into agent.state_dir"
)
_NO_ENDPOINT = (
    "ask the platform's administrator for a device profile file with endpoints.deviceInit"
)


class Enrol:
    """Requests keys of devices from the platform, and writes them into the profile file.

    Any thread may call the methods; requests wait for each other.
    """

    def __init__(
        self, platform: DeviceInit, profiles: ProfileKeeper, hide: Callable[..., None]
    ) -> None:
        """Join the parts; ``hide`` is given each key before any other code sees it."""
        self._platform = platform
        self.profiles = profiles
        self._hide = hide
        # What the platform gave and could not be written yet, by device.
        self._unwritten: dict[str, Enrolled] = {}
        self._requesting = threading.Lock()
        self._ended = False

    def take_over(self, before: Enrol) -> None:
        """Take the place of ``before``: a key that it could not write is written here."""
        self._unwritten = before._unwritten

    def end(self, seconds: float) -> bool:
        """Make no more requests; return whether the one under way ends within ``seconds``.

        A request ends when its key is written.
        """
        self._ended = True
        if not self._requesting.acquire(timeout=seconds):
            return False
        self._requesting.release()
        return True

    def wanted(self) -> bool:
        """Return whether the profile file says where to enrol, and names no device yet.

        Raises CloudError("profile_file").
        """
        return not self.profiles.load() and bool(self.profiles.device_init())

    def once(self, device: str, *, rotate: bool = False) -> bool:
        """Request the key of ``device`` and write it, or another key where it is to ``rotate``.

        Returns:
            False when the device has a key already and is not to ``rotate``.

        Raises:
            CloudError: The platform gave no key, or the profile file can't be used.
            RefusedError: The profile file does not say where to enrol.
            AgentError: The file can't be written. "profile_unwritable" means that nothing was
                requested. "key_unkept" means that there is a key, and another call writes it.
        """
        try:
            with self._requesting, self.profiles.changing():
                if device not in self._unwritten:
                    known = self.profiles.load().get(device)
                    if known is not None and known.api_key and not rotate:
                        return False
                    self._unwritten[device] = self._request(device, rotate=rotate)
                self.profiles.put(device, self._unwritten[device])
                del self._unwritten[device]
        except (CloudError, OSError) as error:
            if device in self._unwritten:
                raise AgentError(
                    f"the new key can't be written: {_text(error)}",
                    code="key_unkept",
                    hint=_KEY_AT_RISK,
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

    def _request(self, device: str, *, rotate: bool) -> Enrolled:
        if self._ended:
            raise CloudError(
                "InitDevice", "CANCELLED", "the agent goes on by another configuration, or stops"
            )
        endpoint = self.profiles.device_init()
        if not endpoint:
            raise RefusedError(
                "the device profile file does not say where devices enrol", hint=_NO_ENDPOINT
            )
        answer = self._platform.enrol(endpoint, device, rotate=rotate)
        self._hide(answer.api_key, lasting=True)
        return answer


def _text(error: Exception) -> str:
    """Return what people read of an error; of one of the system, its file and what is wrong."""
    if not isinstance(error, OSError):
        return str(error)
    name = f"{error.filename}: " if error.filename else ""
    return name + (error.strerror or str(error))


def remedy(error: AgentError) -> str:
    """Return what an operator can do about a failed enrolment."""
    if not isinstance(error, CloudError) or error.hint:
        return error.hint
    verdict = judge(error)
    return verdict.hint if verdict.kind in ("offline", "blocked") else _ASK_ADMINISTRATOR


class Enrolling:
    """Enrols a robot whose profile file names no device, however long it takes.

    The gate is held until the robot is enrolled, because there is no key to upload with.

    One thread at a time calls :meth:`enrol_if_due`; any thread may call :meth:`end`.
    """

    def __init__(self, enrol: Enrol, device: str, gate: Gate, clock: Clock, delays: Delays) -> None:
        """Enrol ``device``. ``delays`` are the waits after failed requests."""
        self._enrol = enrol
        self._device = device
        self._gate = gate
        self._clock = clock
        self._delays = delays
        self._attempts = 0
        # The monotonic time of the next request.
        self._due = 0.0
        # The state of the profile file when it was last checked.
        self._stamp: object = None
        # The error that was logged last.
        self._logged = ""

    def take_over(self, before: Enrolling) -> None:
        """Take the place of ``before``: a key that it could not write is written here."""
        self._enrol.take_over(before._enrol)

    def end(self, seconds: float) -> bool:
        """Make no more requests; return whether the one under way ends within ``seconds``.

        A request ends when its key is written.
        """
        return self._enrol.end(seconds)

    def prepare(self, not_before: float = 0.0) -> None:
        """Hold the gate if this robot is to enrol. Nothing is requested before ``not_before``.

        ``not_before`` is a monotonic time.
        """
        self._stamp, self._due = self._enrol.profiles.stamp(), not_before
        if self._wanted():
            self._announce()

    def enrol_if_due(self) -> None:
        """Enrol if this robot has no key and it is time; to be called every few seconds."""
        if not self._wanted():
            self._gate.release(_HOLD)
            return
        stamp, now = self._enrol.profiles.stamp(), self._clock.monotonic()
        # A change of the profile file may have removed what kept the robot from enrolling.
        if stamp != self._stamp:
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
            if error.message != self._logged:
                self._logged = error.message
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
            # Without a usable profile file nothing can be uploaded. The status names that error.
            return False

    def _wait(self, error: AgentError) -> float:
        """Return the seconds until the next request.

        A refusal that an administrator has to lift is repeated seldom. After an error of the disk
        or the network the request is repeated soon.
        """
        is_blocked = isinstance(error, CloudError) and judge(error).kind == "blocked"
        return self._delays.maximum if is_blocked else self._delays.after(self._attempts)

    def _announce(self) -> None:
        """Hold the gate with the time of the next request as the reason."""
        now = self._clock.monotonic()
        when = f"in {math.ceil(self._due - now)} s" if now < self._due else "now"
        self._hold(f"the platform is asked {when}", "wait a moment", max(now, self._due))

    def _hold(self, why: str, hint: str, until: float) -> None:
        reason = f"robot {self._device} is not enrolled yet: {why}"
        self._gate.hold(_HOLD, reason, hint, next_probe=until, cause="enrolment")
