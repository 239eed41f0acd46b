"""The history of uploads: TinyDB documents in a journal, and in memory what is needed often.

Memory holds the open documents as values. Of all other documents it holds where they lie, their
status, and hashes of the texts by which they are looked up. So 100,000 documents cost some 15 MiB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydb.table import Document

from agent.adapters.history.catalog import DocumentCatalog, IndexedField
from agent.adapters.history.documents import FIELDS, from_json, known_fields, to_json
from agent.adapters.history.fingerprints_and_absences import FingerprintsAndAbsences
from agent.adapters.history.served_markers import ServedMarkerTable
from agent.adapters.journal import RESERVE, JournalDB, JournalStorage
from agent.model import states
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

__all__ = ["TABLE", "TinyHistory", "from_json", "to_json"]

TABLE = "sync_logs"
ABORTS = "aborts"
UPGRADE = "upgrade"


class TinyHistory:
    """Implements ``agent.model.ports.History`` on TinyDB.

    ``db`` is the TinyDB itself, for small tables that stand beside the sync log. What is written
    to them inside :meth:`transaction` becomes durable together with the sync log documents.

    All methods may be called from several threads. One lock guards files and memory, and the
    thread that writes holds it until the write is durable.
    """

    def __init__(
        self, folder: Path, clock: Clock, *, read_only: bool = False, reserve: int = RESERVE
    ) -> None:
        """Open the history in ``folder``; a writer creates what is missing.

        Args:
            folder: The folder of the journal and its lock.
            clock: Tells the times that are written into documents.
            read_only: Write nothing, and take no lock.
            reserve: Bytes that are kept allocated for a full disk.

        Raises:
            HistoryLockedError: Another agent writes this history.
            HistoryFullError: There is no space to begin a history.
            AgentError: The history can't be used: its format is a newer one, or rights are missing.
        """
        self._clock = clock
        self._storage = JournalStorage(folder / "journal", read_only=read_only, reserve=reserve)
        self._lock = self._storage.lock
        self.db = JournalDB(storage=lambda: self._storage)
        self._table = self.db.table(TABLE)
        self._orphans = self.db.table(ABORTS)
        self._upgrades = self.db.table(UPGRADE)
        self._markers = ServedMarkerTable(self.db)
        self._outliving = FingerprintsAndAbsences(self.db)
        # The documents that the transaction under way has removed.
        self._removed: list[SyncLog] = []
        # What the transaction under way has changed: ids, and the documents as they were before.
        # None outside of a transaction.
        self._undo: list[tuple[int, SyncLog | None]] | None = None
        last_id = self._storage.last_id(TABLE)
        self._next_id = last_id + 1
        self._catalog = DocumentCatalog(last_id)
        for id_, text in self._storage.texts(TABLE, self._storage.ids(TABLE)):
            self._catalog.load(id_, text)

    def add(self, log: SyncLog) -> SyncLog:
        """Write a new document, and return it with the ``id`` that it was given."""
        with self.transaction():
            log = replace(log, id=self._next_id)
            self._next_id += 1
            self._table.insert(Document(to_json(log), log.id))
            self._note(None, log)
            return log

    def move(self, id_: int, event: Event, **changes: Unpack[MoveChanges]) -> SyncLog:
        """Change a document's status through the state table, and return the document."""

        def moved(log: SyncLog) -> SyncLog:
            return states.move(log, event, utc_text(self._clock.now()), **changes)

        return self._change(id_, moved)

    def amend(self, id_: int, **changes: Unpack[SyncLogChanges]) -> SyncLog:
        """Change other fields of an open document, and return the document."""

        def amended(log: SyncLog) -> SyncLog:
            return states.amend(log, **changes)

        return self._change(id_, amended)

    def add_orphan(self, orphan: Orphan) -> None:
        """Remember an orphan; its ``id`` is ignored and given here."""
        row = asdict(orphan)
        del row["id"]
        with self.transaction():
            self._orphans.insert(row)

    def orphans(self) -> Sequence[Orphan]:
        """Return all orphans that are still to be aborted, oldest first."""
        with self._lock:
            return [Orphan(row.doc_id, **known_fields(row, Orphan)) for row in self._orphans.all()]

    def remove_orphan(self, orphan_id: int) -> None:
        """Forget an orphan. One that is unknown is no error."""
        with self.transaction():
            if self._orphans.contains(doc_id=orphan_id):
                self._orphans.remove(doc_ids=[orphan_id])

    def mark_served(self, marker: Marker) -> None:
        """Remember how far ``marker`` is served, in the place of what was known of its path."""
        with self.transaction():
            self._markers.put(marker)

    def marker(self, path: str) -> Marker | None:
        """Return what is remembered of the marker file at ``path``, or None."""
        with self._lock:
            return self._markers.get(path)

    def known_markers(self) -> Sequence[Marker]:
        """Return all that is remembered of marker files."""
        with self._lock:
            return self._markers.all()

    def forget_marker(self, path: str) -> None:
        """Forget the marker file at ``path``. One that is unknown is no error."""
        with self.transaction():
            self._markers.remove(path)

    def expire(self, fingerprints: Sequence[str]) -> int:
        """Remove all documents of these recordings, and return how many were removed.

        A recording with an open document keeps all of its documents. What was uploaded is
        remembered by its fingerprint.
        """
        with self.transaction():
            removed: list[SyncLog] = []
            for fingerprint in dict.fromkeys(fingerprints):
                logs = list(self._search("fingerprint", fingerprint))
                if not any(log.open for log in logs):
                    removed += logs
            self._outliving.add(log.fingerprint for log in removed if log.synced)
            self._table.remove(doc_ids=[log.id for log in removed])
            for log in removed:
                self._note_removed(log)
            return len(removed)

    def absences(self) -> Absences:
        """Return which recordings are no longer on the disk, as noted last."""
        with self._lock:
            return self._outliving.absences()

    def note_absences(self, absences: Absences) -> None:
        """Note ``absences`` in the place of those noted before."""
        with self.transaction():
            self._outliving.note_absences(absences)

    def upgrade(self) -> Upgrade | None:
        """Return the version that runs on this history, as noted last, or None."""
        with self._lock:
            row = self._upgrades.get(doc_id=1)
            if not isinstance(row, Document):
                return None
            known = known_fields(row, Upgrade)
            return Upgrade(**{**known, "again": frozenset(known["again"])})

    def note_upgrade(self, upgrade: Upgrade) -> None:
        """Note ``upgrade`` in the place of the one noted before."""
        row = {**asdict(upgrade), "again": sorted(upgrade.again)}
        with self.transaction():
            self._upgrades.upsert(Document(row, 1))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all writes of this thread inside the block durable together at its end.

        When the block raises, or its writes fail, nothing has changed. Other threads wait until
        the block ends. A block inside another one becomes part of it.

        Raises:
            HistoryFullError: The writes could not be made durable when the block ended.
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
                    self._catalog.set(id_, log)
                self._next_id = next_id
                self._markers.reload()
                raise
            else:
                for log in self._removed:
                    self._catalog.discard_texts(log)
            finally:
                self._undo = None
                self._removed = []

    def get(self, id_: int) -> SyncLog:
        """Return one document. Raises KeyError when there is none with this id."""
        with self._lock:
            log = self._catalog.open_document(id_)
            if log is not None:
                return log
            document = self._table.get(doc_id=id_)
            if not isinstance(document, Document):
                raise KeyError(id_)
            return from_json(document)

    def newest(self, fingerprint: str) -> SyncLog | None:
        """Return the newest document of a recording, or None when there is none."""
        with self._lock:
            return next(self._search("fingerprint", fingerprint), None)

    def synced(self, fingerprint: str) -> bool:
        """Return whether a recording was ever uploaded, also if its documents were removed."""
        with self._lock:
            if any(log.synced for log in self._search("fingerprint", fingerprint)):
                return True
            return fingerprint in self._outliving

    def open(self) -> Sequence[SyncLog]:
        """Return the documents that may still change, oldest id first."""
        with self._lock:
            return self._catalog.open_documents()

    def at_path(self, path: Path) -> Sequence[SyncLog]:
        """Return the documents whose recording was queued from ``path``, newest first."""
        with self._lock:
            return list(self._search("path", str(path)))

    def of_episode(self, episode_id: str) -> Sequence[SyncLog]:
        """Return the documents of an episode, newest first."""
        with self._lock:
            return list(self._search("episode_id", episode_id))

    def newest_first(self, status: Status | None = None) -> Iterator[SyncLog]:
        """Yield all documents, or all with ``status``, newest first.

        Each document is read when it is its turn.
        """
        for text in self._newest_first(status):
            yield from_json(json.loads(text))

    def shown(self, status: Status | None = None) -> Iterator[dict[str, Any]]:
        """Yield the documents of :meth:`newest_first` as :func:`to_json` makes them.

        This is cheaper than making a value of each document and JSON of each value.
        """
        for text in self._newest_first(status):
            document = json.loads(text)
            yield document if tuple(document) == FIELDS else to_json(from_json(document))

    def counts(self) -> Mapping[Status, int]:
        """Return how many documents have each status."""
        with self._lock:
            return self._catalog.counts()

    def changes(self) -> int:
        """Return a number that is another one after each write."""
        return self._storage.commits

    def room(self) -> bool:
        """Return whether the reserve for a full disk is there in full.

        Tries to allocate what is missing of it.
        """
        return self._storage.room

    def damage(self) -> int:
        """Return how many damaged lines are known.

        These are the lines found when the history was opened, and those set aside earlier in a
        file that is still there.
        """
        return self._storage.damage

    def tidy(self) -> None:
        """Compact the journal when this is worth its cost, in an agent that runs for months.

        Raises:
            HistoryFullError: There is no space for it. Nothing is lost.
        """
        with self._lock:
            if self._storage.wasteful:
                self._storage.compact()

    @property
    def closed(self) -> bool:
        """Whether the files are closed."""
        return self._storage.closed

    def close(self) -> None:
        """Close the files. Nothing else may be called afterwards."""
        self.db.close()

    def _newest_first(self, status: Status | None) -> Iterator[str]:
        """Yield the JSON of all documents, or of all with ``status``, newest first."""
        wanted: Iterator[int] = reversed(self._storage.ids(TABLE))
        if status is not None:
            wanted = (id_ for id_ in wanted if self._catalog.has_status(id_, status))
        for _, text in self._storage.texts(TABLE, wanted):
            yield text

    def _change(self, id_: int, change: Callable[[SyncLog], SyncLog]) -> SyncLog:
        with self.transaction():
            old = self.get(id_)
            new = change(old)
            # An update keeps fields that only a newer version of the agent knows.
            self._table.update(to_json(new), doc_ids=[id_])
            self._note(old, new)
            return new

    def _note(self, old: SyncLog | None, new: SyncLog) -> None:
        """Take a document over into memory that was changed from ``old`` to ``new``."""
        self._note_undo(new.id, old)
        self._catalog.set(new.id, new)
        self._catalog.add_texts(old, new)

    def _note_removed(self, log: SyncLog) -> None:
        """Take a document out of memory that was removed.

        The indexes keep it until the removal is durable.
        """
        self._note_undo(log.id, log)
        self._catalog.set(log.id, None)
        self._removed.append(log)

    def _note_undo(self, id_: int, old: SyncLog | None) -> None:
        if self._undo is not None:
            self._undo.append((id_, old))

    def _search(self, field: IndexedField, text: str) -> Iterator[SyncLog]:
        """Yield the documents with ``text`` in ``field``, newest first."""
        for id_ in self._catalog.candidates(field, text):
            try:
                log = self.get(id_)
            except KeyError:
                continue
            if getattr(log, field) == text:
                yield log
