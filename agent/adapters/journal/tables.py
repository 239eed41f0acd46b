"""TinyDB's tables on the journal: each call touches only the documents that it needs."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from tinydb import TinyDB
from tinydb.storages import Storage
from tinydb.table import Table

from agent.adapters.journal.lines import encode


class DocumentStorage(Storage):
    """A TinyDB storage that also reads and writes single documents, as JSON texts.

    TinyDB's own storages read and write the whole database in each call. The tables of this
    module use the calls below instead.
    """

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """Make all writes inside the block durable together."""

    @abstractmethod
    def ids(self, table: str) -> Sequence[int]:
        """Return the ids of a table's documents, ascending, as a copy."""

    @abstractmethod
    def count(self, table: str) -> int:
        """Return how many documents a table holds."""

    @abstractmethod
    def text(self, table: str, id_: int) -> str | None:
        """Return the JSON of one document, or None when there is none."""

    @abstractmethod
    def put(self, table: str, id_: int, text: str | None) -> None:
        """Set the JSON of one document, or remove it with None. Only inside a transaction."""


class StoredTable(Mapping[str, dict[str, Any]]):
    """One table as TinyDB reads it: each document is fetched from the disk when it is read.

    Exists so that TinyDB does not need all documents in memory. Any thread may use it; the
    storage has the lock.
    """

    def __init__(self, storage: DocumentStorage, table: str) -> None:
        """Show the table called ``table`` of ``storage`` as it is at each moment."""
        self._storage = storage
        self._table = table

    def __getitem__(self, id_: str) -> dict[str, Any]:
        text = self._storage.text(self._table, int(id_))
        if text is None:
            raise KeyError(id_)
        document: dict[str, Any] = json.loads(text)
        return document

    def __iter__(self) -> Iterator[str]:
        return map(str, self._storage.ids(self._table))

    def __len__(self) -> int:
        return self._storage.count(self._table)


class Recorder(MutableMapping[int, Any]):
    """One table as TinyDB changes it: hands only what was changed to the storage.

    TinyDB reads a document and changes it in place, without a call that says so. So the document
    that was read last is kept, and compared with its old text when the next one is read. An
    update of a big table therefore holds one document in memory at a time.

    Belongs to one transaction and its thread.
    """

    def __init__(self, storage: DocumentStorage, table: str) -> None:
        """Record changes of the table called ``table`` of ``storage``."""
        self._storage = storage
        self._table = table
        # The document that was read last: its id, the document itself, and its text on the disk.
        self._lent: tuple[int, Any, str] | None = None

    def settle(self) -> None:
        """Write the document that was read last, if it was changed in place."""
        if self._lent is not None:
            id_, document, before = self._lent
            self._lent = None
            text = encode(document)
            if text != before:
                self._storage.put(self._table, id_, text)

    def __getitem__(self, id_: int) -> Any:
        self.settle()
        text = self._storage.text(self._table, id_)
        if text is None:
            raise KeyError(id_)
        document = json.loads(text)
        self._lent = id_, document, text
        return document

    def __setitem__(self, id_: int, document: Any) -> None:
        self.settle()
        text = encode(dict(document))
        if text != self._storage.text(self._table, id_):
            self._storage.put(self._table, id_, text)

    def __delitem__(self, id_: int) -> None:
        self.settle()
        if id_ not in self:
            raise KeyError(id_)
        self._storage.put(self._table, id_, None)

    def __contains__(self, id_: object) -> bool:
        return isinstance(id_, int) and self._storage.text(self._table, id_) is not None

    def __iter__(self) -> Iterator[int]:
        self.settle()
        return iter(self._storage.ids(self._table))

    def __len__(self) -> int:
        return self._storage.count(self._table)

    def clear(self) -> None:
        """Remove all documents."""
        self._lent = None
        for id_ in self._storage.ids(self._table):
            self._storage.put(self._table, id_, None)


class JournalTable(Table):
    """TinyDB's table on a :class:`DocumentStorage`.

    All calls of TinyDB's table go through the two methods that are replaced here. With them a
    call touches only the documents that it needs. Any thread may use it.
    """

    _storage: DocumentStorage

    def _read_table(  # type: ignore[override] # TinyDB only reads it; a dict would be all of it
        self,
    ) -> StoredTable:
        return StoredTable(self._storage, self.name)

    def _update_table(self, updater: Callable[[Any], None]) -> None:
        with self._storage.transaction():
            recorder = Recorder(self._storage, self.name)
            updater(recorder)
            recorder.settle()


class JournalDB(TinyDB):
    """TinyDB on a journal. Any thread may use it."""

    table_class = JournalTable

    def table(self, name: str, **kwargs: Any) -> Table:
        """Return one table, without TinyDB's query cache: its results would be shared objects."""
        return super().table(name, **{"cache_size": 0, **kwargs})
