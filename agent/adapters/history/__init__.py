"""The sync log: TinyDB documents in a journal, and in memory what is asked for often.

Open documents are held as values; of all others memory knows where they lie, their status, and hashes of the texts
by which they are looked up. So 100,000 documents cost some 15 MiB.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, get_args

from tinydb.table import Document

from agent.adapters.history.forgotten import Forgotten
from agent.adapters.history.index import Index
from agent.adapters.journal import RESERVE, JournalDB, JournalStorage
from agent.model import states
from agent.model.ports import Clock
from agent.model.states import Event
from agent.model.sync_log import Absences, Fault, Marker, Orphan, Status, SyncLog, Upgrade
from agent.model.values import utc_text

TABLE = "sync_logs"
ABORTS = "aborts"
MARKERS = "markers"
UPGRADE = "upgrade"

_FIELDS = tuple(field.name for field in fields(SyncLog))
_KNOWN = frozenset(_FIELDS)
_values = attrgetter(*_FIELDS)
_TEXT = r'"[^"\\]*"'
_UPLOADED = re.compile(  # most documents are like this: what memory needs of them is known without reading the rest
    r'\{"id":\d+,"episode_id":"(?P<episode>[^"\\]*)","path":"(?P<path>[^"\\]*)","file_size":\d+,'
    rf'"mtime":{_TEXT},"fingerprint":"(?P<fingerprint>[^"\\]*)","sidecar_sha256":{_TEXT},"trigger":{_TEXT},'
    rf'"reason":{_TEXT},"resync":\w+,"status":"completed"'
)
_CODES: dict[str, int] = {
    status: code for code, status in enumerate(get_args(Status), start=1)
}  # 0: no document


class TinyHistory:
    """``agent.model.ports.History`` on TinyDB.

    ``db`` is the TinyDB itself, for the small tables that stand beside the sync log; what is written to them inside
    :meth:`transaction` becomes durable together with the sync log's documents.
    """

    def __init__(
        self, folder: Path, clock: Clock, *, read_only: bool = False, reserve: int = RESERVE
    ) -> None:
        """Open the history in ``folder``; a writer creates what is missing. ``reserve`` is in bytes.

        Raises HistoryLockedError when another agent writes it, HistoryFullError when there is no room to begin one,
        and AgentError when it can't be used: a newer format, or missing rights.
        """
        self._clock = clock
        self._storage = JournalStorage(folder / "journal", read_only=read_only, reserve=reserve)
        self._lock = self._storage.lock
        self.db = JournalDB(storage=lambda: self._storage)
        self._table = self.db.table(TABLE)
        self._aborts = self.db.table(ABORTS)
        self._marker_table = self.db.table(MARKERS)
        self._upgrade_table = self.db.table(UPGRADE)
        self._markers = self._known_markers()
        self._forgotten = Forgotten(self.db)
        self._gone: list[SyncLog] = []  # in the transaction that is under way
        self._undo: list[tuple[int, SyncLog | None]] | None = None
        self._open: dict[int, SyncLog] = {}
        self._statuses = bytearray(1)  # by id
        self._indexes = self._by_fingerprint, self._by_path, self._by_episode = (
            Index(),
            Index(),
            Index(),
        )
        self._next_id = self._storage.last_id(TABLE) + 1
        self._statuses.extend(bytes(self._next_id))
        for id_, text in self._storage.texts(TABLE, self._storage.ids(TABLE)):
            if uploaded := _UPLOADED.match(text):
                self._statuses[id_] = _CODES["completed"]
                self._index(id_, uploaded["fingerprint"], uploaded["path"], uploaded["episode"])
            else:
                log = from_json(json.loads(text))
                self._remember(id_, log)
                self._index(id_, *_names(log))

    def add(self, log: SyncLog) -> SyncLog:
        """Write a new document; its ``id`` is ignored and given here."""
        with self.transaction():
            log = replace(log, id=self._next_id)
            self._next_id += 1
            self._table.insert(Document(to_json(log), log.id))
            self._note(None, log)
            return log

    def move(self, id_: int, event: Event, **changes: Any) -> SyncLog:
        """Change a status through the state table."""
        return self._change(
            id_, lambda log: states.move(log, event, utc_text(self._clock.now()), **changes)
        )

    def amend(self, id_: int, **changes: Any) -> SyncLog:
        """Change other fields of a document that has not ended."""
        return self._change(id_, lambda log: states.amend(log, **changes))

    def add_orphan(self, orphan: Orphan) -> None:
        """Remember an upload that must still be aborted."""
        with self.transaction():
            self._aborts.insert(
                {name: value for name, value in asdict(orphan).items() if name != "id"}
            )

    def orphans(self) -> Sequence[Orphan]:
        """Return the orphans, the oldest first."""
        with self._lock:
            return [
                Orphan(document.doc_id, **_known(document, Orphan))
                for document in self._aborts.all()
            ]

    def remove_orphan(self, orphan_id: int) -> None:
        """Forget an orphan."""
        with self.transaction():
            if self._aborts.contains(doc_id=orphan_id):
                self._aborts.remove(doc_ids=[orphan_id])

    def mark_served(self, marker: Marker) -> None:
        """Remember how far a marker is served."""
        with self.transaction():
            self.forget_marker(marker.path)
            self._markers[marker.path] = self._marker_table.insert(asdict(marker)), marker

    def marker(self, path: str) -> Marker | None:
        """What is remembered of the marker at ``path``."""
        with self._lock:
            known = self._markers.get(path)
            return known[1] if known else None

    def known_markers(self) -> Sequence[Marker]:
        """All that is remembered of markers."""
        with self._lock:
            return [marker for _, marker in self._markers.values()]

    def forget_marker(self, path: str) -> None:
        """The marker is gone."""
        with self.transaction():
            if known := self._markers.pop(path, None):
                self._marker_table.remove(doc_ids=[known[0]])

    def forget(self, fingerprints: Sequence[str]) -> int:
        """Remove all documents of these recordings; what was uploaded is remembered by its fingerprint."""
        with self.transaction():
            gone: list[SyncLog] = []
            for fingerprint in dict.fromkeys(fingerprints):
                logs = list(
                    self._found(self._by_fingerprint, fingerprint, lambda log: log.fingerprint)
                )
                gone += [] if any(log.open for log in logs) else logs
            self._forgotten.add(log.fingerprint for log in gone if log.synced)
            self._table.remove(doc_ids=[log.id for log in gone])
            for log in gone:
                self._note_gone(log)
            return len(gone)

    def absences(self) -> Absences:
        """What is no longer on the disk."""
        with self._lock:
            return self._forgotten.absences()

    def note_absences(self, absences: Absences) -> None:
        """Remember this instead."""
        with self.transaction():
            self._forgotten.note_absences(absences)

    def upgrade(self) -> Upgrade | None:
        """The version that runs on this history."""
        with self._lock:
            noted = self._upgrade_table.get(doc_id=1)
            if not isinstance(noted, Document):
                return None
            known = _known(noted, Upgrade)
            return Upgrade(**{**known, "again": frozenset(known["again"])})

    def note_upgrade(self, upgrade: Upgrade) -> None:
        """Note another one."""
        with self.transaction():
            self._upgrade_table.upsert(
                Document({**asdict(upgrade), "again": sorted(upgrade.again)}, 1)
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes of this thread inside become durable together, when the block ends; all or none.

        Other threads wait at the history meanwhile. One inside another becomes part of that one.
        """
        with self._lock:
            if self._undo is not None:
                yield
                return
            self._undo = []
            next_id = self._next_id
            try:
                with self._storage.transaction():
                    yield
            except BaseException:
                for id_, log in reversed(self._undo):
                    self._remember(id_, log)
                self._next_id = next_id
                self._markers = self._known_markers()
                raise
            else:
                for log in self._gone:
                    for index, name in zip(self._indexes, _names(log), strict=True):
                        index.discard(name, log.id)
            finally:
                self._undo = None
                self._gone = []

    def get(self, id_: int) -> SyncLog:
        """One document."""
        with self._lock:
            if id_ in self._open:
                return self._open[id_]
            document = self._table.get(doc_id=id_)
            if not isinstance(document, Document):
                raise KeyError(id_)
            return from_json(document)

    def newest(self, fingerprint: str) -> SyncLog | None:
        """The live document of these bytes."""
        with self._lock:
            return next(
                self._found(self._by_fingerprint, fingerprint, lambda log: log.fingerprint), None
            )

    def synced(self, fingerprint: str) -> bool:
        """Whether these bytes were ever uploaded."""
        with self._lock:
            logs = self._found(self._by_fingerprint, fingerprint, lambda log: log.fingerprint)
            return any(log.synced for log in logs) or fingerprint in self._forgotten

    def open(self) -> Sequence[SyncLog]:
        """Documents to which something may still happen, oldest id first."""
        with self._lock:
            return [self._open[id_] for id_ in sorted(self._open)]

    def at_path(self, path: Path) -> Sequence[SyncLog]:
        """Documents queued from this path, newest first."""
        with self._lock:
            return list(self._found(self._by_path, str(path), lambda log: log.path))

    def of_episode(self, episode_id: str) -> Sequence[SyncLog]:
        """Documents of this episode, newest first."""
        with self._lock:
            return list(self._found(self._by_episode, episode_id, lambda log: log.episode_id))

    def newest_first(self, status: Status | None = None) -> Iterator[SyncLog]:
        """All documents, or all with this status; each is read when it is its turn."""
        for text in self._newest_first(status):
            yield from_json(json.loads(text))

    def shown(self, status: Status | None = None) -> Iterator[dict[str, Any]]:
        """The same documents in the same order as :func:`to_json` has them, for who shows them all."""
        for text in self._newest_first(status):
            document = json.loads(text)
            yield document if tuple(document) == _FIELDS else to_json(from_json(document))

    def counts(self) -> Mapping[Status, int]:
        """How many documents stand in each status."""
        with self._lock:
            return {status: self._statuses.count(_CODES[status]) for status in get_args(Status)}

    def changes(self) -> int:
        """Another number after each write."""
        return self._storage.commits

    def room(self) -> bool:
        """Whether the room set aside for a full disk is there in full; asks the disk for what is missing."""
        return self._storage.room

    def damage(self) -> int:
        """Bad lines found now, or set aside earlier and not yet removed by somebody."""
        return self._storage.damage

    def tidy(self) -> None:
        """Compact the journal when that is worth its while. For an agent that runs for months.

        Raises HistoryFullError when there is no room for it; nothing is lost then.
        """
        with self._lock:
            if self._storage.wasteful:
                self._storage.compact()

    @property
    def closed(self) -> bool:
        """Whether the files were let go of."""
        return self._storage.closed

    def close(self) -> None:
        """Let go of the files."""
        self.db.close()

    def _newest_first(self, status: Status | None) -> Iterator[str]:
        ids = reversed(self._storage.ids(TABLE))
        wanted = (
            ids if status is None else (id_ for id_ in ids if self._statuses[id_] == _CODES[status])
        )
        for _, text in self._storage.texts(TABLE, wanted):
            yield text

    def _known_markers(self) -> dict[str, tuple[int, Marker]]:
        return {
            document["path"]: (document.doc_id, Marker(**_known(document, Marker)))
            for document in self._marker_table
        }

    def _change(self, id_: int, change: Callable[[SyncLog], SyncLog]) -> SyncLog:
        with self.transaction():
            old = self.get(id_)
            new = change(old)
            # An update, not a replacement: fields that only a newer agent knows stay.
            self._table.update(to_json(new), doc_ids=[id_])
            self._note(old, new)
            return new

    def _note(self, old: SyncLog | None, new: SyncLog) -> None:
        self._note_undo(new.id, old)
        self._remember(new.id, new)
        if old is None or _names(old) != _names(new):
            self._index(new.id, *_names(new))

    def _note_gone(self, log: SyncLog) -> None:
        self._note_undo(log.id, log)
        self._remember(log.id, None)
        self._gone.append(log)  # the indexes keep it until that is durable

    def _note_undo(self, id_: int, old: SyncLog | None) -> None:
        if self._undo is not None:
            self._undo.append((id_, old))

    def _remember(self, id_: int, log: SyncLog | None) -> None:
        self._mark(id_, log.status if log else "")
        if log is not None and log.open:
            self._open[id_] = log
        else:
            self._open.pop(id_, None)

    def _mark(self, id_: int, status: str) -> None:
        self._statuses.extend(bytes(max(0, id_ + 1 - len(self._statuses))))
        self._statuses[id_] = _CODES.get(status, 0)

    def _index(self, id_: int, *names: str) -> None:
        for index, name in zip(self._indexes, names, strict=True):
            index.add(name, id_)

    def _found(self, index: Index, text: str, of: Callable[[SyncLog], str]) -> Iterator[SyncLog]:
        """Newest first; hashes may lie, the documents decide."""
        for id_ in index.ids(text):
            log = self._get_if_any(id_)
            if log is not None and of(log) == text:
                yield log

    def _get_if_any(self, id_: int) -> SyncLog | None:
        try:
            return self.get(id_)
        except KeyError:
            return None


def _names(log: SyncLog) -> tuple[str, str, str]:
    return log.fingerprint, log.path, log.episode_id


def to_json(log: SyncLog) -> dict[str, Any]:
    """The document as it is stored and shown, its fields in the order of :class:`SyncLog`."""
    document = dict(zip(_FIELDS, _values(log), strict=True))
    document["error"] = asdict(log.error) if log.error else None
    document["raw_tags"] = dict(log.raw_tags)
    document["left_out_tags"] = list(log.left_out_tags)
    return document


def from_json(document: Mapping[str, Any]) -> SyncLog:
    """The inverse of :func:`to_json`; fields that only a newer agent knows are passed over."""
    known = dict(document) if document.keys() <= _KNOWN else _known(document, SyncLog)
    error = known.get("error")
    known["error"] = Fault(**_known(error, Fault)) if error else None
    known["left_out_tags"] = tuple(known.get("left_out_tags", ()))
    return SyncLog(**known)


def _known(document: Mapping[str, Any], noun: type) -> dict[str, Any]:
    return {field.name: document[field.name] for field in fields(noun) if field.name in document}
