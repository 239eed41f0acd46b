"""What outlives its documents: fingerprints of what was uploaded. And who may be forgotten next: what is missed."""

from __future__ import annotations

from collections.abc import Iterable

from tinydb.table import Document

from agent.adapters.history.index import Index
from agent.adapters.journal import JournalDB
from agent.model.sync_log import Absences

FORGOTTEN = "forgotten"
ABSENCES = "absences"
DAYS = "days"

_ROW = 1000  # ids in a row, by their thousands: most rows stay as they are


class Forgotten:
    """Small tables beside the sync log. Many things share a row, so 100,000 of them cost few MiB on disk."""

    def __init__(self, db: JournalDB) -> None:
        """Read which fingerprints are remembered; memory holds only their hashes."""
        self._fingerprints = db.table(FORGOTTEN)
        self._absences = db.table(ABSENCES)
        self._days = db.table(DAYS)
        self._index = Index()
        for row in self._fingerprints:
            for fingerprint in row["fingerprints"]:
                self._index.add(fingerprint, row.doc_id)

    def __contains__(self, fingerprint: str) -> bool:
        rows = (self._fingerprints.get(doc_id=id_) for id_ in self._index.ids(fingerprint))
        return any(fingerprint in row["fingerprints"] for row in rows if isinstance(row, Document))

    def add(self, fingerprints: Iterable[str]) -> None:
        """Remember these for good."""
        new = [
            fingerprint for fingerprint in dict.fromkeys(fingerprints) if fingerprint not in self
        ]
        if new:
            row = self._fingerprints.insert({"fingerprints": new})
            for fingerprint in new:
                self._index.add(fingerprint, row)

    def absences(self) -> Absences:
        """What was noted last."""
        days = self._days.get(doc_id=1)
        since = {id_: row["since"] for row in self._absences for id_ in row["documents"]}
        return (
            Absences(days["day"], days["date"], since) if isinstance(days, Document) else Absences()
        )

    def note_absences(self, absences: Absences) -> None:
        """Write what has changed since."""
        rows: dict[tuple[int, int], list[int]] = {}
        for id_ in sorted(absences.since):
            rows.setdefault((absences.since[id_], id_ // _ROW), []).append(id_)
        stale = []
        for row in self._absences:
            key = row["since"], row["documents"][0] // _ROW
            if rows.get(key) == row["documents"]:
                del rows[key]
            else:
                stale.append(row.doc_id)
        self._absences.remove(doc_ids=stale)
        self._absences.insert_multiple(
            {"since": since, "documents": ids} for (since, _), ids in rows.items()
        )
        self._days.upsert(Document({"day": absences.day, "date": absences.date}, 1))
