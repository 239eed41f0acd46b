"""Makes the documents: of what discovery finds, and of what operators ask for.

No other module adds a document to the history.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.cloud.identity import episode_id
from agent.model.ports import Clock, History
from agent.model.sync_log import Fault, SyncLog, Trigger
from agent.model.values import Answer, Ask, Damaged, Recording, utc_text

_log = logging.getLogger(__name__)

_REASON_MAX_CHARACTERS = 1000

# How often is checked whether uploads have ended whose recordings were found again meanwhile.
_FOUND_AGAIN_SECONDS = 10.0

# What a document says whose tags were sent before its sidecar was as it is.
_TAGS_WITHOUT_SIDECAR = "it came or changed after the upload: the tags were sent without it"


class Intake:
    """Decides whether a recording is new, and makes its document.

    The same bytes are one recording, whatever its names: the fingerprint identifies it.

    Discovery's thread and the threads of operators' requests may call all methods. A transaction
    of the history keeps a document as it is between the check and the change.
    """

    def __init__(
        self,
        *,
        history: History,
        clock: Clock,
        device_id: str,
        snapshot: Callable[[Recording], str],
        auto: bool = True,
        again: Container[int] = (),
        can_revise: Callable[[SyncLog], bool] = lambda _log: False,
    ) -> None:
        """Join the parts.

        Args:
            history: Where documents are made.
            clock: Dates the documents.
            device_id: This robot's own id.
            snapshot: Returns the asset id that a recording has when it is found, "" for none.
            auto: Whether recordings that are found are queued; else they wait for an operator.
            again: Ids of finally failed documents whose recordings are tried once more when they
                are found.
            can_revise: Returns whether the manifest of a completed document can be written anew.
        """
        self._history = history
        self._clock = clock
        self._device_id = device_id
        self._snapshot = snapshot
        self._auto = auto
        self._again = again
        self._can_revise = can_revise
        # Recordings that were found again during their upload: paths by fingerprint. Their sidecar
        # may have changed, or another file took the place of the one that is uploaded.
        self._found_again: dict[str, Path] = {}
        self._found_again_due = 0.0
        # Hashes of the fingerprints of recordings that wait for an operator.
        self._unasked: set[int] = set()
        # The highest rank of a document that was put ahead; None until the history was searched.
        self._highest_rank: int | None = None

    @property
    def unasked(self) -> int:
        """How many recordings wait for an operator to ask for them."""
        return len(self._unasked)

    def together(self) -> AbstractContextManager[None]:
        """Return a block in which all that is accepted becomes durable together, or not at all."""
        return self._history.transaction()

    def accept(self, found: Recording | Damaged) -> SyncLog | None:
        """Make the document of what was found, or retry its document that waits for it.

        Returns None when nothing is to be done. Raises HistoryFullError.
        """
        with self._history.transaction():
            if isinstance(found, Damaged):
                return self._record_damage(found)
            newest = self._history.newest(str(found.fingerprint))
            if newest is None:
                return self._queue_if_wanted(found)
            if newest.open:
                if _waits_for_folder(newest):
                    return self._history.move(newest.id, "asked")
                # A claim to come finds file and sidecar as they are then.
                if newest.session or newest.status == "in_progress":
                    self._found_again[newest.fingerprint] = found.path
                return None
            if newest.synced or newest.is_revision:
                return self._take_late_sidecar(found, newest)
            return self._retry(found, newest)

    def take_found_again(self) -> Sequence[Path]:
        """Return recordings that were found again during an upload that has ended now.

        They must be examined again. Called by discovery's thread only.
        """
        now = self._clock.monotonic()
        if not self._found_again or now < self._found_again_due:
            return ()
        self._found_again_due = now + _FOUND_AGAIN_SECONDS
        newest = {
            fingerprint: self._history.newest(fingerprint) for fingerprint in self._found_again
        }
        ended = [fingerprint for fingerprint, log in newest.items() if log is None or not log.open]
        return [self._found_again.pop(fingerprint) for fingerprint in ended]

    def _take_late_sidecar(self, found: Recording, log: SyncLog) -> SyncLog | None:
        """Have the manifest of an uploaded recording written anew, if its sidecar has changed.

        Returns the document that writes the manifest, or None where there is nothing to write.
        """
        is_tried_again = log.status == "failed" and log.id in self._again
        if not is_tried_again and not _has_late_sidecar(found, log):
            return None
        if not self._can_revise(log):
            self._note_late_sidecar(found, log)
            return None
        revision = self._history.add(
            replace(
                log.as_revision(),
                episode_id=episode_id(found),
                path=str(found.path),
                sidecar_sha256=found.sidecar_sha256,
                queued_at=utc_text(self._clock.now()),
            )
        )
        _log.info(
            "the sidecar of %s came or changed after the upload: its manifest is written anew",
            found.path,
            extra=_sidecar_changed(revision),
        )
        return revision

    def _note_late_sidecar(self, found: Recording, log: SyncLog) -> None:
        """Say once that a recording's tags were sent without its sidecar.

        The platform takes no tags after an upload. The completed document that says so also keeps
        the log from saying it again.
        """
        note = self._history.add(
            replace(
                log,
                trigger="sidecar",
                path=str(found.path),
                sidecar_sha256=found.sidecar_sha256,
                sidecar_fault=_TAGS_WITHOUT_SIDECAR,
                queued_at=utc_text(self._clock.now()),
                bytes_sent=0,
                duration_seconds=0.0,
            )
        )
        _log.warning(
            "the sidecar of %s came or changed after the upload: the tags were sent without it. "
            "A resync sends the recording with them",
            found.path,
            extra=_sidecar_changed(note),
        )

    def _retry(self, found: Recording, newest: SyncLog) -> SyncLog | None:
        """Queue a finally failed recording again where something has changed for it."""
        trigger = self._retry_trigger(found, newest)
        if trigger is None:
            return None
        # A recording that was uploaded before has failed in a resync.
        is_resync = self._history.synced(str(found.fingerprint))
        return self._queue(found, trigger, resync=is_resync)

    def _retry_trigger(self, found: Recording, newest: SyncLog) -> Trigger | None:
        """Return what makes a finally failed recording worth another try; None for nothing."""
        error = newest.error
        if newest.status != "failed":
            return None
        if error is not None and error.means("file_replaced"):
            return "discovered"
        has_changed = (found.sidecar_sha256, str(found.path)) != (
            newest.sidecar_sha256,
            newest.path,
        )
        if error is not None and error.means("sidecar_faulty") and has_changed:
            return "cause-changed"
        return "upgrade" if newest.id in self._again else None

    def ask(self, found: Recording, *, trigger: Trigger, ask: Ask, reason: str = "") -> Answer:
        """Do with a recording what an operator asks for.

        ``resync`` uploads the recording again, ``first`` uploads it next. A recording that is
        queued or being uploaded is not queued twice. One whose document has ended gets a new
        document, and the old one stays as it is. Raises HistoryFullError.
        """
        target, fingerprint = str(found.path), str(found.fingerprint)
        with self._history.transaction():
            newest, synced = self._history.newest(fingerprint), self._history.synced(fingerprint)
            if newest is not None and newest.open:
                return self.expedite(newest, target, ask)
            if ask == "first" and synced and (newest is None or newest.synced):
                message = "it is uploaded already; a resync sends it again"
                return Answer(target, "rejected", message, episode_id(found))
            log = self._queue(found, trigger, reason=reason, resync=synced)
            if ask == "first":
                self._history.amend(log.id, ahead=self._next_rank())
            return Answer(target, "accepted", "queued", log.episode_id)

    def expedite(self, log: SyncLog, target: str, ask: Ask) -> Answer:
        """Answer an operator who asks for a recording with an open document.

        A document that waits for its retry date is due now; ``first`` puts it ahead of the queue.
        The caller has begun a transaction of the history. Raises HistoryFullError.
        """
        if log.is_revision and ask == "resync" and log.status != "in_progress":
            # Without its session the document uploads the recording, and not only its manifest.
            log = self._history.amend(log.id, session=None)
        has_waited = log.status == "failed"
        if has_waited:
            log = self._history.move(log.id, "asked")
        if ask == "first":
            self._history.amend(log.id, ahead=self._next_rank())
            return Answer(target, "accepted", "it goes next", log.episode_id)
        if has_waited:
            return Answer(target, "accepted", "it is tried again now", log.episode_id)
        message = "it is queued or being uploaded already"
        return Answer(target, "already_queued", message, log.episode_id)

    def _next_rank(self) -> int:
        """Return a rank ahead of all documents that were put ahead before."""
        # The history is searched once, because thousands of documents may be put ahead in a row.
        if self._highest_rank is None:
            self._highest_rank = max((log.ahead for log in self._history.open()), default=0)
        self._highest_rank += 1
        return self._highest_rank

    def _queue_if_wanted(self, found: Recording) -> SyncLog | None:
        """Queue a recording without a document; None where it is uploaded or must be asked for."""
        # The documents of a recording that was uploaded long ago may have expired.
        if self._history.synced(str(found.fingerprint)):
            return None
        if self._auto:
            return self._queue(found, "discovered")
        self._unasked.add(hash(found.fingerprint))
        return None

    def _queue(
        self, recording: Recording, trigger: Trigger, *, reason: str = "", resync: bool = False
    ) -> SyncLog:
        self._unasked.discard(hash(recording.fingerprint))
        log = self._history.add(
            SyncLog(
                id=0,
                episode_id=episode_id(recording),
                path=str(recording.path),
                file_size=recording.size,
                mtime=utc_text(recording.mtime_ns / 1e9),
                fingerprint=str(recording.fingerprint),
                sidecar_sha256=recording.sidecar_sha256,
                trigger=trigger,
                reason=reason[:_REASON_MAX_CHARACTERS],
                resync=resync,
                queued_at=utc_text(self._clock.now()),
                device_id=self._device_id,
                asset_id=self._snapshot(recording),
                owner=recording.owner,
            )
        )
        _log.info(
            "queued %s (%d bytes)",
            recording.path,
            recording.size,
            extra={"event": "queued", "episode_id": log.episode_id, "document": log.id},
        )
        return log

    def _record_damage(self, found: Damaged) -> SyncLog | None:
        """Make a failed document for a damaged file; None where the file is known.

        A path gets one such document, even when the damaged file there goes on changing.
        """
        before = self._history.at_path(found.path)
        if before and before[0].error is not None and before[0].error.means("damaged_file"):
            return None
        if self._history.newest(str(found.fingerprint)) is not None:
            return None
        now = utc_text(self._clock.now())
        log = self._history.add(
            SyncLog(
                id=0,
                episode_id=f"{found.path.stem}-{found.fingerprint.short}",
                path=str(found.path),
                file_size=found.fingerprint.size,
                mtime=utc_text(found.mtime_ns / 1e9),
                fingerprint=str(found.fingerprint),
                queued_at=now,
                status="failed",
                device_id=self._device_id,
                error=Fault(
                    "final",
                    "damaged",
                    found.reason,
                    "mend the file (`mcap recover`), send it as it is (resync), or delete it",
                ),
            )
        )
        _log.error(
            "%s is damaged: %s",
            found.path,
            found.reason,
            extra={"event": "damaged", "episode_id": log.episode_id},
        )
        return log


def _waits_for_folder(log: SyncLog) -> bool:
    """Return whether an open document waits until its recording is found again."""
    return log.status == "failed" and log.error is not None and log.error.means("folder_away")


def _has_late_sidecar(found: Recording, log: SyncLog) -> bool:
    """Return whether the recording has another sidecar than the one whose tags were sent.

    A sidecar that was deleted counts for nothing, and so does that of a copy.
    """
    if found.sidecar is None or found.sidecar_sha256 == log.sidecar_sha256:
        return False
    return str(found.path) == log.path or not Path(log.path).exists()


def _sidecar_changed(log: SyncLog) -> Mapping[str, Any]:
    """Return the fields of the log line about the sidecar for which ``log`` was made."""
    return {
        "event": "sidecar_changed",
        "episode_id": log.episode_id,
        "path": log.path,
        "document": log.id,
    }
