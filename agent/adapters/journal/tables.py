"""TinyDB's tables on the journal: they touch only the documents that are asked for."""

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
    """A storage that hands out and takes single documents, as JSON texts."""

    @abstractmethod
    def transaction(self) -> AbstractContextManager[None]:
        """All writes inside become durable together."""

    @abstractmethod
    def ids(self, table: str) -> Sequence[int]:
        """Ids of a table's documents, ascending; a copy."""

    @abstractmethod
    def count(self, table: str) -> int:
        """How many documents a table holds."""

    @abstractmethod
    def text(self, table: str, id_: int) -> str | None:
        """One document; None when there is none."""

    @abstractmethod
    def put(self, table: str, id_: int, text: str | None) -> None:
        """Set one document, or remove it with None; inside a transaction."""


class StoredTable(Mapping[str, dict[str, Any]]):
    """One table as TinyDB reads it: documents are fetched from the disk one by one, when they are asked for."""

    def __init__(self, storage: DocumentStorage, table: str) -> None:
        """See ``table`` of ``storage`` as it is at each moment."""
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
    """One table as TinyDB changes it: notes what was changed, and nothing else.

    A document that is read may be changed in place until the next one is asked for, as TinyDB's own calls do; so an
    update by a condition over a big table holds one document in memory at a time.
    """

    def __init__(self, storage: DocumentStorage, table: str) -> None:
        """Nothing is changed yet."""
        self._storage = storage
        self._table = table
        self._lent: tuple[int, Any, str] | None = None

    def settle(self) -> None:
        """Note what was changed in place."""
        if self._lent is not None:
            id_, document, before = self._lent
            self._lent = None
            if (text := encode(document)) != before:
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
    """TinyDB's table; its two funnels touch only the documents that are asked for."""

    _storage: DocumentStorage

    def _read_table(self) -> StoredTable:  # type: ignore[override] # TinyDB only reads it; a dict would be all of it
        return StoredTable(self._storage, self.name)

    def _update_table(self, updater: Callable[[Any], None]) -> None:
        with self._storage.transaction():
            recorder = Recorder(self._storage, self.name)
            updater(recorder)
            recorder.settle()


class JournalDB(TinyDB):
    """TinyDB on a journal."""

    table_class = JournalTable

    def table(self, name: str, **kwargs: Any) -> Table:
        """One table; without a query cache, whose results would be shared objects."""
        return super().table(name, **{"cache_size": 0, **kwargs})
