"""Says what the end of an attempt means for its document and for the gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.model.error_table import Kind, Verdict
from agent.model.errors import (
    AgentError,
    CloudError,
    FileChangedError,
    GateClosedError,
    RecordingError,
    SessionLostError,
    WaitingError,
    fault,
    judge,
)
from agent.model.states import Event
from agent.model.sync_log import Fault
from agent.model.unforeseen import understood

# What an error means that is no CloudError; the first class that fits decides. All other errors
# count as an attempt.
_TABLE: Sequence[tuple[type[AgentError], Event, Kind]] = (
    (GateClosedError, "gate_closed", "offline"),
    (FileChangedError, "changed", "counted"),
    (WaitingError, "blocked_alone", "blocked"),
    (RecordingError, "gave_up", "final"),
)

# After these events the document keeps the error that it had.
_KEEPS_ERROR: frozenset[str] = frozenset({"gate_closed", "changed"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """The event that moves the document, the error that it keeps, and what closes the gate.

    ``closes`` is the verdict that closes the gate for all recordings, None for none. ``answered``
    says that a cloud which can be reached gave it. Then it may still be this recording's own fault.
    """

    event: Event
    fault: Fault | None = None
    closes: Verdict | None = None
    answered: bool = False

    @property
    def code(self) -> str:
        """The code of the error, "" for none."""
        return self.fault.code if self.fault else ""


def outcome_of(
    error: Exception | None, *, attempts: int, max_attempts: int, others_passed: bool
) -> Outcome:
    """Judge an attempt by how it ended.

    Args:
        error: What ended the attempt; None is success.
        attempts: The number of attempts so far, this one included.
        max_attempts: After so many attempts a document fails finally.
        others_passed: Whether another recording has passed the call that failed since this
            recording's previous failure. Where no call failed, the other recording has come
            through as a whole. Then the error is this recording's own. Else it is the cloud's or
            this robot's.
    """
    counted: Event = "counted" if attempts < max_attempts else "gave_up"
    if error is None:
        return Outcome("done")
    error = understood(error)
    if _is_session_lost(error):
        lost: Event = "session_lost" if counted == "counted" else "gave_up"
        return Outcome(lost, fault(error, "counted"))
    if isinstance(error, CloudError):
        return _of_cloud(error, counted, others_passed=others_passed)
    for error_class, table_event, kind in _TABLE:
        if isinstance(error, error_class):
            keeps_error = table_event in _KEEPS_ERROR
            return Outcome(table_event, None if keeps_error else fault(error, kind))
    return Outcome(counted, fault(error, "counted"))


def _is_session_lost(error: AgentError) -> bool:
    """Return whether the platform does not know the upload session any more."""
    if isinstance(error, CloudError):
        return error.means("session_unknown")
    return isinstance(error, SessionLostError)


def _of_cloud(error: CloudError, counted: Event, *, others_passed: bool) -> Outcome:
    """Judge an error of a call to the cloud; ``counted`` is the event of a counted error."""
    verdict = judge(error)
    if verdict.kind == "final":
        return Outcome("gave_up", fault(error, "final"))
    if error.means("wrong_bytes"):
        return Outcome(counted, fault(error, "counted"))
    if error.means("own_memory") and others_passed:
        return Outcome("blocked_alone", fault(error, "blocked"))
    # An answer that only this recording gets is its own fault, even one that says that the server
    # is in trouble.
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
