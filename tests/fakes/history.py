"""A history in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from agent.model import states
from agent.model.errors import HistoryFullError
from agent.model.nouns import Debt, Marker, Status, SyncLog, utc_text
from agent.model.ports import Clock
from agent.model.states import Event


class MemoryHistory:
    """Implements ``agent.model.ports.History``. Set ``full`` to let the disk be full."""

    def __init__(self, clock: Clock, documents: dict[int, SyncLog] | None = None, last_id: int = 0) -> None:
        """``documents`` and ``last_id`` are those of another one, to open it again."""
        self.full = False
        self.documents = {} if documents is None else documents
        self.last_id = last_id
        self.aborts: dict[int, Debt] = {}
        self.markers: dict[str, Marker] = {}
        self.before: Callable[[str], None] = lambda _call: None
        self._clock = clock
        self._lock = threading.RLock()
        self._before: dict[int, SyncLog] | None = None

    def reopened(self) -> MemoryHistory:
        """What the next start of the agent finds."""
        history = MemoryHistory(self._clock, dict(self.documents), self.last_id)
        history.aborts = dict(self.aborts)
        history.markers = dict(self.markers)
        history.before = self.before
        return history

    def add(self, log: SyncLog) -> SyncLog:
        """Keep a new document."""
        with self.transaction():
            self.last_id += 1
            self.documents[self.last_id] = replace(log, id=self.last_id)
            return self.documents[self.last_id]

    def move(self, id_: int, event: Event, **changes: Any) -> SyncLog:
        """Go through the state table."""
        return self._change(id_, lambda log: states.move(log, event, utc_text(self._clock.now()), **changes))

    def amend(self, id_: int, **changes: Any) -> SyncLog:
        """Change other fields."""
        return self._change(id_, lambda log: states.amend(log, **changes))

    def owe(self, debt: Debt) -> None:
        """Keep it."""
        if self.full:
            raise HistoryFullError("the test says that the disk is full")
        with self._lock:
            id_ = max(self.aborts, default=0) + 1
            self.aborts[id_] = replace(debt, id=id_)

    def debts(self) -> Sequence[Debt]:
        """Oldest first."""
        with self._lock:
            return [self.aborts[id_] for id_ in sorted(self.aborts)]

    def settle(self, debt_id: int) -> None:
        """Forget it."""
        with self._lock:
            self.aborts.pop(debt_id, None)

    def mark_served(self, marker: Marker) -> None:
        """Keep it."""
        with self.transaction():
            self.markers[marker.path] = marker

    def marker(self, path: str) -> Marker | None:
        """What is remembered."""
        with self._lock:
            return self.markers.get(path)

    def known_markers(self) -> Sequence[Marker]:
        """All that is remembered."""
        with self._lock:
            return list(self.markers.values())

    def forget_marker(self, path: str) -> None:
        """Forget it."""
        with self.transaction():
            self.markers.pop(path, None)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or none."""
        with self._lock:
            if self._before is not None:
                yield
                return
            self._before, markers = dict(self.documents), dict(self.markers)
            try:
                yield
                self._write(self._before, markers)
            except BaseException:
                self.documents, self.markers = self._before, markers
                raise
            finally:
                self._before = None

    def get(self, id_: int) -> SyncLog:
        """One document."""
        with self._lock:
            return self.documents[id_]

    def newest(self, fingerprint: str) -> SyncLog | None:
        """The live one."""
        return next(iter(self._where(lambda log: log.fingerprint == fingerprint)), None)

    def synced(self, fingerprint: str) -> bool:
        """Whether any of its documents was completed."""
        return any(log.synced for log in self._where(lambda log: log.fingerprint == fingerprint))

    def open(self) -> Sequence[SyncLog]:
        """Oldest first."""
        return self._where(lambda log: log.open)[::-1]

    def at_path(self, path: Path) -> Sequence[SyncLog]:
        """Newest first."""
        return self._where(lambda log: log.path == str(path))

    def of_episode(self, episode_id: str) -> Sequence[SyncLog]:
        """Newest first."""
        return self._where(lambda log: log.episode_id == episode_id)

    def newest_first(self, status: Status | None = None) -> Iterator[SyncLog]:
        """All, or those with this status."""
        return iter(self._where(lambda log: status in (None, log.status)))

    def counts(self) -> Mapping[Status, int]:
        """Each status has a number."""
        return {status: len(list(self.newest_first(status))) for status in get_args(Status)}

    def room(self) -> bool:
        """Whether the disk is not full."""
        return not self.full

    def damage(self) -> int:
        """Nothing is ever damaged."""
        return 0

    def close(self) -> None:
        """Nothing to let go."""

    def _write(self, before: dict[int, SyncLog], markers: dict[str, Marker]) -> None:
        self.before("write")
        if self.full and (self.documents, self.markers) != (before, markers):
            raise HistoryFullError("the test says that the disk is full")

    def _change(self, id_: int, change: Callable[[SyncLog], SyncLog]) -> SyncLog:
        with self.transaction():
            self.documents[id_] = change(self.documents[id_])
            return self.documents[id_]

    def _where(self, fits: Callable[[SyncLog], bool]) -> list[SyncLog]:
        with self._lock:
            return [self.documents[id_] for id_ in sorted(self.documents, reverse=True) if fits(self.documents[id_])]
