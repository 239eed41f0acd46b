"""What a journal holds, as memory knows it: where each document lies, ids given, the format."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path

from agent.adapters.journal.lines import HEAD_BYTES, encode, entries
from agent.adapters.journal.offsets import Offsets
from agent.adapters.journal.upgrade import copy_path
from agent.model.errors import AgentError

# Format 1 had no tables for what is remembered of recordings whose documents were deleted.
FORMAT = 2

# No entry of a line is shorter. So bad lines can't have given more ids than bytes / 12.
_SHORTEST_ENTRY_BYTES = 12


class JournalContents:
    """Where the valid documents of a journal lie, which ids were given, and which format it has.

    It is built by applying the lines of the file one after the other. A later line wins over an
    earlier one. The documents themselves stay on the disk.

    Not safe for several threads by itself: the storage's lock guards it.
    """

    def __init__(self, path: Path) -> None:
        """Begin as an empty journal. ``path`` is the journal's file, for error messages."""
        self._path = path
        self._tables: dict[str, Offsets] = {}
        self._last_ids: dict[str, int] = {}
        # The highest format that a remark names; 0 while there was no remark.
        self.format = 0

    @property
    def tables(self) -> Iterator[str]:
        """The names of the tables that ever had a document."""
        return iter(self._tables)

    def apply(self, offset: int, payload: bytes) -> None:
        """Take over the line that lies at ``offset`` and has the JSON ``payload``.

        Raises:
            AgentError: ``history_format`` when a newer version of the agent wrote the journal.
        """
        if payload.startswith(b"{"):
            self._apply_remark(payload)
            return
        for table, id_, start, length in entries(payload):
            offsets = self._tables.setdefault(table, Offsets())
            self._last_ids[table] = max(id_, self._last_ids.get(table, 0))
            if length:
                offsets.put(id_, offset + HEAD_BYTES + start, length)
            else:
                offsets.drop(id_)

    def _apply_remark(self, payload: bytes) -> None:
        remark = json.loads(payload)
        if remark["format"] > FORMAT:
            raise AgentError(
                f"{self._path} has format {remark['format']}, of a newer agent; "
                f"this one knows {FORMAT}",
                code="history_format",
                hint="install the newer version again, or go back to the history of before its "
                f"upgrade: put {copy_path(self._path, FORMAT).name} in its place",
            )
        self.format = max(self.format, remark["format"])
        for table, id_ in remark["last_ids"].items():
            self._last_ids[table] = max(id_, self._last_ids.get(table, 0))

    def skip_ids(self, damaged_bytes: int) -> None:
        """Never give an id again that a damaged line may have given.

        ``damaged_bytes`` is the length of all damaged lines together.
        """
        for table in self._last_ids:
            self._last_ids[table] += damaged_bytes // _SHORTEST_ENTRY_BYTES

    def remark(self) -> bytes:
        """Return the JSON of the remark that says the format and the highest ids given."""
        return encode({"format": FORMAT, "last_ids": self._last_ids}).encode("ascii")

    def find(self, table: str, id_: int) -> tuple[int, int] | None:
        """Return offset and length in bytes of a document's entry, or None when there is none."""
        offsets = self._tables.get(table)
        return offsets.find(id_) if offsets is not None else None

    def places(self) -> Iterator[tuple[int, int]]:
        """Yield offset and length in bytes of the entry of each document, table by table."""
        for offsets in self._tables.values():
            for id_ in offsets.ids:
                place = offsets.find(id_)
                if place:
                    yield place

    def ids(self, table: str) -> array[int]:
        """Return the ids of a table's documents, ascending, as a copy."""
        return self._tables[table].ids[:] if table in self._tables else array("q")

    def count(self, table: str) -> int:
        """Return how many documents a table holds."""
        return len(self._tables[table]) if table in self._tables else 0

    def last_id(self, table: str) -> int:
        """Return the highest id that a table ever had, or 0 when it never had a document."""
        return self._last_ids.get(table, 0)

    def live_bytes(self) -> int:
        """Return the length of the entries of all documents together."""
        return sum(sum(offsets.lengths) for offsets in self._tables.values())
