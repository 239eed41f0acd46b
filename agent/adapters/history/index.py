"""Finds the documents that may have a given text, in little memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

_FIRST_BUCKETS = 1024

# Bytes of one entry of the array type "I".
_ENTRY_BYTES = 4


class Index:
    """Finds the ids of documents by the hash of a text: 20 to 24 bytes for each document.

    It is a hash table with chained rows, laid out in arrays. A dict from texts to ids would need
    some ten times the memory, and a robot may have 100,000 documents.

    Two texts may have the same hash. So the caller must look into the documents that are found.

    Rows are linked to their buckets only when something is looked up: while the index is filled,
    the number of buckets that it will need is not known.

    Not safe for several threads by itself: its owner's lock guards it.
    """

    def __init__(self) -> None:
        """Begin without any document."""
        # The newest row of each bucket. Rows count from 1, and 0 is the end of a chain.
        self._heads = array("I", bytes(_ENTRY_BYTES * _FIRST_BUCKETS))
        # The columns of the rows: the next row of the same bucket, the hash, and the id. The id 0
        # marks a row that is free.
        self._next = array("I", [0])
        self._hashes = array("q", [0])
        self._ids = array("I", [0])
        self._free = array("I")
        # Rows from this one on are not linked to their bucket.
        self._linked = 1

    def add(self, text: str, id_: int) -> None:
        """Note that the document ``id_``, which is above 0, has ``text``."""
        if self._free:
            row = self._free.pop()
            self._hashes[row] = hash(text)
            self._ids[row] = id_
            self._link(row, row + 1)
        else:
            self._hashes.append(hash(text))
            self._ids.append(id_)
            self._next.append(0)

    def discard(self, text: str, id_: int) -> None:
        """Forget that the document ``id_`` has ``text``. An unknown pair is no error."""
        wanted = hash(text)
        bucket = self._bucket(wanted)
        previous = 0
        row = self._heads[bucket]
        while row and (self._hashes[row] != wanted or self._ids[row] != id_):
            previous = row
            row = self._next[row]
        if row:
            if previous:
                self._next[previous] = self._next[row]
            else:
                self._heads[bucket] = self._next[row]
            self._ids[row] = 0
            self._free.append(row)

    def ids(self, text: str) -> Sequence[int]:
        """Return the ids of documents that may have ``text``, highest first."""
        wanted = hash(text)
        found = set()
        # Finding the bucket may replace the array of heads, so the bucket comes first.
        bucket = self._bucket(wanted)
        row = self._heads[bucket]
        while row:
            if self._hashes[row] == wanted:
                found.add(self._ids[row])
            row = self._next[row]
        return sorted(found, reverse=True)

    def _bucket(self, hashed: int) -> int:
        """Link all rows, and return the number of the bucket of a hash."""
        rows = len(self._ids)
        if self._linked < rows:
            if rows > len(self._heads):
                self._heads = array("I", bytes(_ENTRY_BYTES * 2 * rows))
                self._linked = 1
            self._link(self._linked, rows)
            self._linked = rows
        return hashed % len(self._heads)

    def _link(self, first: int, end: int) -> None:
        """Link the rows from ``first`` to before ``end`` to their buckets."""
        # Local names make this loop over all rows faster.
        heads, links, hashes, ids = self._heads, self._next, self._hashes, self._ids
        buckets = len(heads)
        for row in range(first, end):
            if ids[row]:
                bucket = hashes[row] % buckets
                links[row] = heads[bucket]
                heads[bucket] = row
