"""Where the documents of a table lie in the journal."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from itertools import compress


class Offsets:
    """Where the documents of one table lie in the file: 20 bytes for each, ordered by id.

    What is dropped keeps its row until the ids are asked for: thousands go without moving all others each time.
    """

    def __init__(self) -> None:
        """No document yet."""
        self._ids = array("q")
        self._offsets = array("q")
        self.lengths = array("I")  # 0: it lies nowhere any more
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._ids) - self._dropped

    @property
    def ids(self) -> array[int]:
        """Ids of the documents, ascending."""
        if self._dropped:
            self._ids = array("q", compress(self._ids, self.lengths))
            self._offsets = array("q", compress(self._offsets, self.lengths))
            self.lengths = array("I", filter(None, self.lengths))
            self._dropped = 0
        return self._ids

    def find(self, id_: int) -> tuple[int, int] | None:
        """Offset and length of a document; None when there is none."""
        at = bisect_left(self._ids, id_)
        if at == len(self._ids) or self._ids[at] != id_ or not self.lengths[at]:
            return None
        return self._offsets[at], self.lengths[at]

    def put(self, id_: int, offset: int, length: int) -> None:
        """A document lies here from now on."""
        at = bisect_left(self._ids, id_)
        if at < len(self._ids) and self._ids[at] == id_:
            self._dropped -= not self.lengths[at]
            self._offsets[at], self.lengths[at] = offset, length
        else:
            self._ids.insert(at, id_)
            self._offsets.insert(at, offset)
            self.lengths.insert(at, length)

    def drop(self, id_: int) -> None:
        """A document lies nowhere any more; one that is unknown is no error."""
        if self.find(id_):
            self.lengths[bisect_left(self._ids, id_)] = 0
            self._dropped += 1
