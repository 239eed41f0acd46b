"""A history in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from agent.model import states
from agent.model.errors import HistoryFullError
from agent.model.ports import Clock
from agent.model.states import Event
from agent.model.sync_log import (
    Absences,
    Marker,
    MoveChanges,
    Orphan,
    Status,
    SyncLog,
    SyncLogChanges,
    Upgrade,
)
from agent.model.values import utc_text

if TYPE_CHECKING:
    from typing_extensions import Unpack

_State = tuple[dict[int, SyncLog], dict[str, Marker], set[str], Absences, Upgrade | None]


class MemoryHistory:
    """Implements ``agent.model.ports.History`` in memory. A test sets ``full`` for a full disk."""

    def __init__(
        self, clock: Clock, documents: dict[int, SyncLog] | None = None, last_id: int = 0
    ) -> None:
        """Begin with ``documents`` and ``last_id`` of another history, or with nothing."""
        self.full = False
        self.closed = False
        self.documents = {} if documents is None else documents
        self.last_id = last_id
        self.aborts: dict[int, Orphan] = {}
        self.markers: dict[str, Marker] = {}
        self.forgotten: set[str] = set()
        self.absent = Absences()
        self.upgraded: Upgrade | None = None
        self.before: Callable[[str], None] = lambda _call: None
        self._clock = clock
        self._lock = threading.RLock()
        self._before: _State | None = None
        self._changes = 0

    def reopened(self) -> MemoryHistory:
        """Return the history as the next start of the agent finds it."""
        history = MemoryHistory(self._clock, dict(self.documents), self.last_id)
        history.aborts = dict(self.aborts)
        history.markers = dict(self.markers)
        history.forgotten, history.absent = set(self.forgotten), self.absent
        history.upgraded, history.before = self.upgraded, self.before
        return history

    def add(self, log: SyncLog) -> SyncLog:
        """Store a new document."""
        with self.transaction():
            self.last_id += 1
            self.documents[self.last_id] = replace(log, id=self.last_id)
            return self.documents[self.last_id]

    def move(self, id_: int, event: Event, **changes: Unpack[MoveChanges]) -> SyncLog:
        """Change a document by the state table."""
        return self._change(
            id_, lambda log: states.move(log, event, utc_text(self._clock.now()), **changes)
        )

    def amend(self, id_: int, **changes: Unpack[SyncLogChanges]) -> SyncLog:
        """Change fields that the state table does not guard."""
        return self._change(id_, lambda log: states.amend(log, **changes))

    def add_orphan(self, orphan: Orphan) -> None:
        """Store an orphan."""
        if self.full:
            raise HistoryFullError("the test says that the disk is full")
        with self._lock:
            self._changes += 1
            id_ = max(self.aborts, default=0) + 1
            self.aborts[id_] = replace(orphan, id=id_)

    def orphans(self) -> Sequence[Orphan]:
        """Return all orphans, oldest first."""
        with self._lock:
            return [self.aborts[id_] for id_ in sorted(self.aborts)]

    def remove_orphan(self, orphan_id: int) -> None:
        """Remove an orphan."""
        with self._lock:
            self._changes += 1
            self.aborts.pop(orphan_id, None)

    def mark_served(self, marker: Marker) -> None:
        """Store a marker file that was handled."""
        with self.transaction():
            self.markers[marker.path] = marker

    def marker(self, path: str) -> Marker | None:
        """Return the stored marker file with this path."""
        with self._lock:
            return self.markers.get(path)

    def known_markers(self) -> Sequence[Marker]:
        """Return all stored marker files."""
        with self._lock:
            return list(self.markers.values())

    def forget_marker(self, path: str) -> None:
        """Remove the marker file with this path."""
        with self.transaction():
            self.markers.pop(path, None)

    def expire(self, fingerprints: Sequence[str]) -> int:
        """Remove documents. Of uploaded recordings only the fingerprint is kept."""
        with self.transaction():
            gone = []
            for fingerprint in dict.fromkeys(fingerprints):
                logs = self._where(lambda log, wanted=fingerprint: log.fingerprint == wanted)  # type: ignore[misc] # mypy cannot infer its type
                gone += [] if any(log.open for log in logs) else logs
            self.forgotten |= {log.fingerprint for log in gone if log.synced}
            for log in gone:
                self.documents.pop(log.id, None)
            return len(gone)

    def absences(self) -> Absences:
        """Return the stored absences."""
        return self.absent

    def note_absences(self, absences: Absences) -> None:
        """Store absences."""
        with self.transaction():
            self.absent = absences

    def upgrade(self) -> Upgrade | None:
        """Return the stored upgrade."""
        return self.upgraded

    def note_upgrade(self, upgrade: Upgrade) -> None:
        """Store an upgrade."""
        with self.transaction():
            self.upgraded = upgrade

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Store all changes of the block, or none of them."""
        with self._lock:
            if self._before is not None:
                yield
                return
            self._before = self._state()
            try:
                yield
                self._write(self._before)
            except BaseException:
                self.documents, self.markers, self.forgotten, self.absent, self.upgraded = (
                    self._before
                )
                raise
            finally:
                self._before = None
                self._changes += 1

    def get(self, id_: int) -> SyncLog:
        """Return one document."""
        with self._lock:
            return self.documents[id_]

    def newest(self, fingerprint: str) -> SyncLog | None:
        """Return the newest document of a fingerprint, or None."""
        return next(iter(self._where(lambda log: log.fingerprint == fingerprint)), None)

    def synced(self, fingerprint: str) -> bool:
        """Return whether a recording with this fingerprint was ever uploaded."""
        logs = self._where(lambda log: log.fingerprint == fingerprint)
        return any(log.synced for log in logs) or fingerprint in self.forgotten

    def open(self) -> Sequence[SyncLog]:
        """Return the documents that have not ended, oldest first."""
        return self._where(lambda log: log.open)[::-1]

    def at_path(self, path: Path) -> Sequence[SyncLog]:
        """Return the documents of a path, newest first."""
        return self._where(lambda log: log.path == str(path))

    def of_episode(self, episode_id: str) -> Sequence[SyncLog]:
        """Return the documents of an episode, newest first."""
        return self._where(lambda log: log.episode_id == episode_id)

    def newest_first(self, status: Status | None = None) -> Iterator[SyncLog]:
        """Yield all documents, or those with this status, newest first."""
        return iter(self._where(lambda log: status in (None, log.status)))

    def counts(self) -> Mapping[Status, int]:
        """Return the number of documents of each status."""
        return {status: len(list(self.newest_first(status))) for status in get_args(Status)}

    def changes(self) -> int:
        """Return how often something has changed."""
        return self._changes

    def room(self) -> bool:
        """Return whether the disk has room."""
        return not self.full

    def damage(self) -> int:
        """Return 0, because nothing is ever damaged."""
        return 0

    def tidy(self) -> None:
        """Do nothing, because there are no files."""

    def close(self) -> None:
        """Note that the history is closed."""
        self.closed = True

    def _state(self) -> _State:
        return (
            dict(self.documents),
            dict(self.markers),
            set(self.forgotten),
            self.absent,
            self.upgraded,
        )

    def _write(self, before: _State) -> None:
        self.before("write")
        if self.full and self._state() != before:
            raise HistoryFullError("the test says that the disk is full")

    def _change(self, id_: int, change: Callable[[SyncLog], SyncLog]) -> SyncLog:
        with self.transaction():
            self.documents[id_] = change(self.documents[id_])
            return self.documents[id_]

    def _where(self, fits: Callable[[SyncLog], bool]) -> list[SyncLog]:
        with self._lock:
            return [
                self.documents[id_]
                for id_ in sorted(self.documents, reverse=True)
                if fits(self.documents[id_])
            ]
