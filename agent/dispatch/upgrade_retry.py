"""Gives recordings another try after an upgrade.

The new version may not make the error of the old one. This module notes which documents deserve
another try. Discovery finds their recordings, and intake queues them again.
"""

from __future__ import annotations

import logging

from agent.model.errors import HistoryFullError
from agent.model.ports import History
from agent.model.sync_log import SyncLog, Upgrade

_log = logging.getLogger(__name__)


def note_version(history: History, version: str) -> tuple[Upgrade, bool]:
    """Note the version that runs; return what is noted, and whether another version ran before.

    Every change of version counts, also one to an older version. Documents that failed finally by
    counted errors are noted together with the version. Intake makes a new document when it meets
    such a recording, and the new document is not among those noted. So an agent that is killed at
    any moment loses no retry, and makes none twice.
    """
    known = history.upgrade()
    if known is not None and known.version == version:
        return known, False
    again = frozenset(
        log.id for log in history.newest_first("failed") if _deserves_retry(history, log)
    )
    upgrade = Upgrade(version, known.version if known else "", again)
    try:
        history.note_upgrade(upgrade)
    except HistoryFullError as error:
        text = "the new version could not be written down; the next start tries again: %s"
        _log.warning(text, error, extra={"event": "upgrade_not_noted"})
        return Upgrade(version), False
    # Without documents this is the first start of all, and no upgrade.
    is_upgraded = known is not None or any(history.counts().values())
    if is_upgraded:
        _log.info(
            "agent upgraded from %s to %s: "
            "%d recordings that had failed for good are tried again where they are found",
            upgrade.before or "an earlier version",
            version,
            len(again),
            extra={"event": "upgraded", "recordings": len(again)},
        )
    return upgrade, is_upgraded


def _deserves_retry(history: History, log: SyncLog) -> bool:
    """Return whether a recording failed finally by an error that another version may not make.

    Only the newest document of a recording says so.
    """
    is_counted = log.error is not None and log.error.kind == "counted"
    return is_counted and not log.open and history.newest(log.fingerprint) == log
