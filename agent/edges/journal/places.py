"""Where the documents of a table lie in the journal."""

from __future__ import annotations

from array import array
from bisect import bisect_left


class Places:
    """Where the documents of one table lie in the file: 20 bytes for each, ordered by id."""

    def __init__(self) -> None:
        """No document yet."""
        self.ids = array("q")
        self._offsets = array("q")
        self.lengths = array("I")

    def find(self, id_: int) -> tuple[int, int] | None:
        """Offset and length of a document; None when there is none."""
        at = bisect_left(self.ids, id_)
        if at == len(self.ids) or self.ids[at] != id_:
            return None
        return self._offsets[at], self.lengths[at]

    def put(self, id_: int, offset: int, length: int) -> None:
        """A document lies here from now on."""
        at = bisect_left(self.ids, id_)
        if at < len(self.ids) and self.ids[at] == id_:
            self._offsets[at], self.lengths[at] = offset, length
        else:
            self.ids.insert(at, id_)
            self._offsets.insert(at, offset)
            self.lengths.insert(at, length)

    def drop(self, id_: int) -> None:
        """A document lies nowhere any more; one that is unknown is no error."""
        at = bisect_left(self.ids, id_)
        if at < len(self.ids) and self.ids[at] == id_:
            del self.ids[at], self._offsets[at], self.lengths[at]
