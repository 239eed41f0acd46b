"""Remembers where the documents of a table lie in the journal."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import compress


class Offsets:
    """Where the documents of one table lie in the file: 20 bytes of memory for each document.

    The rows are three parallel arrays, ordered by id. A dict of tuples would need ten times the
    memory, and a robot may have 100,000 documents.

    A document that is dropped keeps its row until :attr:`ids` is read. Removing a row moves all
    rows behind it, which would be slow for thousands of documents one after the other.

    Not safe for several threads by itself: the storage's lock guards it.
    """

    def __init__(self) -> None:
        """Begin without any document."""
        self._ids = array("q")
        self._offsets = array("q")
        # Bytes of each document; 0 marks the row of a document that was dropped.
        self.lengths = array("I")
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._ids) - self._dropped

    @property
    def ids(self) -> array[int]:
        """The ids of the documents, ascending. This is no copy."""
        if self._dropped:
            self._ids = array("q", compress(self._ids, self.lengths))
            self._offsets = array("q", compress(self._offsets, self.lengths))
            self.lengths = array("I", filter(None, self.lengths))
            self._dropped = 0
        return self._ids

    def find(self, id_: int) -> tuple[int, int] | None:
        """Return offset and length in bytes of a document, or None when there is none."""
        row = bisect_left(self._ids, id_)
        if row == len(self._ids) or self._ids[row] != id_ or not self.lengths[row]:
            return None
        return self._offsets[row], self.lengths[row]

    def put(self, id_: int, offset: int, length: int) -> None:
        """Note that a document lies at ``offset`` from now on, with ``length`` bytes."""
        row = bisect_left(self._ids, id_)
        if row < len(self._ids) and self._ids[row] == id_:
            if not self.lengths[row]:
                self._dropped -= 1
            self._offsets[row] = offset
            self.lengths[row] = length
        else:
            self._ids.insert(row, id_)
            self._offsets.insert(row, offset)
            self.lengths.insert(row, length)

    def drop(self, id_: int) -> None:
        """Forget a document. An id that is unknown is no error."""
        if self.find(id_):
            self.lengths[bisect_left(self._ids, id_)] = 0
            self._dropped += 1
