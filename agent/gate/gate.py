"""Answers whether anything may be sent now. Asked before every claim and every part.

Two things close the gate:

- A *hold* has a name and lasts until it is released. Examples: the disk is full, the agent stops,
  the operator allows no upload at this hour or over this link, this robot has no key of the
  platform yet or was just switched on.
- The *cloud* closes the gate when a call failed that would fail for every recording. Then one
  recording at a time probes, and the first success of that call opens the gate for all. Some errors
  have no single call to blame: this robot lacks something, or the error is an unexpected one. Then
  the first recording that is uploaded from beginning to end opens the gate.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, replace
from typing import Literal

from agent.model.error_table import Kind, Verdict
from agent.model.errors import WHOLE, CloudError, GateClosedError
from agent.model.ports import Clock

Cause = Literal["hold", "enrolment", "cloud"]

# The wait is doubled at most so many times. The result is far above any maximum, and a float still
# holds it.
_MAX_DOUBLINGS = 62


@dataclass(frozen=True, slots=True)
class Delays:
    """How long to wait before the next attempt; all values in seconds."""

    base: float
    maximum: float
    jitter: float

    def after(self, attempt: int) -> float:
        """Return the wait after the failed attempt number ``attempt``, which counts from 1.

        The wait doubles with each attempt, is spread by the jitter, and is never above the maximum.
        """
        doubled = min(self.base * 2.0 ** min(attempt - 1, _MAX_DOUBLINGS), self.maximum)
        return min(doubled + self.spread(), self.maximum)

    def spread(self) -> float:
        """Return a random wait within the jitter, so that many robots do not call at one moment."""
        return random.uniform(0, self.jitter)  # noqa: S311 - spreads load, hides nothing


@dataclass(frozen=True, slots=True)
class Closed:
    """Why the gate is closed, and when that changes or is tried again.

    ``since`` and ``next_probe`` are monotonic times. ``next_probe`` is None where the gate stays
    closed until a hold is released.
    """

    cause: Cause
    code: str
    reason: str
    hint: str
    since: float
    next_probe: float | None = None
    kind: Kind = "offline"

    # The call whose success opens the gate; WHOLE stands for a whole upload.
    call: str = WHOLE

    # How many probes were refused, the first refusal included.
    probes: int = 0

    # The only document that was refused so far, where the refusal may be the document's own fault.
    # 0 means that there is no such document.
    alone: int = 0


class Gate:
    """Open, or closed with a reason.

    All uploads ask this one object, so an outage is met by one recording at a time and not by each.

    Every method may be called from any thread.
    """

    def __init__(self, clock: Clock, delays: Delays) -> None:
        """Begin with an open gate.

        Args:
            clock: Its monotonic time is used.
            delays: The waits between probes of a cloud that is away. The attribute of this name may
                be set to other delays at any time.
        """
        self._clock = clock
        self.delays = delays
        self._lock = threading.Lock()
        self._holds: dict[str, Closed] = {}
        self._cloud: Closed | None = None
        self._probing = False
        # For each call the last documents that it succeeded for, at most two, with the times.
        self._passes: dict[str, list[tuple[int, float]]] = {}

    def closed(self, *, but: str = "") -> Closed | None:
        """Return why the gate is closed now; None where it is open.

        Holds come before the cloud. The hold with the code ``but`` does not count.
        """
        with self._lock:
            return next((hold for code, hold in self._holds.items() if code != but), self._cloud)

    def is_held_by(self, code: str) -> bool:
        """Return whether there is a hold with this ``code``."""
        with self._lock:
            return code in self._holds

    def check(self, *, probe: bool) -> None:
        """Raise GateClosedError where the next part must not be sent.

        A ``probe`` may pass a gate that the cloud closed.
        """
        closed = self.closed()
        if closed is not None and not (probe and closed.cause == "cloud"):
            raise GateClosedError(closed.reason, code=closed.code, hint=closed.hint)

    def hold(
        self,
        code: str,
        reason: str,
        hint: str = "",
        *,
        next_probe: float | None = None,
        cause: Cause = "hold",
    ) -> bool:
        """Close the gate until :meth:`release` is called with the same ``code``.

        A hold that exists already gets the new reason.

        Args:
            code: The name of the hold.
            reason: Why the gate is closed, for people.
            hint: What an operator can do.
            next_probe: The monotonic time at which the hold ends by itself, or at which enrolment
                is tried again.
            cause: What kind of hold this is.

        Returns:
            Whether the hold is new.
        """
        with self._lock:
            before = self._holds.get(code)
            since = before.since if before else self._clock.monotonic()
            self._holds[code] = Closed(cause, code, reason, hint, since, next_probe)
            return before is None

    def release(self, code: str) -> bool:
        """End a hold. Return whether there was one with this code."""
        with self._lock:
            return self._holds.pop(code, None) is not None

    def close(self, error: CloudError, verdict: Verdict, alone: int = 0) -> bool:
        """Close the gate because the cloud failed a call in a way that concerns every recording.

        A gate that is closed already keeps the call that closed it. Where no call was to blame, the
        gate takes the call that fails now.

        Args:
            error: The error of the call.
            verdict: What the table of errors says of it.
            alone: The document that was refused, where that may be the document's own fault. Then
                the next document may probe at once, which shows whose fault it is.

        Returns:
            Whether the gate was open before.
        """
        with self._lock:
            before = self._cloud
            if before is not None and not self._probing:
                # A call that was in flight when the gate closed tells nothing new.
                return False
            now = self._clock.monotonic()
            probes = before.probes + 1 if before else 1
            wait = self.delays.after(probes) if verdict.kind == "offline" else self.delays.maximum
            is_still_alone = not error.retry_after and (before is None or before.alone == alone)
            self._cloud = Closed(
                cause="cloud",
                code=error.code,
                reason=error.message,
                hint=error.hint or verdict.hint,
                since=before.since if before else now,
                next_probe=now + max(wait, min(error.retry_after, self.delays.maximum)),
                kind=verdict.kind,
                call=(before.call if before else WHOLE) or error.call,
                probes=probes,
                alone=alone if is_still_alone else 0,
            )
            return before is None

    def passed(self, call: str, who: int) -> None:
        """Note that ``call`` succeeded for the document ``who``.

        Opens the gate if this is the call that closed it. The call WHOLE stands for an upload that
        was made from beginning to end.
        """
        with self._lock:
            others = [entry for entry in self._passes.get(call, []) if entry[0] != who]
            self._passes[call] = [(who, self._clock.monotonic()), *others[:1]]
            if self._cloud is not None and self._cloud.call == call:
                self._cloud = None

    def others_passed(self, call: str, who: int, since: float) -> bool:
        """Return whether ``call`` succeeded for another document than ``who``.

        Only a success after the monotonic time ``since`` counts.
        """
        with self._lock:
            return any(entry[0] != who and entry[1] > since for entry in self._passes.get(call, []))

    def probe_due(self) -> bool:
        """Return whether some document may try now what the closed cloud refused.

        The call is cheap, so it is made before a document is looked for.
        """
        with self._lock:
            cloud = self._cloud
            if self._holds or cloud is None or self._probing:
                return False
            return bool(cloud.alone) or self._clock.monotonic() >= (cloud.next_probe or 0)

    def begin_probe(self, who: int) -> bool:
        """Return whether the document ``who`` may try now what the closed cloud refused.

        If so, the document owns the probe until :meth:`end_probe` is called.
        """
        with self._lock:
            cloud = self._cloud
            if self._holds or cloud is None or self._probing:
                return False
            if cloud.alone in (0, who) and self._clock.monotonic() < (cloud.next_probe or 0):
                return False
            self._probing = True
            return True

    def end_probe(self, *, synced: bool) -> None:
        """End the probe, so that another document may begin one.

        Args:
            synced: Whether the recording was uploaded from beginning to end. That opens the gate,
                whatever call closed it.
        """
        with self._lock:
            self._probing = False
            if self._cloud is not None:
                if synced:
                    self._cloud = None
                elif (self._cloud.next_probe or 0) <= self._clock.monotonic():
                    wait = self.delays.after(self._cloud.probes)
                    self._cloud = replace(self._cloud, next_probe=self._clock.monotonic() + wait)

    def probe_now(self) -> None:
        """Let the next probe begin at once, because the cause may have been mended on this robot.

        The profile file, the asset map or the configuration has changed.
        """
        with self._lock:
            if self._cloud is not None:
                self._cloud = replace(self._cloud, next_probe=self._clock.monotonic())
