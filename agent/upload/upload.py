"""One recording's way into the bucket: open a session, send the parts, verify, complete; go on with what was begun.

Each step is written into the document before the world is changed, so that a later claim can pick the thread up at
any point.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from agent.cloud.credentials import Credentials, SessionKeys, refuse_other_place
from agent.gate.gate import Gate
from agent.model.digests import same_etag
from agent.model.errors import AgentError, CloudError, RecordingError, SessionLostError, judge
from agent.model.ports import Clock, Gateway, History, ObjectStore, Target
from agent.model.values import (
    MAX_PARTS,
    AccessToken,
    DeviceProfile,
    Grant,
    Orphan,
    Part,
    Recovery,
    SentPart,
    StoredObject,
    SyncLog,
    Transfer,
    UploadSession,
    parts_of,
    utc_text,
)
from agent.upload.concurrency import PartConcurrency
from agent.upload.part_uploader import PartUploader, again
from agent.upload.source_file import SourceFile

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_REISSUE = "ReissueUploadCredentials"
_NO_LEASE = frozenset(
    {"UPLOAD_NOT_FOUND", "UPLOAD_NOT_OWNED", "UPLOAD_NOT_REFRESHABLE", "FAILED_PRECONDITION"}
)
_FORBIDDEN = frozenset(
    {"AccessDenied", "HTTP_403", "NotImplemented", "MethodNotAllowed"}
)  # may not list or look


@dataclass(slots=True)
class Job:
    """One claim of one document, with all that its upload has in hand. ``log`` follows the history."""

    log: SyncLog
    profile: DeviceProfile
    source: (
        SourceFile | AgentError
    )  # the open file, or why it can't be had: what is stored needs it no more
    transfer: Transfer
    probe: bool
    identity: Mapping[str, Any] = field(
        default_factory=dict
    )  # fields of the document that a new session fixes
    refreshes: int = 0
    windows: Sequence[Part] = field(default_factory=tuple)

    def close(self) -> None:
        """Let go of the file."""
        if isinstance(self.source, SourceFile):
            self.source.close()

    @property
    def file(self) -> SourceFile:
        """The open file; raises what keeps it away."""
        if isinstance(self.source, AgentError):
            raise self.source
        return self.source


class Upload:
    """Carries jobs. Holds no state between them: that stands in the history."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        credentials: Credentials,
        history: History,
        gate: Gate,
        clock: Clock,
        max_restarts: int,
        pace: PartConcurrency,
    ) -> None:
        """``max_restarts`` bounds those of one attempt, ``pace`` the parts in flight."""
        self._store = store
        self._credentials = credentials
        self._history = history
        self._gate = gate
        self._clock = clock
        self._max_restarts = max_restarts
        self._pace = pace

    def carry(self, job: Job) -> None:
        """Bring the recording into the bucket and report it; returns when the platform has accepted that.

        Raises whatever ``agent.model.errors`` knows; the document then holds all that a later claim needs.
        """
        known = self._recover(job) if job.log.logical_upload_id else None
        if known is not None and known.stage == "completed":
            if not same_etag(known.etag, job.log.etag):
                raise SessionLostError("the platform completed this session with another object")
            return
        grant = self._open(job) if known is None else self._resume(job, known)
        restart_from = self._deliver(job, grant, known)
        if restart_from is not None:
            self._deliver(job, self._open(job, restart_from), None)

    def abandon(
        self, log: SyncLog, profile: DeviceProfile | None, reason: str, *, restarting: bool = False
    ) -> None:
        """Give up a document's multipart and, unless it is ``restarting``, its session.

        What can't be given up now, perhaps because there is no ``profile``, is owed (table ``aborts``).
        """
        if not log.logical_upload_id:
            return
        debt = Orphan(
            0,
            log.asset_id,
            "" if restarting else log.logical_upload_id,
            log.upload_id,
            log.multipart_upload_id,
            log.object_key,
            reason,
            utc_text(self._clock.now()),
        )
        try:
            if profile is not None:
                self._pay(debt, profile)
                return
        except CloudError:
            pass
        except Exception:  # noqa: BLE001 - whatever it is, the document that is given up must reach its end
            _log.exception(
                "could not give up an upload; it is tried again later", extra={"event": "bug"}
            )
        self._history.owe(debt)

    def pay_debts(self, profiles: Mapping[str, DeviceProfile]) -> None:
        """Try again to give up what is owed, as long as a lease can be had for it. Raises CloudError."""
        for debt in self._history.debts():
            profile = profiles.get(debt.asset_id)
            try:
                if profile is not None:
                    self._pay(debt, profile)
            except CloudError as error:
                if error.code not in _NO_LEASE:
                    raise
            self._history.settle(
                debt.id
            )  # what nobody gives a lease for is left to the bucket's lifecycle rule

    def _pay(self, debt: Orphan, profile: DeviceProfile) -> None:
        """The multipart first: once its session is aborted no lease can be had for it."""
        if debt.upload_id:
            grant = self._ask(
                0, profile, _REISSUE, lambda g, t: g.reissue(profile, t, debt.upload_id)
            )
            with _Keys(self._credentials, profile, grant) as keys:
                target = self._store.at(grant.session, keys.current)
                for multipart in _begun(target, debt):
                    target.abort(multipart)
        if debt.logical_upload_id:
            self._ask(
                0,
                profile,
                "AbortUpload",
                lambda g, t: g.abort(profile, t, debt.logical_upload_id, debt.reason),
            )

    # -- sessions

    def _open(self, job: Job, restart_from: str = "") -> Grant:
        """A new session; its ids are durable before anything is sent. Never repeated blindly: each call makes one."""
        log, profile = job.log, job.profile
        _ = job.file  # without it there is nothing to open a session for
        if restart_from and log.restarts >= self._max_restarts * max(1, log.attempt_count):
            self.abandon(log, profile, "too many restarts")
            raise SessionLostError(
                f"it had to begin anew {log.restarts} times", code="too_many_restarts"
            )
        if restart_from and log.multipart_upload_id:
            self.abandon(log, profile, "restart", restarting=True)
        told = replace(log, **job.identity)
        grant = self._ask(
            log.id,
            profile,
            "CreateLogicalUpload",
            lambda g, t: g.create(profile, t, told, restart_from),
        )
        session = grant.session
        self._amend(
            job,
            **job.identity,
            **_session_fields(session),
            phase="opening",
            multipart_upload_id="",
            etag="",
            checksum="",
            part_count=0,
            restarts=log.restarts + bool(restart_from),
        )
        return grant

    def _recover(self, job: Job) -> Recovery:
        log, profile = job.log, job.profile
        return self._ask_again(
            log.id,
            profile,
            "GetUploadRecovery",
            lambda g, t: g.recover(profile, t, log.logical_upload_id),
        )

    def _resume(self, job: Job, known: Recovery) -> Grant:
        """Fresh keys for the session that the document has, or the new one that the platform asks for."""
        log, profile = job.log, job.profile
        if known.action == "restart":
            return self._open(job, known.upload_id)
        if known.action not in ("continue", "complete_only"):
            self.abandon(log, profile, known.reason or known.action)
            raise SessionLostError(
                f"the platform ended the session: {known.reason or known.action}"
            )
        grant = self._ask_again(
            log.id, profile, _REISSUE, lambda g, t: g.reissue(profile, t, known.upload_id)
        )
        durable = replace(
            grant.session,
            bucket=log.bucket,
            object_key=log.object_key,
            part_size_bytes=log.part_size_bytes,
        )
        refuse_other_place(durable, grant.session)
        if grant.session.upload_id != log.upload_id:
            self._amend(job, upload_id=grant.session.upload_id)
        return replace(grant, session=durable)

    # -- the object

    def _deliver(self, job: Job, grant: Grant, known: Recovery | None) -> str | None:
        """Store and report the object; returns the upload id to restart from when the platform has lost it."""
        with _Keys(self._credentials, job.profile, grant) as keys:
            target = self._store.at(grant.session, keys.current)
            self._gate.passed("Connect", job.log.id)
            job.transfer.at_stop(target.break_off)
            sender = PartUploader(
                target,
                keys,
                self._gate,
                self._pace,
                self._clock,
                who=job.log.id,
                transfer=job.transfer,
                probe=job.probe,
            )
            try:
                job.windows = self._windows(job)
                if job.log.phase in ("stored", "completing") or (
                    known and known.action == "complete_only"
                ):
                    stored = self._find(job, sender)
                    if stored is None:
                        return grant.session.upload_id
                else:
                    stored = self._send(job, sender)
                self._report(job, stored, known)
            finally:
                target.close()
                job.refreshes += keys.refreshes
        return None

    def _windows(self, job: Job) -> Sequence[Part]:
        size, part_size = job.log.file_size, job.log.part_size_bytes
        if size == 0:
            raise RecordingError("an empty file can't be stored", code="empty")
        if (count := -(-size // part_size)) > MAX_PARTS:
            raise RecordingError(
                f"{size} bytes in parts of {part_size} are {count} parts; {MAX_PARTS} are allowed",
                code="too_many_parts",
                hint="ask the platform's administrator for a larger part size",
            )
        return parts_of(size, part_size)

    def _find(self, job: Job, sender: PartUploader) -> StoredObject | None:
        """The object, if it lies in the bucket with this recording's bytes."""
        try:
            found = sender.repeat("HeadObject", sender.target.stat)
        except CloudError as error:
            if error.code not in _FORBIDDEN or not job.log.etag:
                raise
            # Where looking is forbidden, what was proven when the ETag was written down holds.
            return StoredObject(job.log.file_size, job.log.etag, job.log.checksum)
        if found is None or found.size != job.log.file_size:
            return None
        if job.log.etag and same_etag(found.etag, job.log.etag):
            return found
        return found if sender.target.holds(found, job.windows, job.file.descriptor) else None

    def _find_if_allowed(self, job: Job, sender: PartUploader) -> StoredObject | None:
        """The same; where looking is forbidden nothing is found, and sending again costs only time."""
        try:
            return self._find(job, sender)
        except CloudError as error:
            if error.code not in _FORBIDDEN:
                raise
            return None

    def _send(self, job: Job, sender: PartUploader) -> StoredObject:
        kept = self._kept(job, sender)
        if kept is None:
            found = self._find_if_allowed(job, sender)
            if found is not None:
                return found
            kept = []
        if not job.log.multipart_upload_id:
            self._begin(job, sender)
        numbers = {part.number for part in kept}
        missing = [part for part in job.windows if part.number not in numbers]
        job.transfer.kept = sum(part.size for part in kept)
        multipart = job.log.multipart_upload_id
        try:
            sent = sender.send(multipart, missing, job.file)
        except CloudError as error:
            if error.code == "NotImplemented":  # rclone replaces no part that reached it damaged
                self._drop(job, sender)
            raise
        parts = sorted([*kept, *sent], key=lambda part: part.number)
        self._check_file(job, sender, parts)
        return self._join(job, sender, parts)

    def _check_file(self, job: Job, sender: PartUploader, parts: Sequence[SentPart]) -> None:
        """The parts must be the file's as it is now. Its inode was touched: read it once more, to be sure."""
        job.file.check()
        if job.file.touched:
            for sent, window in zip(parts, job.windows, strict=True):
                if not sender.target.matches(sent, window, job.file.descriptor):
                    raise RecordingError(f"{job.log.path} has other bytes now", code="replaced")

    def _kept(self, job: Job, sender: PartUploader) -> list[SentPart] | None:
        """The parts of a multipart begun earlier that hold this file's bytes; None when that multipart is gone."""
        if not job.log.multipart_upload_id:
            return []
        target = sender.target
        try:
            listed = sender.repeat("ListParts", lambda: target.parts(job.log.multipart_upload_id))
        except CloudError as error:
            if error.code == "NoSuchUpload":
                self._amend(job, multipart_upload_id="")
                return None
            if error.code not in _FORBIDDEN:
                raise
            self._drop(job, sender)
            return []
        windows = {part.number: part for part in job.windows}
        return [
            sent
            for sent in listed
            if sent.number in windows
            and target.matches(sent, windows[sent.number], job.file.descriptor)
        ]

    def _drop(self, job: Job, sender: PartUploader) -> None:
        """Give up a multipart that is of no use; another one begins it all again."""
        sender.repeat(
            "AbortMultipartUpload", partial(sender.target.abort, job.log.multipart_upload_id)
        )
        self._amend(job, multipart_upload_id="")

    def _begin(self, job: Job, sender: PartUploader) -> None:
        """Begin the multipart; its id is durable before the first part."""
        multipart = again(self._clock, partial(self._begin_alone, sender))
        self._amend(job, multipart_upload_id=multipart, phase="uploading")

    def _begin_alone(self, sender: PartUploader) -> str:
        """A new multipart, and no other under this key: strays of lost answers are given up first."""
        target = sender.target
        try:
            for stray in sender.call("ListMultipartUploads", target.multiparts):
                sender.call("AbortMultipartUpload", partial(target.abort, stray))
        except CloudError as error:
            if error.code not in _FORBIDDEN:
                raise
        return sender.call("CreateMultipartUpload", target.begin)

    def _join(self, job: Job, sender: PartUploader, parts: Sequence[SentPart]) -> StoredObject:
        """Complete the multipart and look at the object; after a lost answer look before acting."""
        target, multipart = sender.target, job.log.multipart_upload_id
        try:
            joined = sender.call(
                "CompleteMultipartUpload", lambda: target.complete(multipart, parts)
            )
        except CloudError as error:
            found = (
                None
                if judge(error).kind in ("blocked", "lease_lost")
                else self._find_if_allowed(job, sender)
            )
            if found is None:
                raise
            return found
        try:
            return sender.repeat(
                "HeadObject", lambda: _verified(joined, target.stat(), job.log.file_size)
            )
        except CloudError as error:
            if error.code not in _FORBIDDEN:
                raise
            return joined  # where looking is forbidden, complete's own answer is the proof

    def _report(self, job: Job, stored: StoredObject, known: Recovery | None) -> None:
        profile = job.profile
        self._amend(
            job,
            phase="stored",
            etag=stored.etag,
            checksum=stored.checksum,
            part_count=len(job.windows),
            source_deleted=not isinstance(job.source, SourceFile) or job.source.deleted,
        )
        told = {}
        if (
            known is not None and known.action == "complete_only"
        ):  # then the platform's own words are wanted back
            told = {
                "part_count": known.part_count or len(job.windows),
                "etag": known.etag or stored.etag,
            }
        self._amend(job, phase="completing", **told)
        log = job.log
        self._ask_again(log.id, profile, "CompleteUpload", lambda g, t: g.complete(profile, t, log))

    # -- small things

    def _ask(
        self,
        who: int,
        profile: DeviceProfile,
        name: str,
        ask: Callable[[Gateway, AccessToken], Answer],
    ) -> Answer:
        answer = self._credentials.call(profile, ask)
        self._gate.passed("ExchangeCredential", who)
        self._gate.passed(name, who)
        return answer

    def _ask_again(
        self,
        who: int,
        profile: DeviceProfile,
        name: str,
        ask: Callable[[Gateway, AccessToken], Answer],
    ) -> Answer:
        """The same for what may be repeated."""
        return again(self._clock, lambda: self._ask(who, profile, name, ask))

    def _amend(self, job: Job, **changes: Any) -> None:
        job.log = self._history.amend(job.log.id, **changes)


class _Keys:
    """Looks after a session's keys while the block lasts."""

    def __init__(self, credentials: Credentials, profile: DeviceProfile, grant: Grant) -> None:
        self._credentials = credentials
        self._keys = credentials.keys(profile, grant)

    def __enter__(self) -> SessionKeys:
        return self._keys

    def __exit__(self, *_: object) -> None:
        self._credentials.release(self._keys)


def _begun(target: Target, debt: Orphan) -> Sequence[str]:
    """The multipart of ``debt``; where none was written down in time, whatever was begun under the key."""
    if debt.multipart_upload_id:
        return [debt.multipart_upload_id]
    try:
        return target.multiparts()
    except CloudError as error:
        if error.code not in _FORBIDDEN:
            raise
        return []


def _session_fields(session: UploadSession) -> Mapping[str, Any]:
    return {
        "logical_upload_id": session.logical_upload_id,
        "upload_id": session.upload_id,
        "bucket": session.bucket,
        "object_key": session.object_key,
        "part_size_bytes": session.part_size_bytes,
    }


def _verified(joined: StoredObject, found: StoredObject | None, size: int) -> StoredObject:
    """What HEAD shows, if it is what was joined. Some stores show another kind of ETag there: then size decides."""
    if found is None or found.size != size:
        told = "nothing" if found is None else f"{found.size} bytes"
        raise CloudError(
            "HeadObject", "checksum", f"the store completed {size} bytes but shows {told}"
        )
    if "-" in found.etag and "-" in joined.etag and not same_etag(found.etag, joined.etag):
        raise CloudError(
            "HeadObject", "checksum", f"the store completed {joined.etag} but shows {found.etag}"
        )
    return replace(
        found,
        checksum=found.checksum or joined.checksum,
        algorithm=found.algorithm or joined.algorithm,
    )
