"""Opens an upload session on the platform, or recovers the one that a document has."""

from __future__ import annotations

from dataclasses import replace

from agent.cloud.credentials import refuse_other_place
from agent.model.errors import SessionLostError
from agent.model.ports import History
from agent.model.sync_log import DocumentSession
from agent.model.values import Grant, Recovery, UploadSession
from agent.upload.job import Job
from agent.upload.orphans import OrphanAborter
from agent.upload.platform_calls import PlatformCalls


class SessionRecovery:
    """Gets the permission to store one recording: a new upload session, or keys for the old one.

    Holds no state: the ids of a session stand in the document. May be used from any thread.
    """

    def __init__(
        self,
        calls: PlatformCalls,
        orphans: OrphanAborter,
        history: History,
        *,
        max_restarts: int,
    ) -> None:
        """Open and recover sessions.

        Args:
            calls: Calls the platform.
            orphans: Gives up what a session leaves behind.
            history: Where the document is changed.
            max_restarts: How many times one attempt of an upload may begin anew.
        """
        self._calls = calls
        self._orphans = orphans
        self._history = history
        self._max_restarts = max_restarts

    def open(self, job: Job, restart_from: str = "") -> Grant:
        """Open a new session and return its lease. Its ids are durable before anything is sent.

        The call is never repeated after an error, because each one makes a session.

        Args:
            job: The recording and its document.
            restart_from: The upload id of the session that the new one replaces.

        Raises:
            SessionLostError: ``too_many_restarts``.
            CloudError: The platform failed.
            AgentError: The file can't be opened.
        """
        log, profile = job.log, job.profile
        # Without the file there is nothing to open a session for. This line raises then.
        _ = job.file
        if restart_from and log.restarts >= self._max_restarts * max(1, log.attempt_count):
            self._orphans.abandon(log, profile, "too many restarts")
            raise SessionLostError(
                f"it had to begin anew {log.restarts} times", code="too_many_restarts"
            )
        if restart_from and log.session and log.session.multipart_upload_id:
            self._orphans.abandon(log, profile, "restart", restarting=True)
        identified = replace(log, **job.identity)
        grant = self._calls.once(
            log.id,
            profile,
            "CreateLogicalUpload",
            lambda gateway, token: gateway.create(profile, token, identified, restart_from),
        )
        job.amend(
            self._history,
            **job.identity,
            session=_opened(grant.session),
            restarts=log.restarts + bool(restart_from),
        )
        return grant

    def recover(self, job: Job) -> Recovery:
        """Return what the platform knows of the session that the document has.

        Raises:
            CloudError: The platform failed.
        """
        profile, logical_upload_id = job.profile, job.session.logical_upload_id
        return self._calls.repeat(
            job.log.id,
            profile,
            "GetUploadRecovery",
            lambda gateway, token: gateway.recover(profile, token, logical_upload_id),
        )

    def resume(self, job: Job, known: Recovery) -> Grant:
        """Return a fresh lease for the document's session, or for the new one that replaces it.

        Args:
            job: The recording and its document.
            known: What :meth:`recover` has returned. Its action says what to do.

        Raises:
            SessionLostError: The platform has ended the session.
            CloudError: The platform failed.
        """
        log, profile = job.log, job.profile
        if known.action == "restart":
            return self.open(job, known.upload_id)
        if known.action not in ("continue", "complete_only"):
            reason = known.reason or known.action
            self._orphans.abandon(log, profile, reason)
            raise SessionLostError(f"the platform ended the session: {reason}")
        grant = self._calls.repeat(
            log.id,
            profile,
            "ReissueUploadCredentials",
            lambda gateway, token: gateway.reissue(profile, token, known.upload_id),
        )
        session, upload_id = job.session, grant.session.upload_id
        durable = replace(
            grant.session,
            bucket=session.bucket,
            object_key=session.object_key,
            part_size_bytes=session.part_size_bytes,
        )
        refuse_other_place(durable, grant.session)
        if upload_id != session.upload_id:
            job.amend(self._history, session=replace(session, upload_id=upload_id))
        return replace(grant, session=durable)


def _opened(session: UploadSession) -> DocumentSession:
    """Return what a document holds of a session in which nothing was sent yet."""
    return DocumentSession(
        phase="opening",
        logical_upload_id=session.logical_upload_id,
        upload_id=session.upload_id,
        bucket=session.bucket,
        object_key=session.object_key,
        part_size_bytes=session.part_size_bytes,
    )
