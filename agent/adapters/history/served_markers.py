"""Remembers which marker files are served, so that none is served twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from agent.adapters.history.documents import known_fields
from agent.adapters.journal import JournalDB
from agent.model.sync_log import Marker

MARKERS = "markers"


class ServedMarkerTable:
    """The table of marker files that are served, with a copy in memory.

    The copy exists because each scan asks for all markers that it finds.

    Not safe for several threads by itself: the history's lock guards it. Writes belong into a
    transaction of the history; after one that failed, :meth:`reload` must be called.
    """

    def __init__(self, db: JournalDB) -> None:
        """Read the table in ``db``."""
        self._table = db.table(MARKERS)
        # The row of each marker and the marker itself, by path.
        self._known: dict[str, tuple[int, Marker]] = {}
        self.reload()

    def reload(self) -> None:
        """Read all markers from the table."""
        self._known = {
            row["path"]: (row.doc_id, Marker(**known_fields(row, Marker))) for row in self._table
        }

    def put(self, marker: Marker) -> None:
        """Remember ``marker`` in the place of what was remembered of its path."""
        self.remove(marker.path)
        self._known[marker.path] = self._table.insert(asdict(marker)), marker

    def get(self, path: str) -> Marker | None:
        """Return what is remembered of the marker at ``path``, or None."""
        known = self._known.get(path)
        return known[1] if known else None

    def all(self) -> Sequence[Marker]:
        """Return all markers that are remembered."""
        return [marker for _, marker in self._known.values()]

    def remove(self, path: str) -> None:
        """Forget the marker at ``path``. One that is unknown is no error."""
        known = self._known.pop(path, None)
        if known:
            self._table.remove(doc_ids=[known[0]])
