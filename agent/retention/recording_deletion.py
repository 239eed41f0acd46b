"""Deletes one uploaded recording by all its names, once every check allows it."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent.model.ports import Clock, History
from agent.model.sync_log import SyncLog
from agent.retention.confirm import Confirm
from agent.retention.deletion import Deletion, NotDeletableError, VerifiedFile
from agent.retention.uploaded_recordings import UploadedRecording
from agent.retention.verify import Finding, Verify, reason_of, remedy_of

_log = logging.getLogger(__name__)

# When a recording could not be deleted, it is tried again after this time.
_RETRY_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class DeletionResult:
    """What came of the deletion of a recording.

    ``freed`` are the bytes that the disk got back. ``is_gone`` says that no file of the recording
    is left, or that the recording is not to be deleted any more.
    """

    freed: int
    is_gone: bool


class RecordingDeletion:
    """Deletes recordings that are proven to be in the bucket at that moment, all bytes included.

    Used by the thread of the retention.
    """

    def __init__(
        self,
        *,
        history: History,
        confirm: Confirm,
        deletion: Deletion,
        verify: Verify,
        clock: Clock,
        names: Callable[[str], Sequence[Path]],
        busy: Callable[[str], bool],
        stopped: Callable[[], bool],
    ) -> None:
        """Join the parts.

        Args:
            history: Says whether a document is still the newest of its recording. It is only read.
            confirm: Asks the cloud whether the object is stored.
            deletion: Deletes single files.
            verify: Compares files with the bytes that were uploaded.
            clock: Its monotonic side says when to try again.
            names: Returns the paths at which the bytes of a fingerprint are now.
            busy: Returns whether a fingerprint is in flight.
            stopped: Returns whether nothing more may be deleted.
        """
        self._history = history
        self._confirm = confirm
        self._deletion = deletion
        self._verify = verify
        self._clock = clock
        self._paths_of = names
        self._is_in_flight = busy
        self._stopped = stopped
        # The folders that were logged as not writable.
        self._logged_folders: set[Path] = set()

    def delete(
        self, id_: int, recording: UploadedRecording, reason: str, device: int | None = None
    ) -> DeletionResult:
        """Delete a recording by all its names, on ``device`` alone where one is given.

        ``reason`` is logged. What can't be deleted now is tried again after a while.
        """
        recording.not_before = self._clock.monotonic() + _RETRY_SECONDS
        log = self._newest(id_)
        everywhere = self._paths_of(log.fingerprint) if log else ()
        self._verify.keep_names(id_, everywhere)
        # Without such a document the recording was asked for again. Without a path it is gone.
        if log is None or not everywhere:
            return DeletionResult(0, is_gone=True)
        if self._is_in_flight(log.fingerprint):
            return DeletionResult(0, is_gone=False)
        names = everywhere if device is None else _freeing(everywhere, device)
        names = self._deletable(names, log, recording)
        # The cloud is asked only when a file can be deleted.
        if not names:
            return DeletionResult(0, is_gone=False)
        wait = self._confirm.ask(log)
        if wait is not None:
            recording.not_before = self._clock.monotonic() + wait
            return DeletionResult(0, is_gone=False)
        freed = [self._delete_file(path, log, recording, reason) for path in names]
        is_gone = len(names) == len(everywhere) and None not in freed
        return DeletionResult(sum(size for size in freed if size), is_gone)

    def _newest(self, id_: int) -> SyncLog | None:
        """Return the document if it still is the newest of its recording, else None."""
        # A document that has expired raises KeyError.
        with suppress(KeyError):
            log = self._history.get(id_)
            newest = self._history.newest(log.fingerprint)
            if newest is not None and newest.id == id_ and newest.synced:
                return log
        return None

    def _deletable(
        self, names: Sequence[Path], log: SyncLog, recording: UploadedRecording
    ) -> list[Path]:
        """Return those of the recording's names that can be deleted now."""
        writable = [path for path in names if self._is_writable(path.parent)]
        return [path for path in writable if self._may_be_deleted(path, log, recording)]

    def _may_be_deleted(self, path: Path, log: SyncLog, recording: UploadedRecording) -> bool:
        """Return whether nothing speaks against deleting the file, and all its bytes were uploaded.

        The file is read here, before the cloud is asked: reading may take minutes, and the answer
        of the cloud must be fresh when the file is deleted. What was found is remembered.
        """
        try:
            with self._deletion.verified_file(path, log.fingerprint, log.mtime) as file:
                return self._is_uploaded(file, log, recording)
        except FileNotFoundError:
            return True
        except (NotDeletableError, OSError) as error:
            self._log_refusal(path, log, recording, error)
        return False

    def _delete_file(
        self, path: Path, log: SyncLog, recording: UploadedRecording, reason: str
    ) -> int | None:
        """Delete one file; return the bytes freed, and None when the file stays."""
        try:
            with self._deletion.verified_file(path, log.fingerprint, log.mtime) as file:
                if self._is_uploaded(file, log, recording) and self._unlink(file, log):
                    self._finish(file, log, reason)
                    return file.freed
        except FileNotFoundError:
            return 0
        except (NotDeletableError, OSError) as error:
            self._log_refusal(path, log, recording, error)
        return None

    def _is_uploaded(self, file: VerifiedFile, log: SyncLog, recording: UploadedRecording) -> bool:
        """Return whether all bytes of the file are those that were uploaded."""
        finding = self._verify.compare(file, log, self._stopped)
        if finding is not None and finding != "same":
            _log_finding(file.path, log, recording, finding)
        return finding == "same"

    def _unlink(self, file: VerifiedFile, log: SyncLog) -> bool:
        """Delete the file, unless the recording was asked for again; return whether it is gone."""
        # Within the transaction no operator can ask for the recording.
        with self._history.transaction():
            if self._stopped() or self._newest(log.id) is None:
                return False
            file.unlink()
        return True

    def _finish(self, file: VerifiedFile, log: SyncLog, reason: str) -> None:
        """Log the deletion, and delete what belonged to the recording."""
        fields = {"path": str(file.path), "episode_id": log.episode_id, "document": log.id}
        _log.info(
            "deleted %s (%d bytes): it is stored as %s, and %s",
            file.path,
            log.file_size,
            log.object_key,
            reason,
            extra={
                "event": "deleted",
                "size": log.file_size,
                "reason": reason,
                "object_key": log.object_key,
                **fields,
            },
        )
        self._logged_folders.discard(file.path.parent)
        try:
            self._deletion.delete_companions(file.path)
        except (NotDeletableError, OSError) as error:
            _log.warning(
                "files that belonged to %s could not be deleted: %s",
                file.path,
                error,
                extra={"event": "leftovers", **fields},
            )

    def _is_writable(self, folder: Path) -> bool:
        if os.access(folder, os.W_OK | os.X_OK):
            return True
        self._log_folder(folder, "the agent may not write there")
        return False

    def _log_refusal(
        self, path: Path, log: SyncLog, recording: UploadedRecording, error: Exception
    ) -> None:
        """Log why a file stays: of its own, or because its folder can't be used."""
        if isinstance(error, OSError):
            self._log_folder(path.parent, error.strerror or str(error))
        else:
            _log_kept(path, log, recording, str(error))

    def _log_folder(self, folder: Path, why: str) -> None:
        """Log a folder once, until something could be deleted there."""
        if folder not in self._logged_folders:
            self._logged_folders.add(folder)
            _log.warning(
                "uploaded recordings in %s can't be deleted: %s",
                folder,
                why,
                extra={"event": "undeletable", "path": str(folder)},
            )


def _log_kept(path: Path, log: SyncLog, recording: UploadedRecording, why: str) -> None:
    """Log why a file stays, once as long as the reason is the same."""
    if recording.logged_reason != why:
        recording.logged_reason = why
        _log.info(
            "%s is not deleted: %s",
            path,
            why,
            extra={"event": "not_deleted", "path": str(path), "document": log.id},
        )


def _log_finding(path: Path, log: SyncLog, recording: UploadedRecording, finding: Finding) -> None:
    """Log a finding that keeps a file, once for each document and finding."""
    if finding in recording.logged_findings:
        return
    recording.logged_findings |= {finding}
    # A file that was changed may be a loss that no operator has noticed. Other findings are
    # properties of the store.
    level = logging.WARNING if finding in ("differs", "unclear") else logging.INFO
    _log.log(
        level,
        "%s is not deleted: %s (%s)",
        path,
        reason_of(finding),
        remedy_of(finding, path),
        extra={
            "event": "not_deleted",
            "path": str(path),
            "document": log.id,
            "reason": finding,
        },
    )


def _freeing(names: Sequence[Path], device: int) -> Sequence[Path]:
    """Return the names on ``device`` whose deletion frees bytes.

    The bytes of a file that has another name elsewhere would stay.
    """
    states = {}
    for path in names:
        with suppress(OSError):
            state = path.lstat()
            if state.st_dev == device:
                states[path] = state
    counts = Counter(state.st_ino for state in states.values())
    return [path for path, state in states.items() if state.st_nlink <= counts[state.st_ino]]
