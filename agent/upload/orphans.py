"""Gives up multipart uploads and upload sessions, now or later.

An orphan is a multipart upload that the agent has given up and must still abort: as long as it
exists its parts take space in the bucket. What can't be aborted now is written down in the history
(table ``aborts``) and tried again later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from agent.model.errors import CloudError
from agent.model.ports import Clock, History, ObjectStore, Target
from agent.model.sync_log import Orphan, SyncLog
from agent.model.values import DeviceProfile, utc_text
from agent.upload.platform_calls import PlatformCalls

_log = logging.getLogger(__name__)


class OrphanAborter:
    """Aborts multipart uploads that were given up, and the sessions that they belong to.

    Holds no state: all that must still be aborted stands in the history. May be used from any
    thread.
    """

    def __init__(
        self, calls: PlatformCalls, store: ObjectStore, history: History, clock: Clock
    ) -> None:
        """Abort in ``store`` and on the platform; remember in ``history`` what failed."""
        self._calls = calls
        self._store = store
        self._history = history
        self._clock = clock

    def abandon(
        self, log: SyncLog, profile: DeviceProfile | None, reason: str, *, restarting: bool = False
    ) -> None:
        """Give up the multipart upload of a document and, unless ``restarting``, its session.

        What can't be aborted now is written down in the history. Errors are not raised, because the
        document that is given up must reach its end.

        Args:
            log: The document.
            profile: The profile of the document's asset; None where there is none.
            reason: Why the session is given up, for the platform.
            restarting: Whether the platform keeps the session for another attempt.
        """
        session = log.session
        if session is None:
            return
        orphan = Orphan(
            0,
            log.asset_id,
            "" if restarting else session.logical_upload_id,
            session.upload_id,
            session.multipart_upload_id,
            session.object_key,
            reason,
            utc_text(self._clock.now()),
        )
        try:
            if profile is not None:
                self._abort(orphan, profile)
                return
        except CloudError:
            # The orphan is written down below and tried again later.
            pass
        except Exception:  # noqa: BLE001 - the document that is given up must reach its end
            _log.exception(
                "could not give up an upload; it is tried again later", extra={"event": "bug"}
            )
        self._history.add_orphan(orphan)

    def abort_orphans(self, profiles: Mapping[str, DeviceProfile]) -> None:
        """Try again to abort the orphans in the history.

        An orphan for which no lease can be had any more is forgotten. The lifecycle rule of the
        bucket removes its parts. An orphan waits while an open document has its session: an agent
        that was killed right after it gave the session up goes on with it.

        Args:
            profiles: The device profiles by asset id.

        Raises:
            CloudError: An orphan could not be aborted now. It stays in the history.
        """
        orphans = self._history.orphans()
        if not orphans:
            return
        in_use = {log.session.logical_upload_id for log in self._history.open() if log.session}
        for orphan in orphans:
            if orphan.logical_upload_id in in_use:
                continue
            profile = profiles.get(orphan.asset_id)
            try:
                if profile is not None:
                    self._abort(orphan, profile)
            except CloudError as error:
                if not error.means("session_over"):
                    raise
            self._history.remove_orphan(orphan.id)

    def _abort(self, orphan: Orphan, profile: DeviceProfile) -> None:
        """Abort the multipart upload, then the session.

        The order matters: once the session is aborted, no lease can be had for the multipart
        upload. Raises CloudError.
        """
        if orphan.upload_id:
            grant = self._calls.once(
                0,
                profile,
                "ReissueUploadCredentials",
                lambda gateway, token: gateway.reissue(profile, token, orphan.upload_id),
            )
            with self._calls.keys(profile, grant) as keys:
                target = self._store.at(grant.session, keys.current)
                for multipart in _multiparts_of(target, orphan):
                    target.abort(multipart)
        if orphan.logical_upload_id:
            self._calls.once(
                0,
                profile,
                "AbortUpload",
                lambda gateway, token: gateway.abort(
                    profile, token, orphan.logical_upload_id, orphan.reason
                ),
            )


def _multiparts_of(target: Target, orphan: Orphan) -> Sequence[str]:
    """Return the ids of the multipart uploads to abort.

    Where no id was written down in time, these are all that were begun under the object's key.
    """
    if orphan.multipart_upload_id:
        return [orphan.multipart_upload_id]
    try:
        return target.multiparts()
    except CloudError as error:
        if not error.means("reading_refused"):
            raise
        return []
