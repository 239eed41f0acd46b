"""The ports of the history, one for each group of its tables.

``agent.model.ports.History`` joins them. A part of the agent that needs one group only should ask
for that group.

These rules hold for all groups:

- What a method wrote is on the disk when the method returns. It survives a power loss.
- A method that writes raises HistoryFullError if the disk is full. Then nothing has changed.
- An id that is not known raises KeyError.
- Any thread may call any method.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.model.states import Event
from agent.model.sync_log import (
    Absences,
    Marker,
    MoveChanges,
    Orphan,
    Status,
    SyncLog,
    SyncLogChanges,
    Upgrade,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SyncLogReader(Protocol):
    """Reads sync log documents. Documents are frozen values."""

    def get(self, id_: int) -> SyncLog:
        """Return one document."""
        ...

    def newest(self, fingerprint: str) -> SyncLog | None:
        """Return the newest document of these bytes, which is the live one. Reads no other."""
        ...

    def synced(self, fingerprint: str) -> bool:
        """Return whether these bytes were ever uploaded.

        Documents that were removed from the history count as well. Reads no document.
        """
        ...

    def open(self) -> Sequence[SyncLog]:
        """Return the documents whose status may still change, lowest id first, from memory."""
        ...

    def at_path(self, path: Path) -> Sequence[SyncLog]:
        """Return the documents queued from this path, newest first. Reads no other."""
        ...

    def of_episode(self, episode_id: str) -> Sequence[SyncLog]:
        """Return the documents of this episode, newest first. Reads no other."""
        ...

    def newest_first(self, status: Status | None = None) -> Iterator[SyncLog]:
        """Yield all documents, or all with this status, newest first. Reads them one by one."""
        ...

    def counts(self) -> Mapping[Status, int]:
        """Return the number of documents with each status. Reads no document."""
        ...

    def changes(self) -> int:
        """Return a number that is another one after each write to the history.

        As long as the number is the same, everything that was read of the history still holds.
        """
        ...


class SyncLogs(SyncLogReader, Protocol):
    """Reads and writes sync log documents.

    Ids of documents rise and are never used again.
    """

    def add(self, log: SyncLog) -> SyncLog:
        """Write a new document and return it with its id. The ``id`` of ``log`` is ignored."""
        ...

    def move(self, id_: int, event: Event, **changes: Unpack[MoveChanges]) -> SyncLog:
        """Change a status through the state table, and return the document.

        ``changes`` are other fields to set. Raises IllegalMoveError for a move that
        ``agent.model.states.move`` forbids.
        """
        ...

    def amend(self, id_: int, **changes: Unpack[SyncLogChanges]) -> SyncLog:
        """Change fields other than the status of a document that has not ended, and return it.

        Raises IllegalMoveError if the document has ended.
        """
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """Make all writes of this thread inside the block durable together when the block ends.

        Either all of them are on the disk afterwards, or none.
        """
        ...


class Orphans(Protocol):
    """Multipart uploads that were given up and must still be aborted."""

    def add_orphan(self, orphan: Orphan) -> None:
        """Add an orphan. Its ``id`` is ignored and chosen here."""
        ...

    def orphans(self) -> Sequence[Orphan]:
        """Return the orphans, oldest first."""
        ...

    def remove_orphan(self, orphan_id: int) -> None:
        """Remove an orphan that is aborted or cannot be aborted. An unknown id is no error."""
        ...


class ServedMarkers(Protocol):
    """Marker files that were handled, or are handled in part, but are still on the disk."""

    def mark_served(self, marker: Marker) -> None:
        """Note how far ``marker`` is handled. The note replaces an earlier one of its path."""
        ...

    def marker(self, path: str) -> Marker | None:
        """Return the note about the marker file at ``path``, or None if there is none."""
        ...

    def known_markers(self) -> Sequence[Marker]:
        """Return all notes."""
        ...

    def forget_marker(self, path: str) -> None:
        """Remove the note about ``path``, because the file is gone. No note is no error."""
        ...


class Expiry(Protocol):
    """The removal of documents whose recordings have been gone from the disk for a long time."""

    def expire(self, fingerprints: Sequence[str]) -> int:
        """Remove all documents of these recordings, and return how many were removed.

        :meth:`SyncLogReader.synced` still knows what was uploaded. A recording with an open
        document keeps all of its documents.
        """
        ...

    def absences(self) -> Absences:
        """Return which documents have recordings that are gone, as noted last."""
        ...

    def note_absences(self, absences: Absences) -> None:
        """Replace what :meth:`absences` returns."""
        ...


class VersionNotes(Protocol):
    """Which version of the agent uses the history."""

    def upgrade(self) -> Upgrade | None:
        """Return the version that uses this history, as noted last, or None for a new history."""
        ...

    def note_upgrade(self, upgrade: Upgrade) -> None:
        """Replace what :meth:`upgrade` returns."""
        ...


class HistoryFiles(Protocol):
    """The files of the history as a whole."""

    def room(self) -> bool:
        """Return whether the disk space reserved for a full disk is still there in full."""
        ...

    def damage(self) -> int:
        """Return how many damaged lines were set aside when the history was opened."""
        ...

    def tidy(self) -> None:
        """Make the files smaller if this is worth its cost. Raises HistoryFullError."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the files are closed."""
        ...

    def close(self) -> None:
        """Close the files. No other method may be called afterwards, but ``closed`` may be read."""
        ...
