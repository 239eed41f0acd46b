"""How the recordings stand by the history alone: what waits for what, what failed, what is owed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from typing import Any

from agent.model.ports import History
from agent.model.sync_log import SyncLog

NAMED = 20  # documents that wait and are named
_FAILED = 5  # documents that failed for good and are named: the newest
_LOOKED_AT = 100  # failed documents that are read for these


def standing(history: History, named: int | None = None) -> dict[str, Any]:
    """JSON; times are UTC, sizes bytes. At most ``named`` of the documents that wait are named; None: all."""
    open_ = history.open()
    waiting = [log for log in open_ if log.error is not None]
    counts = history.counts()
    return {
        "recordings": dict(counts),
        "queue_length": len(open_),
        "backlog_bytes": sum(log.file_size for log in open_),
        "oldest_unsynced": min((log.queued_at for log in open_ if not log.resync), default=None),
        "waiting": [_named(log) for log in waiting[:named]],
        "waiting_count": len(waiting),
        "failed": [_named(log) for log in islice(_failed_for_good(history), _FAILED)]
        if counts["failed"]
        else [],
        "orphaned_uploads": len(history.debts()),
        "stuck_markers": [
            marker.path for marker in history.known_markers() if marker.through is None
        ][:NAMED],
        "damaged_lines": history.damage(),
    }


def _failed_for_good(history: History) -> Iterator[SyncLog]:
    """Those that nothing has become of since, newest first."""
    for log in islice(history.newest_first("failed"), _LOOKED_AT):
        newest = None if log.open else history.newest(log.fingerprint)
        if newest is not None and newest.id == log.id:
            yield log


def _named(log: SyncLog) -> dict[str, Any]:
    return {
        "id": log.id,
        "episode_id": log.episode_id,
        "path": log.path,
        "status": log.status,
        "attempt_count": log.attempt_count,
        "error": asdict(log.error) if log.error else None,
        "next_retry_at": log.next_retry_at,
    }
