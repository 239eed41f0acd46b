"""Uploads one recording: open a session, send the parts, verify, complete.

Each step is written into the document before the world is changed. So a later claim can go on from
any point at which an earlier one ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.cloud.credentials import Credentials
from agent.gate.gate import Gate
from agent.model.digests import same_etag
from agent.model.errors import RecordingError, SessionLostError
from agent.model.ports import Clock, History, ObjectStore
from agent.model.printable import shell_word
from agent.model.sync_log import DocumentSession, SyncLog
from agent.model.transfer import StoredObject
from agent.model.values import DeviceProfile, Grant, Recovery
from agent.upload.concurrency import PartConcurrency
from agent.upload.job import Job, windows_of
from agent.upload.multipart import MultipartUpload
from agent.upload.orphans import OrphanAborter
from agent.upload.part_uploader import PartUploader
from agent.upload.platform_calls import PlatformCalls
from agent.upload.recover import SessionRecovery
from agent.upload.source_file import SourceFile
from agent.upload.verify import find_object


class Upload:
    """Carries out uploads, one :class:`Job` per call.

    Holds no state between two calls: all that a later claim needs stands in the history. May be
    used from any thread.
    """

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
        """Upload into ``store``.

        Args:
            store: Where the objects are stored.
            credentials: Gives tokens and leases.
            history: Where the documents are.
            gate: Asked before each part, and told of each success.
            clock: Waits between attempts.
            max_restarts: How many times one attempt of an upload may begin anew.
            pace: Says how many parts are sent at one time.
        """
        self._store = store
        self._history = history
        self._gate = gate
        self._clock = clock
        self._pace = pace
        self._calls = PlatformCalls(credentials, gate, clock)
        self._orphans = OrphanAborter(self._calls, store, history, clock)
        self._sessions = SessionRecovery(
            self._calls, self._orphans, history, max_restarts=max_restarts
        )

    def carry(self, job: Job) -> None:
        """Store the recording in the bucket and report it to the platform.

        Returns when the platform has accepted the report.

        Raises:
            AgentError: The upload can't go on now. Each kind of error that ``agent.model.errors``
                knows may come. The document then holds all that a later claim needs.
        """
        known = self._sessions.recover(job) if job.log.session else None
        if known is not None and known.stage == "completed":
            if not same_etag(known.etag, job.session.etag):
                raise SessionLostError("the platform completed this session with another object")
            return
        grant = self._sessions.open(job) if known is None else self._sessions.resume(job, known)
        restart_from = self._deliver(job, grant, known)
        if restart_from is not None:
            self._deliver(job, self._sessions.open(job, restart_from), None)

    def abandon(self, log: SyncLog, profile: DeviceProfile | None, reason: str) -> None:
        """Give up the multipart upload and the session of a document.

        See :meth:`OrphanAborter.abandon`.
        """
        self._orphans.abandon(log, profile, reason)

    def abort_orphans(self, profiles: Mapping[str, DeviceProfile]) -> None:
        """Try again to abort what was given up. Raises CloudError.

        See :meth:`OrphanAborter.abort_orphans`.
        """
        self._orphans.abort_orphans(profiles)

    def _deliver(self, job: Job, grant: Grant, known: Recovery | None) -> str | None:
        """Store and report the object with the lease ``grant``.

        Returns None when that is done. Where the platform holds the object for stored and the
        bucket does not have it, returns the upload id from which a new session restarts.
        """
        with self._calls.keys(job.profile, grant) as keys:
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
                job.windows = windows_of(job.log)
                if _is_stored(job.session, known):
                    stored = find_object(job, sender)
                    if stored is None and job.log.is_revision:
                        raise _object_missing(job.log)
                    if stored is None:
                        return grant.session.upload_id
                else:
                    stored = MultipartUpload(job, sender, self._history, self._clock).store()
                self._report(job, stored, known)
            finally:
                target.close()
                job.refreshes += keys.refreshes
        return None

    def _report(self, job: Job, stored: StoredObject, known: Recovery | None) -> None:
        """Tell the platform that the object is stored."""
        profile = job.profile
        # What is known of a revision's object stays as its upload has proven it.
        if not job.log.is_revision:
            job.amend(
                self._history,
                session=replace(
                    job.session,
                    phase="stored",
                    etag=stored.etag,
                    checksum=stored.checksum,
                    part_count=len(job.windows),
                ),
                source_deleted=not isinstance(job.source, SourceFile) or job.source.deleted,
            )
        session = replace(job.session, phase="completing")
        if known is not None and known.action == "complete_only":
            # The platform wants its own values back.
            session = replace(
                session,
                part_count=known.part_count or session.part_count,
                etag=known.etag or session.etag,
            )
        job.amend(self._history, session=session)
        log = job.log
        self._calls.repeat(
            log.id,
            profile,
            "CompleteUpload",
            lambda gateway, token: gateway.complete(profile, token, log),
        )


def _object_missing(log: SyncLog) -> RecordingError:
    """Return the error of a manifest whose object was deleted or replaced in the bucket."""
    return RecordingError(
        f"{log.object_key} is no longer in the bucket, so its manifest is not written anew",
        code="object_missing",
        hint=f"nothing to do, or: keystone-agent resync {shell_word(log.path)}",
    )


def _is_stored(session: DocumentSession, known: Recovery | None) -> bool:
    """Return whether the document or the platform says that the object is stored already."""
    return session.stored or (known is not None and known.action == "complete_only")
