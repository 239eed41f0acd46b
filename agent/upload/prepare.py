"""From a document to all that its upload needs: the file as it lies now, its asset id, profile and tags."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.cloud.identity import raw_tags
from agent.discovery.examine import Examiner, NotYet
from agent.gate.gate import Gate
from agent.model.errors import (
    WHOLE,
    AgentError,
    CloudError,
    FileChangedError,
    RecordingError,
    WaitingError,
)
from agent.model.ports import Clock, History, Profiles
from agent.model.unforeseen import shortage
from agent.model.values import NO_SESSION, Damaged, DeviceProfile, Recording, SyncLog, Transfer
from agent.upload.source_file import SourceFile
from agent.upload.upload import Job, Upload

_log = logging.getLogger(__name__)

# How long a recording that a program has open for writing is put back each time.
_WRITER_WAIT_SECONDS = 30.0

ResolveAsset = Callable[[Recording, str, Mapping[str, DeviceProfile]], str]
"""The asset id of a recording, given the one that its document has and all profiles; raises WaitingError."""


class Prepare:
    """Asked at each claim: between two of them files move, sidecars and profiles change."""

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
        agent_version: str,
    ) -> None:
        """``names`` tells where the bytes of a fingerprint lie now.

        ``unfinished_minutes``: how long after its last change a recording is kept back for a program that has it
        open for writing.
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
        self._agent_version = agent_version

    def job(self, log: SyncLog, transfer: Transfer, *, probe: bool) -> Job:
        """What the upload of ``log`` needs; whoever gets it closes it.

        Raises RecordingError, WaitingError, FileChangedError where a program writes to the file,
        CloudError("profile_file"), and OSError where the file can't be read.
        """
        profiles = self._profiles.load()
        self._gate.passed("DeviceProfiles", log.id)
        try:
            recording = self._locate(log)
        except AgentError as missing:
            profile = profiles.get(log.asset_id)
            if log.phase not in ("stored", "completing") or profile is None:
                raise
            return Job(
                log, profile, missing, transfer, probe
            )  # what is stored needs its file no more
        try:
            asset_id = self._asset_now(log, recording, profiles)
            log = self._leave_other_asset(log, asset_id, profiles)
            log = self._note_other_owner(log, recording)
            profile = profiles[asset_id]
            identity = (
                {} if log.logical_upload_id else self._identity(log, recording, asset_id, profile)
            )
        except RecordingError:
            self._history.amend(
                log.id, sidecar_sha256=recording.sidecar_sha256
            )  # by this one it failed
            raise
        return Job(log, profile, self._opened(recording), transfer, probe, identity)

    def _opened(self, recording: Recording) -> SourceFile:
        """Open the recording; one that a program may still write to is put back, but not for ever."""
        source = SourceFile(recording, follow_symlinks=self._examiner.follow_symlinks)
        age = self._clock.now() - recording.mtime_ns / 1e9
        # An age below 0 means that the clock was set: it says nothing about the last change.
        if 0 <= age < self._unfinished_seconds and source.is_open_for_writing:
            source.close()
            raise FileChangedError(
                f"a program has {recording.path} open for writing",
                wait_seconds=_WRITER_WAIT_SECONDS,
            )
        return source

    def profile_of(self, log: SyncLog) -> DeviceProfile | None:
        """The profile of the asset id that a document has; None where there is none."""
        try:
            return self._profiles.load().get(log.asset_id)
        except CloudError:
            return None

    def _asset_now(
        self, log: SyncLog, recording: Recording, profiles: Mapping[str, DeviceProfile]
    ) -> str:
        try:
            return self._asset_id(recording, log.asset_id, profiles)
        except RecordingError as error:
            if (
                log.logical_upload_id and log.asset_id in profiles
            ):  # a sidecar that changes later changes nothing
                _log.warning("%s: %s", log.path, error.message, extra={"event": "sidecar_changed"})
                return log.asset_id
            raise

    def _locate(self, log: SyncLog) -> Recording:
        """The recording as it lies on the disk now, under whatever name. Raises RecordingError or WaitingError."""
        path = Path(log.path)
        problem: AgentError | None = None
        for candidate in self._places(log):
            try:
                found = self._examiner.look(
                    candidate,
                    sidecar_overdue=True,
                    writer_overdue=True,
                    done_overdue=True,
                    end_overdue=True,
                )
            except FileNotFoundError:
                continue
            except OSError as error:
                if shortage(error, WHOLE) or _answers(path.parent):
                    raise
                break
            except RecordingError as error:
                problem = problem or error
                continue
            if isinstance(found, Recording) and str(found.fingerprint) == log.fingerprint:
                return found
            if candidate == path:
                problem = _other(found)
        if problem is None and _answers(path.parent):
            raise RecordingError(f"{path} was deleted before it was uploaded", code="gone")
        raise problem or WaitingError(
            f"folder {path.parent} is not there", code="folder_missing", hint="mount the disk again"
        )

    def _places(self, log: SyncLog) -> Iterator[Path]:
        yield Path(log.path)
        yield from self._names(log.fingerprint)  # costs a walk over all that is known

    def _leave_other_asset(
        self, log: SyncLog, asset_id: str, profiles: Mapping[str, DeviceProfile]
    ) -> SyncLog:
        """An open session belongs to one asset id: if that has changed since, it is given up."""
        if not log.logical_upload_id or asset_id == log.asset_id:
            return log
        self._upload.abandon(log, profiles.get(log.asset_id), "the asset id has changed")
        return self._history.amend(log.id, **NO_SESSION)

    def _note_other_owner(self, log: SyncLog, recording: Recording) -> SyncLog:
        """An open session holds parts of the owner's file. If another user's file goes on with it, nobody owns it all.

        A part that was sent is known again by its CRC-32 at some stores, which can be forged.
        """
        if not log.logical_upload_id or log.owner in (None, recording.owner):
            return log
        return self._history.amend(log.id, owner=None)

    def _identity(
        self, log: SyncLog, recording: Recording, asset_id: str, profile: DeviceProfile
    ) -> Mapping[str, Any]:
        """What a new session begins with and keeps, whatever becomes of the sidecar: the document's own fields."""
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
            "owner": recording.owner,
        }


def _other(found: Recording | Damaged | NotYet) -> AgentError:
    """What it means that other bytes than the document's lie at its path."""
    if isinstance(found, NotYet) and found.why == "compressing":
        return WaitingError(
            found.message, code="compressing", hint="nothing to do: it ends by itself"
        )
    return RecordingError(f"{found.path} has other bytes now", code="replaced")


def _answers(folder: Path) -> bool:
    """Whether the folder can be read: not on a disk that was taken out, nor on a share that hung up.

    Raises OSError where this robot lacks what it takes to look.
    """
    try:
        with os.scandir(folder):
            return True
    except OSError as error:
        if shortage(error, WHOLE):
            raise
        return False
