"""The state table, the only place where the status of a document changes.

A move that is not in the table raises an error, so no other code can set a status by accident.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from agent.model.sync_log import MoveChanges, Status, SyncLog, SyncLogChanges

if TYPE_CHECKING:
    from typing_extensions import Unpack

# What can happen to a document:
#
# - claimed: a worker takes the document.
# - done: the object is verified in the bucket and reported to the platform.
# - gate_closed: the cloud, a pause or the disk stops all uploads. The recording is not the cause.
# - changed: only the file's modification time has changed. The session is kept, and the file must
#   settle again.
# - blocked_alone: this recording waits for something of its own.
# - counted: an error that counts as an attempt, and attempts are left.
# - gave_up: an error that is final, or the last counted one.
# - session_lost: the platform does not know the session any more, and attempts are left.
# - due: the retry date has come.
# - asked: an operator asked for the recording, or the cause of its failure has changed.
Event = Literal[
    "claimed",
    "done",
    "gate_closed",
    "changed",
    "blocked_alone",
    "counted",
    "gave_up",
    "session_lost",
    "due",
    "asked",
]

_TABLE: dict[tuple[Status, Event], Status] = {
    ("pending", "claimed"): "in_progress",
    ("in_progress", "done"): "completed",
    ("in_progress", "gate_closed"): "pending",
    ("in_progress", "changed"): "pending",
    ("in_progress", "blocked_alone"): "failed",
    ("in_progress", "counted"): "failed",
    ("in_progress", "gave_up"): "failed",
    ("in_progress", "session_lost"): "pending",
    ("failed", "due"): "pending",
    ("failed", "asked"): "pending",
}

# Events after which the attempt does not count.
_ATTEMPT_GIVEN_BACK: frozenset[Event] = frozenset({"gate_closed", "changed", "blocked_alone"})

# Events that set a retry date.
_DATED: frozenset[Event] = frozenset({"counted", "blocked_alone"})

# The fields that may change without a move.
_AMENDABLE = SyncLogChanges.__optional_keys__


class IllegalMoveError(Exception):
    """A status was about to change in a way that the table forbids. This is a bug in the agent."""


def move(log: SyncLog, event: Event, at: str, **changes: Unpack[MoveChanges]) -> SyncLog:
    """Return ``log`` after ``event``, with ``changes`` to its other fields.

    ``at`` is the UTC time of the event. The function counts the attempt, and sets the fields that
    follow from the status. A document has a retry date if and only if it has failed and will be
    tried again.

    Raises IllegalMoveError for a move that is not in the table, and for a retry date that is
    missing or does not belong to the event.
    """
    status = _TABLE.get((log.status, event))
    if status is None or (log.status == "failed" and not log.open):
        message = f"document {log.id}: {event} is not possible in status {log.status}"
        raise IllegalMoveError(message)
    has_date = changes.get("next_retry_at") is not None
    if has_date != (event in _DATED):
        message = f"document {log.id}: {event} {'has no' if has_date else 'needs a'} retry date"
        raise IllegalMoveError(message)
    fields: dict[str, Any] = {"next_retry_at": None, **changes, "status": status}
    if event == "claimed":
        fields["attempt_count"] = log.attempt_count + 1
        fields["started_at"] = log.started_at or at
    elif event in _ATTEMPT_GIVEN_BACK:
        fields["attempt_count"] = log.attempt_count - 1
    elif event == "asked":
        fields["attempt_count"] = 0
    elif event == "session_lost":
        fields |= _no_session(log)
    elif event == "done":
        # A document that only writes a manifest anew has the time of the upload from the beginning.
        fields |= {"completed_at": log.completed_at or at, "error": None}
    return replace(log, **fields)


def amend(log: SyncLog, **changes: Unpack[SyncLogChanges]) -> SyncLog:
    """Return ``log`` with other fields than its status changed.

    Raises IllegalMoveError if the document has ended, and for a field that only a move changes.
    """
    if not log.open:
        message = f"document {log.id} is {log.status} and never changes again"
        raise IllegalMoveError(message)
    if forbidden := sorted(changes.keys() - _AMENDABLE):
        message = f"document {log.id}: only a move changes {', '.join(forbidden)}"
        raise IllegalMoveError(message)
    if "session" in changes and changes["session"] is None:
        return replace(log, **{**changes, **_no_session(log)})
    return replace(log, **changes)


def _no_session(log: SyncLog) -> dict[str, Any]:
    """Return the fields that change when the upload session of ``log`` is given up.

    A document that was to write a manifest anew uploads the recording then.
    """
    if log.is_revision:
        return {"session": None, "trigger": "cause-changed", "completed_at": None}
    return {"session": None}
