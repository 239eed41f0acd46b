"""The state table: the one door through which a document's status changes.

Every move that is not in the table raises, so no other code can set a status by accident. What each event means
to people is written in the README's section on states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from agent.model.sync_log import Status, SyncLog

Event = Literal[
    "claimed",  # a worker takes it
    "done",  # verified in the bucket and reported
    "gate_closed",  # the cloud, a pause or the disk stops everybody: not this recording's fault
    "changed",  # only its mtime moved: the session is kept, it settles again
    "blocked_alone",  # this recording waits for something of its own
    "counted",  # an error that counts, attempts are left
    "gave_up",  # an error that is final, or the last counted one
    "session_lost",  # the platform forgot the session, attempts are left
    "due",  # its retry date has come
    "asked",  # somebody asked for it, or its cause changed
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
_ATTEMPT_GIVEN_BACK: frozenset[Event] = frozenset({"gate_closed", "changed", "blocked_alone"})
_DATED: frozenset[Event] = frozenset({"counted", "blocked_alone"})


class IllegalMoveError(Exception):
    """A status was about to change in a way that the state table does not know: a mistake in the agent."""


def move(log: SyncLog, event: Event, at: str, **changes: Any) -> SyncLog:
    """``log`` after ``event``, with ``changes`` to its other fields; ``at`` is the UTC time of the event.

    Counts the attempt, and keeps the fields that follow from the status true: a retry date stands exactly on a
    failed document that will be tried again. Raises :class:`IllegalMoveError` for any other move.
    """
    status = _TABLE.get((log.status, event))
    if status is None or (log.status == "failed" and not log.open):
        message = f"document {log.id}: no way from {log.status} by {event}"
        raise IllegalMoveError(message)
    if (event in _DATED) != (changes.get("next_retry_at") is not None):
        message = (
            f"document {log.id}: {event} {'needs a' if event in _DATED else 'has no'} retry date"
        )
        raise IllegalMoveError(message)
    if event == "session_lost":
        log = log.forget_session()
    fields: dict[str, Any] = {"next_retry_at": None, **changes, "status": status}
    if event == "claimed":
        fields["attempt_count"] = log.attempt_count + 1
        fields["started_at"] = log.started_at or at
    elif event in _ATTEMPT_GIVEN_BACK:
        fields["attempt_count"] = log.attempt_count - 1
    elif event == "asked":
        fields["attempt_count"] = 0
    elif event == "done":
        fields |= {"completed_at": at, "error": None}
    return replace(log, **fields)


def amend(log: SyncLog, **changes: Any) -> SyncLog:
    """``log`` with other fields than its status changed; raises :class:`IllegalMoveError` once it has ended."""
    if not log.open:
        message = f"document {log.id} is {log.status} and never changes again"
        raise IllegalMoveError(message)
    if forbidden := {"id", "status", "attempt_count", "next_retry_at"} & changes.keys():
        message = (
            f"document {log.id}: {', '.join(sorted(forbidden))} moves through the state table only"
        )
        raise IllegalMoveError(message)
    return replace(log, **changes)
