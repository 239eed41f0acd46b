"""Which documents may carry a text."""

from __future__ import annotations

from array import array
from collections.abc import Sequence


class Index:
    """Which documents may carry a text: hashes in arrays, chained in buckets, 22 bytes for each document.

    Hashes may lie: who asks looks at the documents themselves.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._heads = array("I", bytes(4 * 1024))  # the newest row of each bucket; rows count from 1
        self._next = array("I", [0])
        self._hashes = array("q", [0])
        self._ids = array("q", [0])  # 0: the row is free
        self._free = array("I")

    def add(self, text: str, id_: int) -> None:
        """The document ``id_``, above 0, carries ``text``."""
        if len(self._ids) > len(self._heads):
            self._grow()
        row = self._free.pop() if self._free else len(self._ids)
        if row == len(self._ids):
            for column in (self._next, self._hashes, self._ids):
                column.append(0)
        self._hashes[row], self._ids[row] = hash(text), id_
        self._link(row)

    def discard(self, text: str, id_: int) -> None:
        """The document carries it no more."""
        wanted = hash(text)
        bucket = wanted % len(self._heads)
        before, row = 0, self._heads[bucket]
        while row and (self._hashes[row] != wanted or self._ids[row] != id_):
            before, row = row, self._next[row]
        if row:
            if before:
                self._next[before] = self._next[row]
            else:
                self._heads[bucket] = self._next[row]
            self._ids[row] = 0
            self._free.append(row)

    def ids(self, text: str) -> Sequence[int]:
        """Ids of documents that may carry ``text``, highest first."""
        wanted, found = hash(text), set()
        row = self._heads[wanted % len(self._heads)]
        while row:
            if self._hashes[row] == wanted:
                found.add(self._ids[row])
            row = self._next[row]
        return sorted(found, reverse=True)

    def _grow(self) -> None:
        self._heads = array("I", bytes(4 * 4 * len(self._heads)))
        for row in range(1, len(self._ids)):
            if self._ids[row]:
                self._link(row)

    def _link(self, row: int) -> None:
        bucket = self._hashes[row] % len(self._heads)
        self._next[row] = self._heads[bucket]
        self._heads[bucket] = row
