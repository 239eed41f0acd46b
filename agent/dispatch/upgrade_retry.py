"""Another version of the agent gets another try at what an earlier one could not upload. The finder brings it back."""

from __future__ import annotations

import logging

from agent.model.errors import HistoryFullError
from agent.model.ports import History
from agent.model.sync_log import SyncLog, Upgrade

_log = logging.getLogger(__name__)


def note_version(history: History, version: str) -> tuple[Upgrade, bool]:
    """Note the version that runs; tells what is noted, and whether another one ran before.

    Every change of version counts, back to an older one, too. What failed for good by counted errors until then is
    noted in the same line as the version, by document: intake makes a new one when it meets the recording, and that
    one is not among them. So whoever dies at any moment loses nothing and tries nothing twice.
    """
    known = history.upgrade()
    if known is not None and known.version == version:
        return known, False
    again = frozenset(log.id for log in history.newest_first("failed") if _deserves(history, log))
    upgrade = Upgrade(version, known.version if known else "", again)
    try:
        history.note_upgrade(upgrade)
    except HistoryFullError as error:
        text = "that this is another version is noted at the next start: %s"
        _log.warning(text, error, extra={"event": "upgrade_not_noted"})
        return Upgrade(version), False
    upgraded = known is not None or any(
        history.counts().values()
    )  # else this is the first start of all
    if upgraded:
        _log.info(
            "agent upgraded from %s to %s: %d recordings that had failed for good are tried again where they are found",
            upgrade.before or "an earlier version",
            version,
            len(again),
            extra={"event": "upgraded", "recordings": len(again)},
        )
    return upgrade, upgraded


def _deserves(history: History, log: SyncLog) -> bool:
    """Whether it failed for good by an error that another version may not make; only the newest document tells."""
    counted = log.error is not None and log.error.kind == "counted"
    return counted and not log.open and history.newest(log.fingerprint) == log
