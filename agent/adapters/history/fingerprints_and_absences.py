"""Keeps what outlives documents: fingerprints of uploaded recordings, and absences from the disk.

The fingerprints of uploaded recordings outlive their documents, so that no recording is uploaded
a second time. The absences say since when recordings are no longer on the disk, which decides
when their documents may be deleted.
"""

from __future__ import annotations

from collections.abc import Iterable

from tinydb.table import Document

from agent.adapters.history.index import Index
from agent.adapters.journal import JournalDB
from agent.model.sync_log import Absences

# The table keeps the name that it has in the journals of version 0.1.
UPLOADED = "forgotten"
ABSENCES = "absences"
DAYS = "days"

# How many consecutive ids share a row of the absences. When few ids change, most rows stay as
# they are and are not written again.
_IDS_PER_ROW = 1000


class FingerprintsAndAbsences:
    """Small tables beside the sync log: fingerprints that stay, and absences.

    Many fingerprints or ids share a row, so that 100,000 of them take few MiB on the disk. Memory
    holds only the hashes of the fingerprints.

    Not safe for several threads by itself: the history's lock guards it. Writes belong into a
    transaction of the history.
    """

    def __init__(self, db: JournalDB) -> None:
        """Read from ``db`` which fingerprints are remembered."""
        self._fingerprints = db.table(UPLOADED)
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
        """Remember ``fingerprints`` for good. One that is remembered already is no error."""
        new = [
            fingerprint for fingerprint in dict.fromkeys(fingerprints) if fingerprint not in self
        ]
        if new:
            row = self._fingerprints.insert({"fingerprints": new})
            for fingerprint in new:
                self._index.add(fingerprint, row)

    def absences(self) -> Absences:
        """Return the absences as they were noted last."""
        days = self._days.get(doc_id=1)
        if not isinstance(days, Document):
            return Absences()
        since = {id_: row["since"] for row in self._absences for id_ in row["documents"]}
        return Absences(days["day"], days["date"], since)

    def note_absences(self, absences: Absences) -> None:
        """Note ``absences`` in the place of those noted before. Rows that are the same stay."""
        rows: dict[tuple[int, int], list[int]] = {}
        for id_ in sorted(absences.since):
            rows.setdefault((absences.since[id_], id_ // _IDS_PER_ROW), []).append(id_)
        stale = []
        for row in self._absences:
            key = row["since"], row["documents"][0] // _IDS_PER_ROW
            if rows.get(key) == row["documents"]:
                del rows[key]
            else:
                stale.append(row.doc_id)
        self._absences.remove(doc_ids=stale)
        self._absences.insert_multiple(
            {"since": since, "documents": ids} for (since, _), ids in rows.items()
        )
        self._days.upsert(Document({"day": absences.day, "date": absences.date}, 1))
