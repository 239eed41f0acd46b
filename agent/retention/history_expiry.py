"""Removes old recordings from the history, long after their files are gone from the disk.

The history still knows by fingerprint that the recordings were uploaded.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from agent.discovery.file_names import is_below
from agent.discovery.walk import GONE
from agent.model.errors import HistoryFullError
from agent.model.ports import Clock, History
from agent.model.sync_log import Absences, SyncLog
from agent.model.values import utc_text

_log = logging.getLogger(__name__)

# The most recordings that expire on one day.
_MOST = 10_000

# The most recordings that expire in one transaction.
_BATCH = 256

# Two days that are counted begin at least so many seconds apart.
_DAY_SECONDS = 20 * 3600.0


@dataclass(frozen=True, slots=True)
class _Expired:
    """A recording that has been gone for too long, by its newest document."""

    id: int
    fingerprint: str


class HistoryExpiry:
    """Removes documents of recordings that have been gone for ``keep_days`` days.

    Days are counted one by one: a day counts when the agent runs and the watched disk is there. So
    a clock that jumps makes nothing older.

    One thread at a time calls :meth:`expire` every few minutes. The work is done once a day. Any
    thread may call :meth:`stop`.
    """

    def __init__(
        self,
        *,
        history: History,
        clock: Clock,
        roots: Sequence[Path],
        may_lie: Callable[[], Callable[[str], bool] | None],
        keep_days: int,
        built: float,
    ) -> None:
        """Join the parts.

        Args:
            history: Has the documents.
            clock: Says when a day is over.
            roots: The watched folders.
            may_lie: Returns a test whether the bytes of a fingerprint may be on the disk; None
                while this is unknown.
            keep_days: For so many days, at least 1, a recording that is gone stays in the history.
            built: Seconds since 1970. An earlier wall clock is wrong.
        """
        self._history = history
        self._clock = clock
        self._roots = roots
        self._may_be_on_disk = may_lie
        self._keep_days = keep_days
        self._built = built
        self._working = threading.Lock()
        self._stopped = False
        # The last date that was counted; None until it is read from the history.
        self._date: str | None = None
        # The monotonic time before which no other day is counted.
        self._next_day = -math.inf

    def stop(self, seconds: float) -> bool:
        """Expire nothing more; return whether the work under way has ended within ``seconds``."""
        self._stopped = True
        if not self._working.acquire(timeout=seconds):
            return False
        self._working.release()
        return True

    def expire(self) -> None:
        """Count a day if one has passed, and remove recordings that have been gone for too long."""
        with self._working:
            now = self._clock.now()
            today = utc_text(now)[:10]
            is_early = now < self._built or self._clock.monotonic() < self._next_day
            if self._stopped or is_early or today == self._date or not self._history.room():
                return
            before = self._history.absences()
            self._date = before.date
            may_be_on_disk = self._may_be_on_disk()
            if today != self._date and may_be_on_disk is not None:
                try:
                    self._count_day(before, today, may_be_on_disk)
                except HistoryFullError as error:
                    text = "the history keeps all recordings while the disk is full: %s"
                    _log.warning(text, error, extra={"event": "forgetting_failed"})

    def _count_day(
        self, before: Absences, today: str, may_be_on_disk: Callable[[str], bool]
    ) -> None:
        day = before.day + 1
        folders = {os.path.realpath(root) for root in self._roots if _is_filled(root)}
        since: dict[int, int] = {}
        # The history lists the oldest documents last, so these are the ones that are kept here.
        expired: deque[_Expired] = deque(maxlen=_MOST)
        for log in self._history.newest_first():
            if self._stopped:
                return
            if log.open or may_be_on_disk(log.fingerprint) or not _is_gone(log.path):
                continue
            first_day = before.since.get(log.id)
            if any(is_below(log.path, folder) for folder in folders):
                since[log.id] = day if first_day is None else first_day
                if self._is_expired(log, day - since[log.id]):
                    expired.append(_Expired(log.id, log.fingerprint))
            elif first_day is not None:
                # The disk may have been taken out, so this day does not count.
                since[log.id] = first_day + 1
        self._forget(expired)
        self._history.note_absences(Absences(day, today, since))
        self._date, self._next_day = today, self._clock.monotonic() + _DAY_SECONDS

    def _is_expired(self, log: SyncLog, days: int) -> bool:
        return days >= self._keep_days and self._is_newest(log.id, log.fingerprint)

    def _forget(self, expired: Iterable[_Expired]) -> None:
        """Remove these recordings from the history. Raises HistoryFullError."""
        documents, left = 0, iter(expired)
        while batch := list(islice(left, _BATCH)):
            # Within the transaction no operator can ask for one of the recordings.
            with self._history.transaction():
                documents += self._history.expire(
                    [one.fingerprint for one in batch if self._is_newest(one.id, one.fingerprint)]
                )
        if documents:
            _log.info(
                "removed %d documents of recordings that have been gone for %d days",
                documents,
                self._keep_days,
                extra={"event": "forgotten", "documents": documents},
            )

    def _is_newest(self, id_: int, fingerprint: str) -> bool:
        """Return whether a document is the newest of its recording; only this one decides."""
        newest = self._history.newest(fingerprint)
        return newest is not None and newest.id == id_


def _is_filled(folder: Path) -> bool:
    """Return whether a folder is there and not empty.

    Where a disk is not mounted, an empty folder is in its place.
    """
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _is_gone(path: str) -> bool:
    """Return whether no file is at ``path``; False where this can't be told."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno in GONE
    return False
