"""Summarizes the history for the status: what waits, what failed, what must still be aborted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

from agent.model.ports import Clock, History
from agent.model.sync_log import SyncLog

# The form of the status document. It changes when a key is removed or gets another meaning.
STATUS_SCHEMA = 1

# The largest number of waiting documents that a status names.
MAX_NAMED = 20

# The history is summarized anew after one second for so many open documents.
_SUMMARY_DOCUMENTS_PER_SECOND = 10_000

# How many documents that failed for good a status names. They are the newest ones.
_MAX_FAILED = 5

# How many failed documents are read to find these.
_MAX_FAILED_READ = 100


class KeptSummary:
    """The summary of the history for the status document of the running agent.

    It keeps the summary until the history has changed and some time has passed, because a summary
    of many documents takes long.

    It must be used by one thread at a time.
    """

    def __init__(self, history: History, clock: Clock) -> None:
        """Begin without a summary."""
        self._history = history
        self._clock = clock
        self._summary: dict[str, Any] = {}
        # The number of changes of the history to which the summary belongs.
        self._changes = -1
        self._due = 0.0

    def take(self) -> dict[str, Any]:
        """Return the summary as JSON, with a part of the documents that wait."""
        now = self._clock.monotonic()
        changes = self._history.changes()
        if changes != self._changes and now >= self._due:
            self._changes = changes
            self._summary = summarize_history(self._history, MAX_NAMED)
            self._due = now + self._summary["queue_length"] / _SUMMARY_DOCUMENTS_PER_SECOND
        return self._summary


def summarize_history(history: History, named: int | None = None) -> dict[str, Any]:
    """Return the state of all recordings as JSON. Times are UTC, sizes are bytes.

    At most ``named`` of the documents that wait are named. None means all.
    """
    open_logs = history.open()
    waiting = [log for log in open_logs if log.error is not None]
    discovered = [log for log in open_logs if not log.resync]
    counts = history.counts()
    failed = islice(_failed_for_good(history), _MAX_FAILED) if counts["failed"] else ()
    stuck_markers = [marker.path for marker in history.known_markers() if marker.through is None]
    return {
        "schema": STATUS_SCHEMA,
        "recordings": dict(counts),
        "queue_length": len(open_logs),
        "backlog_bytes": sum(log.file_size for log in open_logs),
        "oldest_unsynced": min((log.queued_at for log in discovered), default=None),
        "waiting": [_as_json(log) for log in waiting[:named]],
        "waiting_count": len(waiting),
        "failed": [_as_json(log) for log in failed],
        "orphaned_uploads": len(history.orphans()),
        "stuck_markers": stuck_markers[:MAX_NAMED],
        "damaged_lines": history.damage(),
    }


def _failed_for_good(history: History) -> Iterator[SyncLog]:
    """Yield the failed documents that are not tried again and are the newest of their recording."""
    for log in islice(history.newest_first("failed"), _MAX_FAILED_READ):
        newest = None if log.open else history.newest(log.fingerprint)
        if newest is not None and newest.id == log.id:
            yield log


def _as_json(log: SyncLog) -> dict[str, Any]:
    return {
        "id": log.id,
        "episode_id": log.episode_id,
        "path": log.path,
        "status": log.status,
        "attempt_count": log.attempt_count,
        "error": asdict(log.error) if log.error else None,
        "next_retry_at": log.next_retry_at,
    }
