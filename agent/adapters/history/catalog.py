"""What memory knows of the sync log documents, so that most questions cost no read of the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from agent.adapters.history.documents import (
    IndexedTexts,
    completed_texts,
    from_json,
    indexed_texts,
)
from agent.adapters.history.index import Index
from agent.model.sync_log import Status, SyncLog

IndexedField = Literal["fingerprint", "path", "episode_id"]

# The number of each status in the array of statuses. The number 0 means that there is no document.
_STATUS_NUMBERS: dict[str, int] = {
    status: number for number, status in enumerate(get_args(Status), start=1)
}


class DocumentCatalog:
    """Knows of each document its status and hashes of its texts, and holds open documents whole.

    A robot may have 100,000 documents, almost all of them completed. As values they would need
    some hundred MiB.

    Not safe for several threads by itself: the history's lock guards it.
    """

    def __init__(self, last_id: int) -> None:
        """Begin without any document. ``last_id`` is the highest id that was ever given."""
        self._open: dict[int, SyncLog] = {}
        # The number of each document's status, by id. Ids begin at 1.
        self._statuses = bytearray(last_id + 2)
        self._index_of: Mapping[IndexedField, Index] = {
            "fingerprint": Index(),
            "path": Index(),
            "episode_id": Index(),
        }
        # The same indexes, in the order of the texts in IndexedTexts.
        self._indexes = tuple(self._index_of.values())

    def load(self, id_: int, text: str) -> None:
        """Take over a document from its stored JSON, when the history is opened."""
        texts = completed_texts(text)
        if texts is not None:
            self._statuses[id_] = _STATUS_NUMBERS["completed"]
            self._add_to_indexes(id_, texts)
        else:
            log = from_json(json.loads(text))
            self.set(id_, log)
            self._add_to_indexes(id_, indexed_texts(log))

    def set(self, id_: int, log: SyncLog | None) -> None:
        """Take over the document ``id_`` as it is now, or its removal with None.

        The texts by which it is found stay as they were.
        """
        self._statuses.extend(bytes(max(0, id_ + 1 - len(self._statuses))))
        self._statuses[id_] = _STATUS_NUMBERS[log.status] if log is not None else 0
        if log is not None and log.open:
            self._open[id_] = log
        else:
            self._open.pop(id_, None)

    def add_texts(self, old: SyncLog | None, new: SyncLog) -> None:
        """Make a document findable by the texts it has now.

        ``old`` is the document before its change, or None when it is a new one.
        """
        if old is None or indexed_texts(old) != indexed_texts(new):
            self._add_to_indexes(new.id, indexed_texts(new))

    def discard_texts(self, log: SyncLog) -> None:
        """Make a removed document unfindable."""
        for index, text in zip(self._indexes, indexed_texts(log), strict=True):
            index.discard(text, log.id)

    def candidates(self, field: IndexedField, text: str) -> Sequence[int]:
        """Return the ids of documents that may have ``text`` in ``field``, highest first.

        Some of them may have another text, or be removed.
        """
        return self._index_of[field].ids(text)

    def open_document(self, id_: int) -> SyncLog | None:
        """Return a document if it is open, else None."""
        return self._open.get(id_)

    def open_documents(self) -> Sequence[SyncLog]:
        """Return all open documents, oldest id first."""
        return [self._open[id_] for id_ in sorted(self._open)]

    def has_status(self, id_: int, status: Status) -> bool:
        """Return whether there is a document ``id_`` with ``status``."""
        return self._statuses[id_] == _STATUS_NUMBERS[status]

    def counts(self) -> Mapping[Status, int]:
        """Return how many documents have each status."""
        return {
            status: self._statuses.count(_STATUS_NUMBERS[status]) for status in get_args(Status)
        }

    def _add_to_indexes(self, id_: int, texts: IndexedTexts) -> None:
        for index, text in zip(self._indexes, texts, strict=True):
            index.add(text, id_)
