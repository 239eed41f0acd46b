"""What the end of an attempt means for its document and for the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agent.model.errors import (
    AgentError,
    CloudError,
    FileChangedError,
    GateClosedError,
    RecordingError,
    SessionLostError,
    Verdict,
    WaitingError,
    fault,
    judge,
)
from agent.model.states import Event
from agent.model.sync_log import Fault, Kind
from agent.model.unforeseen import understood

# An empty event is one that counts.
_TABLE: Sequence[tuple[type[AgentError], Event | Literal[""], Kind]] = (
    (GateClosedError, "gate_closed", "offline"),
    (FileChangedError, "changed", "counted"),
    (WaitingError, "blocked_alone", "blocked"),
    (RecordingError, "gave_up", "final"),
    (AgentError, "", "counted"),
)
_QUIET: frozenset[str] = frozenset(
    {"gate_closed", "changed"}
)  # the document keeps the error it had


@dataclass(frozen=True, slots=True)
class Outcome:
    """The event that moves the document, the error it keeps, and the verdict that closes the gate for all."""

    event: Event
    fault: Fault | None = None
    closes: Verdict | None = None
    answered: bool = False  # by a cloud that is there, or nobody: what closes may still be this recording's own fault

    @property
    def code(self) -> str:
        """What went wrong, "" for nothing."""
        return self.fault.code if self.fault else ""


def outcome_of(
    error: Exception | None, *, attempts: int, max_attempts: int, others_passed: bool
) -> Outcome:
    """Judge an attempt by how it ended; None is success.

    ``attempts`` counts this one. ``others_passed`` says that another recording has passed the call that failed since
    this recording's previous failure (where no call is to blame: has come through whole): then the fault is the
    recording's own, else the cloud's, or this robot's.
    """
    counted: Event = "counted" if attempts < max_attempts else "gave_up"
    if error is None:
        return Outcome("done")
    error = understood(error)
    if isinstance(error, SessionLostError) or (
        isinstance(error, CloudError) and error.code == "UPLOAD_NOT_FOUND"
    ):
        return Outcome(
            "session_lost" if counted == "counted" else "gave_up", fault(error, "counted")
        )
    if isinstance(error, CloudError):
        return _of_cloud(error, counted, others_passed=others_passed)
    event, kind = next(
        (event, kind) for kind_of_error, event, kind in _TABLE if isinstance(error, kind_of_error)
    )
    return Outcome(event or counted, None if event in _QUIET else fault(error, kind))


def _of_cloud(error: CloudError, counted: Event, *, others_passed: bool) -> Outcome:
    verdict = judge(error)
    if verdict.kind == "final":
        return Outcome("gave_up", fault(error, "final"))
    if error.code == "checksum":
        return Outcome(counted, fault(error, "counted"))
    if error.code == "out_of_memory" and others_passed:
        # The only lack that may be one recording's own: it may need more memory than the others, for its sidecar, say.
        return Outcome("blocked_alone", fault(error, "blocked"))
    # An answer that only this recording gets is its own fault, even one that says the server is in trouble.
    answered = verdict.kind == "counted" or (verdict.kind == "offline" and error.status >= 500)
    if answered and others_passed:
        return Outcome(counted, fault(error, "counted"))
    if verdict.kind == "counted":
        verdict = Verdict("offline", verdict.hint)
    if verdict.kind == "lease_lost":
        verdict = Verdict(
            "blocked",
            "the store refuses fresh credentials: check this robot's clock, then the platform",
        )
    return Outcome("gate_closed", fault(error, verdict.kind, verdict.hint), verdict, answered)
