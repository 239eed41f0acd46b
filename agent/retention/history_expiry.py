"""Forgets recordings that have long been gone from this robot's disk. What was uploaded stays known by fingerprint."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from agent.discovery.file_names import is_below
from agent.discovery.walk import GONE
from agent.model.errors import HistoryFullError
from agent.model.ports import Clock, History
from agent.model.sync_log import Absences
from agent.model.values import utc_text

_log = logging.getLogger(__name__)

_MOST = 10_000  # recordings in one day
_BATCH = 256  # recordings in one transaction
_DAY = 20 * 3600.0  # seconds; between two days that are counted, at least


class HistoryExpiry:
    """``forget`` is called every few minutes, by one thread at a time; it works once a day.

    Days are those on which the agent could look, counted one by one: a clock that jumps makes nothing older.
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
        """Forget nothing yet.

        Args:
            history: What is remembered.
            clock: Tells when a day is over.
            roots: The watched folders.
            may_lie: Tells of many fingerprints whether their bytes may lie there; None while that is not known.
            keep_days: Days for which what is gone is remembered, above 0.
            built: The clock is wrong before this wall time.
        """
        self._history = history
        self._clock = clock
        self._roots = roots
        self._may_lie = may_lie
        self._keep_days = keep_days
        self._built = built
        self._working = threading.Lock()
        self._stopped = False
        self._date: str | None = None  # the last one counted; None: not known yet
        self._next_day = -math.inf  # monotonic

    def stop(self, seconds: float) -> bool:
        """Forget nothing more; tells whether what was under way has ended within ``seconds``."""
        self._stopped = True
        if not self._working.acquire(timeout=seconds):
            return False
        self._working.release()
        return True

    def forget(self) -> None:
        """Where a day has passed, see what is gone, and forget what has been gone for too long."""
        with self._working:
            now = self._clock.now()
            today = utc_text(now)[:10]
            early = now < self._built or self._clock.monotonic() < self._next_day
            if self._stopped or early or today == self._date or not self._history.room():
                return
            before = self._history.absences()
            self._date = before.date
            may_lie = self._may_lie()
            if today != self._date and may_lie is not None:
                try:
                    self._look(before, today, may_lie)
                except HistoryFullError as error:
                    text = "nothing is forgotten while the disk is full: %s"
                    _log.warning(text, error, extra={"event": "forgetting_failed"})

    def _look(self, before: Absences, today: str, may_lie: Callable[[str], bool]) -> None:
        day = before.day + 1
        folders = {os.path.realpath(root) for root in self._roots if _is_filled(root)}
        since: dict[int, int] = {}
        outlived: deque[tuple[int, str]] = deque(maxlen=_MOST)  # the oldest, which are listed last
        for log in self._history.newest_first():
            if self._stopped:
                return
            if log.open or may_lie(log.fingerprint) or not _is_gone(log.path):
                continue
            first = before.since.get(log.id)
            if any(is_below(log.path, folder) for folder in folders):
                since[log.id] = day if first is None else first
                if day - since[log.id] >= self._keep_days and self._is_newest(
                    log.id, log.fingerprint
                ):
                    outlived.append((log.id, log.fingerprint))
            elif first is not None:
                since[log.id] = first + 1  # its disk may be away: this day does not count
        self._forget(outlived)
        self._history.note_absences(Absences(day, today, since))
        self._date, self._next_day = today, self._clock.monotonic() + _DAY

    def _forget(self, outlived: Iterable[tuple[int, str]]) -> None:
        """Forget the recordings of these documents, their newest ones."""
        documents, left = 0, iter(outlived)
        while batch := list(islice(left, _BATCH)):
            with (
                self._history.transaction()
            ):  # nobody asks for one of them between the look and the deed
                documents += self._history.forget(
                    [mark for id_, mark in batch if self._is_newest(id_, mark)]
                )
        if documents:
            _log.info(
                "forgot %d documents of recordings that have been gone for %d days",
                documents,
                self._keep_days,
                extra={"event": "forgotten", "documents": documents},
            )

    def _is_newest(self, id_: int, fingerprint: str) -> bool:
        """Only the newest document of a recording tells."""
        newest = self._history.newest(fingerprint)
        return newest is not None and newest.id == id_


def _is_filled(folder: Path) -> bool:
    """Whether it is there and not empty: where a disk is not mounted, an empty folder waits for it."""
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _is_gone(path: str) -> bool:
    """Whether nothing lies there; what can't be told is taken to be there."""
    try:
        os.lstat(path)
    except OSError as error:
        return error.errno in GONE
    return False
