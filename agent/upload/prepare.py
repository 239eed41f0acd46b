"""Prepares the upload of a document: finds the file, its asset id, its profile and its tags.

This is done at each claim, because files move and sidecars and profiles change between two of them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agent.cloud.identity import raw_tags
from agent.discovery.examine import Examiner, NotYet, is_compressor_gone
from agent.files.reading import reading
from agent.gate.gate import Gate
from agent.model.errors import (
    AgentError,
    CloudError,
    FileChangedError,
    RecordingError,
    WaitingError,
)
from agent.model.ports import Clock, History, Profiles
from agent.model.sync_log import IdentityChanges, SyncLog
from agent.model.transfer import Transfer
from agent.model.unforeseen import shortage
from agent.model.values import Damaged, DeviceProfile, Recording
from agent.upload.job import Job
from agent.upload.source_file import SourceFile
from agent.upload.upload import Upload

_log = logging.getLogger(__name__)

# How long a recording that a program has open for writing is put back each time.
_WRITER_WAIT_SECONDS = 30.0

# How much of what is wrong with a sidecar goes into the history and the manifest.
_FAULT_MAX_CHARACTERS = 500

# Returns the asset id of a recording. It takes the recording, the asset id that its document has,
# and all profiles by asset id. It raises WaitingError where the asset id is not known.
ResolveAsset = Callable[[Recording, str, Mapping[str, DeviceProfile]], str]


class Prepare:
    """Makes a :class:`Job` of a sync log document.

    Holds no state between two calls. May be used from any thread.
    """

    def __init__(
        self,
        *,
        history: History,
        gate: Gate,
        upload: Upload,
        examiner: Examiner,
        names: Callable[[str], Sequence[Path]],
        asset_id: ResolveAsset,
        profiles: Profiles,
        clock: Clock,
        unfinished_minutes: float,
        sidecar_required: bool,
        sidecar_needed: bool,
        agent_version: str,
    ) -> None:
        """Prepare uploads.

        Args:
            history: Where the documents are.
            gate: Told that the profiles could be read.
            upload: Gives up the session of a document whose asset id has changed.
            examiner: Says what lies at a path.
            names: Returns where the bytes of a fingerprint, given as text, lie now.
            asset_id: Returns the asset id of a recording.
            profiles: The device profiles.
            clock: Its wall time is used.
            unfinished_minutes: How long after its last change a recording is kept back for a
                program that has it open for writing.
            sidecar_required: Whether a recording without a sidecar is refused.
            sidecar_needed: Whether a recording waits until its sidecar can be used. Otherwise it is
                sent without a sidecar that is broken.
            agent_version: Written into the tags.
        """
        self._history = history
        self._gate = gate
        self._upload = upload
        self._examiner = examiner
        self._names = names
        self._asset_id = asset_id
        self._profiles = profiles
        self._clock = clock
        self._unfinished_seconds = unfinished_minutes * 60
        self._sidecar_required = sidecar_required
        self._sidecar_needed = sidecar_needed
        self._agent_version = agent_version

    def job(self, log: SyncLog, transfer: Transfer, *, probe: bool) -> Job:
        """Return what the upload of ``log`` needs. The caller closes the job.

        Args:
            log: The document.
            transfer: Counts the bytes of the upload, and stops it.
            probe: Whether the upload may pass a gate that the cloud closed.

        Raises:
            RecordingError: The recording can't be uploaded as it is.
            WaitingError: Something on this robot is missing.
            FileChangedError: A program writes to the file.
            CloudError: ``profile_file``, the profiles can't be read.
            OSError: The file can't be read.
        """
        profiles = self._profiles.load()
        self._gate.passed("DeviceProfiles", log.id)
        try:
            with reading(Path(log.path)):
                recording = self._locate(log)
        except AgentError as missing:
            profile = profiles.get(log.asset_id)
            if profile is None or log.session is None or not log.session.stored:
                raise
            # An object that is stored already needs no file.
            return Job(log, profile, missing, transfer, probe)
        try:
            log, profile, identity = self._identified(log, recording, profiles)
        except RecordingError as error:
            # This is the sidecar with which the recording failed. A change of it is noticed later.
            log = self._history.amend(log.id, sidecar_sha256=recording.sidecar_sha256)
            if self._sidecar_needed or not error.means("sidecar_unusable"):
                raise
            log, profile, identity = self._without_sidecar(log, recording, profiles, error)
        if log.is_revision:
            log = self._history.amend(log.id, **identity)
        return Job(log, profile, self._opened(recording), transfer, probe, identity)

    def _identified(
        self, log: SyncLog, recording: Recording, profiles: Mapping[str, DeviceProfile]
    ) -> tuple[SyncLog, DeviceProfile, IdentityChanges]:
        """Return the document, its profile and the fields that a new session fixes, if one is due.

        Raises RecordingError or WaitingError.
        """
        asset_id = self._asset_now(log, recording, profiles)
        if log.is_revision:
            # Only what is said of the object changes. Its bytes and their owner stay.
            identity = self._identity(log, recording, asset_id, profiles[asset_id])
            return log, profiles[asset_id], {**identity, "owner": log.owner}
        log = self._leave_other_asset(log, asset_id, profiles)
        log = self._note_other_owner(log, recording)
        profile = profiles[asset_id]
        if log.session is not None:
            return log, profile, {}
        return log, profile, self._identity(log, recording, asset_id, profile)

    def _without_sidecar(
        self,
        log: SyncLog,
        recording: Recording,
        profiles: Mapping[str, DeviceProfile],
        error: RecordingError,
    ) -> tuple[SyncLog, DeviceProfile, IdentityChanges]:
        """Return the same for a recording that is sent without its broken sidecar.

        The document keeps the digest of the sidecar, so that a mended one is noticed, and what is
        wrong with it. Raises RecordingError or WaitingError.
        """
        bare = replace(recording, sidecar=None)
        log, profile, identity = self._identified(log, bare, profiles)
        if identity:
            fault = error.message[:_FAULT_MAX_CHARACTERS]
            identity = {
                **identity,
                "sidecar_sha256": recording.sidecar_sha256,
                "sidecar_fault": fault,
            }
            _log.warning(
                "%s is sent without its sidecar: %s",
                log.path,
                fault,
                extra={"event": "sidecar_left_out", "episode_id": log.episode_id, "path": log.path},
            )
        return log, profile, identity

    def _opened(self, recording: Recording) -> SourceFile:
        """Open the recording.

        One that a program has open for writing is put back, but only for a limited time after its
        last change. Raises FileChangedError then.
        """
        with reading(recording.path):
            source = SourceFile(recording, follow_symlinks=self._examiner.follow_symlinks)
        age = self._clock.now() - recording.mtime_ns / 1e9
        # An age below 0 means that the clock was set. It says nothing about the last change.
        if 0 <= age < self._unfinished_seconds and source.is_open_for_writing:
            source.close()
            raise FileChangedError(
                f"a program has {recording.path} open for writing",
                wait_seconds=_WRITER_WAIT_SECONDS,
            )
        return source

    def profile_of(self, log: SyncLog) -> DeviceProfile | None:
        """Return the profile of the asset id that a document has, or None where there is none."""
        try:
            return self._profiles.load().get(log.asset_id)
        except CloudError:
            return None

    def _asset_now(
        self, log: SyncLog, recording: Recording, profiles: Mapping[str, DeviceProfile]
    ) -> str:
        """Return the asset id that the recording has now. Raises RecordingError or WaitingError."""
        try:
            return self._asset_id(recording, log.asset_id, profiles)
        except RecordingError as error:
            # A session fixes the asset id. A sidecar that becomes wrong later changes nothing.
            if log.session and log.asset_id in profiles:
                _log.warning("%s: %s", log.path, error.message, extra={"event": "sidecar_changed"})
                return log.asset_id
            raise

    def _locate(self, log: SyncLog) -> Recording:
        """Return the recording as it lies on the disk now, at whatever path.

        Raises:
            RecordingError: The recording is gone, or other bytes lie at its path.
            WaitingError: The folder of the recording can't be read.
            OSError: The file can't be read.
        """
        path = Path(log.path)
        problem: AgentError | None = None
        for candidate in self._places(log):
            try:
                found = self._look(candidate, log)
            except FileNotFoundError:
                continue
            except OSError as error:
                if shortage(error) or _is_readable(path.parent):
                    raise
                break
            except RecordingError as error:
                problem = problem or error
                continue
            if isinstance(found, Recording) and str(found.fingerprint) == log.fingerprint:
                return found
            if candidate == path:
                problem = _error_of_other_bytes(found)
        if problem is None and _is_readable(path.parent):
            raise RecordingError(f"{path} was deleted before it was uploaded", code="gone")
        raise problem or WaitingError(
            f"folder {path.parent} is not there", code="folder_missing", hint="mount the disk again"
        )

    def _look(self, path: Path, log: SyncLog) -> Recording | Damaged | NotYet:
        """Return what lies at ``path``. Its document was queued, so nothing is waited for.

        Only a compressor that has begun since then is waited for, unless a person has asked.
        """
        is_compressor_overdue = log.is_asked_for or is_compressor_gone(
            path, self._clock.now(), self._unfinished_seconds
        )
        return self._examiner.look_now(
            path, compressor_overdue=is_compressor_overdue, send_damaged=log.is_asked_for
        )

    def _places(self, log: SyncLog) -> Iterator[Path]:
        """Yield the paths at which the recording may lie."""
        yield Path(log.path)
        # This is asked only when it is needed, because it costs a walk over all known files.
        yield from self._names(log.fingerprint)

    def _leave_other_asset(
        self, log: SyncLog, asset_id: str, profiles: Mapping[str, DeviceProfile]
    ) -> SyncLog:
        """Give up the document's session where it belongs to another asset id than ``asset_id``.

        Returns the document as it is then.
        """
        if log.session is None or asset_id == log.asset_id:
            return log
        self._upload.abandon(log, profiles.get(log.asset_id), "the asset id has changed")
        return self._history.amend(log.id, session=None)

    def _note_other_owner(self, log: SyncLog, recording: Recording) -> SyncLog:
        """Forget the owner of a document where another user's file goes on with its session.

        The open session holds parts of the first owner's file, so no user owns all of the object.
        At some stores a part that was sent is recognised by its CRC-32 alone, which can be forged.
        Returns the document as it is then.
        """
        if log.session is None or log.owner in (None, recording.owner):
            return log
        return self._history.amend(log.id, owner=None)

    def _identity(
        self, log: SyncLog, recording: Recording, asset_id: str, profile: DeviceProfile
    ) -> IdentityChanges:
        """Return the fields of the document that a new session fixes, whatever the sidecar becomes.

        Raises RecordingError.
        """
        if recording.sidecar is None and self._sidecar_required:
            raise RecordingError(
                f"{recording.path} has no sidecar",
                code="sidecar_missing",
                hint="write it, or set watch.sidecar",
            )
        tags = raw_tags(
            recording,
            episode_id=log.episode_id,
            asset_id=asset_id,
            profile=profile,
            agent_version=self._agent_version,
        )
        if tags.left_out:
            _log.warning(
                "%s: tags left out: %s",
                log.path,
                ", ".join(tags.left_out),
                extra={"event": "tags_left_out", "episode_id": log.episode_id},
            )
        return {
            "asset_id": asset_id,
            "raw_tags": tags.tags,
            "left_out_tags": tags.left_out,
            "sidecar_sha256": recording.sidecar_sha256,
            "sidecar_fault": "",
            "owner": recording.owner,
        }


def _error_of_other_bytes(found: Recording | Damaged | NotYet) -> AgentError:
    """Return the error that says which other bytes than the document's lie at its path."""
    if isinstance(found, NotYet) and found.why == "compressing":
        return WaitingError(
            found.message, code="compressing", hint="nothing to do: it ends by itself"
        )
    return RecordingError(f"{found.path} has other bytes now", code="replaced")


def _is_readable(folder: Path) -> bool:
    """Return whether the folder can be read.

    It can't on a disk that was taken out, or on a network share that does not answer. Raises
    OSError where this robot lacks a resource, such as memory, to find out.
    """
    try:
        with os.scandir(folder):
            return True
    except OSError as error:
        if shortage(error):
            raise
        return False
