"""Knows which of the recordings on this disk are uploaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, KeysView
from contextlib import suppress
from dataclasses import dataclass

from agent.model.ports import Clock, History
from agent.model.sync_log import SyncLog
from agent.model.values import utc_seconds
from agent.retention.verify import Finding

# The least time between two readings of the history.
_READ_SECONDS = 10.0

# After a reading there is none for so many times its own duration.
_PAUSE_FACTOR = 1000


@dataclass(slots=True)
class UploadedRecording:
    """A completed document whose recording is on this disk."""

    # The wall clock at the end of the upload, as the robot read it then.
    completed_at: float
    # The monotonic time at which the document was first read.
    seen: float
    # The device that the file is on; None for unknown.
    device: int | None
    # The monotonic time before which no deletion is tried.
    not_before: float = 0.0
    # The reason why the recording stays, as it was logged last.
    logged_reason: str = ""
    # The findings in its files that were logged.
    logged_findings: frozenset[Finding] = frozenset()


class UploadedRecordings:
    """The uploaded recordings on this disk by document id, the oldest first.

    The history may be long, so it is read seldom.

    Used by the thread of the retention.
    """

    def __init__(
        self, history: History, clock: Clock, there: Callable[[], Callable[[str], bool]]
    ) -> None:
        """Read nothing before :meth:`read_if_due`.

        Args:
            history: Has the completed documents.
            clock: Its monotonic side says when to read again.
            there: Returns a test whether a file with a fingerprint is on the disk.
        """
        self._history = history
        self._clock = clock
        self._on_disk = there
        self._by_id: dict[int, UploadedRecording] = {}
        self._due = 0.0

    def read_if_due(self, stopped: Callable[[], bool]) -> bool:
        """Read the history if it is time; return whether it was read as a whole.

        The reading ends as soon as ``stopped`` returns true.
        """
        began = self._clock.monotonic()
        if began < self._due:
            return False
        on_disk = self._on_disk()
        fingerprints: set[str] = set()
        found: dict[int, UploadedRecording] = {}
        for log in self._history.newest_first("completed"):
            if stopped():
                return False
            if log.fingerprint not in fingerprints and on_disk(log.fingerprint):
                fingerprints.add(log.fingerprint)
                found[log.id] = self._by_id.get(log.id) or _uploaded(log, began)
        self._by_id = dict(sorted(found.items()))
        now = self._clock.monotonic()
        self._due = now + max(_READ_SECONDS, _PAUSE_FACTOR * (now - began))
        return True

    def ready(self, device: int | None = None) -> Iterator[tuple[int, UploadedRecording]]:
        """Return what may be deleted now, on ``device`` or of unknown device where one is given."""
        now = self._clock.monotonic()
        for id_, recording in list(self._by_id.items()):
            is_there = device is None or recording.device in (None, device)
            if recording.not_before <= now and is_there:
                yield id_, recording

    def get(self, id_: int) -> UploadedRecording | None:
        """Return the recording of a document; None where it is not on the disk any more."""
        return self._by_id.get(id_)

    def remove(self, id_: int) -> None:
        """Note that the recording of a document is gone, or was asked for again."""
        del self._by_id[id_]

    def ids(self) -> KeysView[int]:
        """Return the ids of the documents."""
        return self._by_id.keys()

    def __len__(self) -> int:
        return len(self._by_id)


def _uploaded(log: SyncLog, now: float) -> UploadedRecording:
    device = None
    with suppress(OSError):
        device = os.lstat(log.path).st_dev
    return UploadedRecording(utc_seconds(log.completed_at or log.queued_at), now, device)
