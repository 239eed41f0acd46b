"""Which documents may carry a text."""

from __future__ import annotations

from array import array
from collections.abc import Sequence


class Index:
    """Which documents may carry a text: hashes in arrays, chained in buckets, 20 to 24 bytes for each document.

    Hashes may lie: who asks looks at the documents themselves.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self._heads = array(
            "I", bytes(4 * 1024)
        )  # the newest row of each bucket; rows count from 1
        self._next = array("I", [0])
        self._hashes = array("q", [0])
        self._ids = array("I", [0])  # 0: the row is free
        self._free = array("I")
        self._linked = 1  # rows from here on are in no bucket yet

    def add(self, text: str, id_: int) -> None:
        """The document ``id_``, above 0, carries ``text``."""
        if self._free:
            row = self._free.pop()
            self._hashes[row], self._ids[row] = hash(text), id_
            self._link(row, row + 1)
        else:
            self._hashes.append(hash(text))
            self._ids.append(id_)
            self._next.append(0)

    def discard(self, text: str, id_: int) -> None:
        """The document carries it no more."""
        wanted = hash(text)
        bucket = self._bucket(wanted)
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
        bucket = self._bucket(wanted)
        row = self._heads[bucket]
        while row:
            if self._hashes[row] == wanted:
                found.add(self._ids[row])
            row = self._next[row]
        return sorted(found, reverse=True)

    def _bucket(self, hashed: int) -> int:
        """Its number, when all rows are in theirs."""
        rows = len(self._ids)
        if self._linked < rows:
            if rows > len(self._heads):
                self._heads = array("I", bytes(4 * 2 * rows))
                self._linked = 1
            self._link(self._linked, rows)
            self._linked = rows
        return hashed % len(self._heads)

    def _link(self, first: int, end: int) -> None:
        heads, links, hashes, ids = self._heads, self._next, self._hashes, self._ids
        buckets = len(heads)
        for row in range(first, end):
            if ids[row]:
                bucket = hashes[row] % buckets
                links[row] = heads[bucket]
                heads[bucket] = row
