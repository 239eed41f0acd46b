"""May anything go on? The one answer, asked before every claim and every part.

Two things close the gate. A *hold* has a name and lasts until it is released: the disk is full, the agent stops, the
operator allows no upload at this hour or over this link, this robot has no key of the platform yet or was just
switched on.
The *cloud* closes it when a call failed that would fail for everybody; then one recording at a time probes, and the
first success of that call opens the gate for all. Where no single call is to blame, because this robot lacks something
or nobody foresaw what happened, the first recording that comes through whole opens it.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, replace
from typing import Literal

from agent.model.errors import WHOLE, CloudError, GateClosedError, Verdict
from agent.model.ports import Clock
from agent.model.values import Kind

Cause = Literal["hold", "enrolment", "cloud"]


@dataclass(frozen=True, slots=True)
class Delays:
    """How long to wait before trying again; all in seconds."""

    base: float
    maximum: float
    jitter: float

    def after(self, attempt: int) -> float:
        """The wait after failed attempt number ``attempt`` (from 1): doubling, spread by the jitter, capped."""
        doubled = min(self.base * 2.0 ** min(attempt - 1, 62), self.maximum)
        return min(doubled + self.spread(), self.maximum)

    def spread(self) -> float:
        """A random wait within the jitter, for what many robots would begin at the same moment."""
        return random.uniform(0, self.jitter)  # noqa: S311 - spreads load, hides nothing


@dataclass(frozen=True, slots=True)
class Closed:
    """Why nothing goes on, and when that is tried next (monotonic; None: when the hold is released)."""

    cause: Cause
    code: str
    reason: str
    hint: str
    since: float
    next_probe: float | None = None
    kind: Kind = "offline"
    call: str = WHOLE
    probes: int = 0
    alone: int = 0  # the only document that was refused so far, where that may be its own fault; 0 = none such


class Gate:
    """Open, or closed with a reason. Every method may be called from any thread."""

    def __init__(self, clock: Clock, delays: Delays) -> None:
        """``delays`` pace the probes of a cloud that is away."""
        self._clock = clock
        self.delays = delays  # others may be set at any time
        self._lock = threading.Lock()
        self._holds: dict[str, Closed] = {}
        self._cloud: Closed | None = None
        self._probing = False
        self._passes: dict[str, list[tuple[int, float]]] = {}

    def closed(self, *, but: str = "") -> Closed | None:
        """The reason that stands now, other than the hold ``but``; holds come before the cloud."""
        with self._lock:
            return next((hold for code, hold in self._holds.items() if code != but), self._cloud)

    def check(self, *, probe: bool) -> None:
        """Raise GateClosedError where the next part may not start. A probe may pass a gate that the cloud closed."""
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
        """Close until :meth:`release` of the same ``code``; tells whether it was new.

        One that stands already takes the new reason. ``next_probe`` (monotonic) is when it will end by itself, or when
        enrolment is tried again.
        """
        with self._lock:
            before = self._holds.get(code)
            since = before.since if before else self._clock.monotonic()
            self._holds[code] = Closed(cause, code, reason, hint, since, next_probe)
            return before is None

    def release(self, code: str) -> bool:
        """End a hold; tells whether there was one."""
        with self._lock:
            return self._holds.pop(code, None) is not None

    def close(self, error: CloudError, verdict: Verdict, alone: int = 0) -> bool:
        """Close because the cloud failed a call for everybody; tells whether the gate was open before.

        A gate that is closed already keeps the call that closed it; where none was to blame, it takes the call that
        fails now. ``alone`` is the document that was refused, where that may be its own fault: then the next one
        needn't wait to find out.
        """
        with self._lock:
            before = self._cloud
            if before is not None and not self._probing:
                return False  # what was in flight when it closed says nothing new
            now = self._clock.monotonic()
            probes = before.probes + 1 if before else 1
            wait = self.delays.after(probes) if verdict.kind == "offline" else self.delays.maximum
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
                alone=alone
                if not error.retry_after and (before is None or before.alone == alone)
                else 0,
            )
            return before is None

    def passed(self, call: str, who: int) -> None:
        """Note that ``call`` succeeded for document ``who``; opens the gate if this is the call that closed it.

        WHOLE stands for an upload that came through from its beginning to its end.
        """
        with self._lock:
            others = [entry for entry in self._passes.get(call, []) if entry[0] != who]
            self._passes[call] = [(who, self._clock.monotonic()), *others[:1]]
            if self._cloud is not None and self._cloud.call == call:
                self._cloud = None

    def others_passed(self, call: str, who: int, since: float) -> bool:
        """Whether ``call`` succeeded for another document than ``who`` after the monotonic time ``since``."""
        with self._lock:
            return any(entry[0] != who and entry[1] > since for entry in self._passes.get(call, []))

    def probe_due(self) -> bool:
        """Whether some document may try now what the closed cloud refused. Cheap, and asked before looking for one."""
        with self._lock:
            cloud = self._cloud
            if self._holds or cloud is None or self._probing:
                return False
            return bool(cloud.alone) or self._clock.monotonic() >= (cloud.next_probe or 0)

    def begin_probe(self, who: int) -> bool:
        """Whether document ``who`` may try now what the closed cloud refused; it then owns the probe."""
        with self._lock:
            cloud = self._cloud
            if self._holds or cloud is None or self._probing:
                return False
            if cloud.alone in (0, who) and self._clock.monotonic() < (cloud.next_probe or 0):
                return False
            self._probing = True
            return True

    def end_probe(self, *, synced: bool) -> None:
        """Give the probe back. A recording that came through whole opens the gate, whatever call closed it."""
        with self._lock:
            self._probing = False
            if self._cloud is not None:
                if synced:
                    self._cloud = None
                elif (self._cloud.next_probe or 0) <= self._clock.monotonic():
                    wait = self.delays.after(self._cloud.probes)
                    self._cloud = replace(self._cloud, next_probe=self._clock.monotonic() + wait)

    def probe_now(self) -> None:
        """The cause changed on this robot (profile file, asset map, configuration): don't wait for the next date."""
        with self._lock:
            if self._cloud is not None:
                self._cloud = replace(self._cloud, next_probe=self._clock.monotonic())
