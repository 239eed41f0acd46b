"""A platform in memory. Tests can let its calls fail."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent.model.digests import same_etag
from agent.model.errors import CloudError
from agent.model.sync_log import SyncLog
from agent.model.values import (
    AccessToken,
    CredentialLease,
    DeviceProfile,
    Enrolled,
    Grant,
    Recovery,
    Stage,
    UploadSession,
)
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.store import FakeStore, StoreFault

GATEWAY_CALLS = (
    "ExchangeCredential",
    "CreateLogicalUpload",
    "ReissueUploadCredentials",
    "GetUploadRecovery",
    "AbortUpload",
    "CompleteUpload",
)
PROFILE = DeviceProfile("robot-1", "api-key-1", {"site": "here"}, "http://auth", "http://gateway")


@dataclass
class FakeSession:
    """An upload session as the platform stores it."""

    session: UploadSession
    asset_id: str
    opened_for: SyncLog
    stage: Stage = "active"
    reason: str = ""
    reported: SyncLog | None = None
    leases: list[CredentialLease] = field(default_factory=list)


class FakeGateway:
    """Implements ``ports.Gateway`` in memory.

    Tests may read and change all public attributes.

    Attributes:
        sessions: The upload sessions by logical upload id.
        reissued_part_size: When it is not 0, a reissued lease names it in place of the session's
            own part size.
        advice: Recovery answers by logical upload id. They replace the true answers.
        refused: Error codes by API key. A key in it is refused with its code.
        before: Is called with the name of each call before the call.
    """

    def __init__(self, store: FakeStore, clock: FakeClock, *profiles: DeviceProfile) -> None:
        """Recovery reads ``store``. ``profiles`` are the enrolled devices."""
        self.store = store
        self.clock = clock
        self.profiles = {profile.api_key: profile for profile in profiles or (PROFILE,)}
        self.sessions: dict[str, FakeSession] = {}
        self.part_size = 1024
        self.reissued_part_size = 0
        self.lease_seconds = 3600.0
        self.token_seconds = 3600.0
        self.advice: dict[str, Recovery] = {}
        self.refused: dict[str, str] = {}
        self.calls: list[str] = []
        self.before: Callable[[str], None] = lambda _call: None
        self._tokens: dict[str, DeviceProfile] = {}
        self._faults: dict[str, list[StoreFault]] = {}
        self._ids = itertools.count(1)
        self._lock = threading.RLock()

    def fail(
        self, call: str, *, error: Exception | None = None, times: int = 1, lost: bool = False
    ) -> None:
        """Let the next ``times`` calls of that name raise ``error``.

        With ``lost`` they raise it only after they have taken effect.
        """
        fault = StoreFault(error or CloudError(call, "UNAVAILABLE"), times, lost)
        self._faults.setdefault(call, []).append(fault)

    def mend(self) -> None:
        """Remove all faults."""
        self._faults.clear()

    def expire_tokens(self) -> None:
        """Make all access tokens expire."""
        self._tokens.clear()

    def expire_leases(self) -> None:
        """Make all leases expire, so that the store refuses them."""
        for session in self.sessions.values():
            for lease in session.leases:
                self.store.expire(lease.access_key_id)

    def exchange(self, profile: DeviceProfile) -> AccessToken:
        """Return an access token for the API key."""
        done = self._enter("ExchangeCredential")
        key = profile.api_key.strip()
        if key not in self.profiles or key in self.refused:
            raise CloudError("ExchangeCredential", self.refused.get(key, "INVALID_CREDENTIAL"))
        value = f"token-{next(self._ids)}"
        self._tokens[value] = self.profiles[key]
        done()
        return AccessToken(value, self.clock.now() + self.token_seconds)

    def create(
        self, profile: DeviceProfile, token: AccessToken, log: SyncLog, restart_from: str = ""
    ) -> Grant:
        """Open an upload session."""
        call = "CreateLogicalUpload"
        done = self._enter(call)
        asset_id = self._device(call, profile, token)
        if not log.episode_id:
            raise CloudError(call, "INVALID_ARGUMENT")
        if restart_from:
            old = self._by_upload(call, restart_from, asset_id)
            if old.stage not in {"active", "completing"}:
                raise CloudError(call, "FAILED_PRECONDITION")
            old.stage, old.reason = "terminal", "restarted"
        number = next(self._ids)
        session = UploadSession(
            f"logical-{number}",
            f"upload-{number}",
            "recordings",
            "memory",
            f"{asset_id}/{number}",
            "",
            self.part_size,
        )
        kept = FakeSession(session, asset_id, log)
        self.sessions[session.logical_upload_id] = kept
        grant = self._grant(kept, session.part_size_bytes)
        done()
        return grant

    def reissue(self, profile: DeviceProfile, token: AccessToken, upload_id: str) -> Grant:
        """Return a new lease for a session."""
        call = "ReissueUploadCredentials"
        done = self._enter(call)
        kept = self._by_upload(call, upload_id, self._device(call, profile, token))
        if kept.stage not in {"active", "completing"}:
            raise CloudError(call, "UPLOAD_NOT_REFRESHABLE")
        grant = self._grant(kept, self.reissued_part_size or kept.session.part_size_bytes)
        done()
        return grant

    def recover(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str
    ) -> Recovery:
        """Return the progress of a session, from its own state and the content of the store."""
        call = "GetUploadRecovery"
        done = self._enter(call)
        kept = self._by_logical(call, logical_upload_id, self._device(call, profile, token))
        done()
        if logical_upload_id in self.advice:
            return self.advice[logical_upload_id]
        known = Recovery(
            logical_upload_id, kept.session.upload_id, kept.stage, "unspecified", 0, "", kept.reason
        )
        stored = self.store.objects.get((kept.session.bucket, kept.session.object_key))
        if kept.reported is not None:
            reported = kept.reported.require_session()
            return replace(known, part_count=reported.part_count, etag=reported.etag)
        if kept.stage == "terminal":
            return replace(known, action="abort")
        if stored is not None:
            parts = -(-stored[1].size // kept.session.part_size_bytes)
            return replace(known, action="complete_only", part_count=parts, etag=stored[1].etag)
        return replace(known, action="continue" if kept.stage == "active" else "restart")

    def abort(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str, reason: str
    ) -> None:
        """End a session."""
        call = "AbortUpload"
        done = self._enter(call)
        kept = self._by_logical(call, logical_upload_id, self._device(call, profile, token))
        if kept.stage == "completed":
            raise CloudError(call, "FAILED_PRECONDITION")
        if kept.stage != "terminal":
            kept.stage, kept.reason = "terminal", reason
        done()

    def complete(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> None:
        """Complete a session if the store holds what the device reports."""
        call = "CompleteUpload"
        done = self._enter(call)
        kept = self._by_upload(
            call, log.require_session().upload_id, self._device(call, profile, token)
        )
        if kept.reported is None:
            self._check(call, kept, log)
            kept.stage, kept.reported = "completed", log
        elif _receipt(kept.reported) != _receipt(log):
            raise CloudError(call, "FAILED_PRECONDITION")
        done()

    def stored(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> bool:
        """Return whether the upload was completed with this ETag."""
        if log.session is None:
            return False
        try:
            known = self.recover(profile, token, log.session.logical_upload_id)
        except CloudError as error:
            if error.code != "UPLOAD_NOT_FOUND":
                raise
            return False
        return known.stage == "completed" and same_etag(known.etag, log.session.etag)

    def enrol(self, endpoint: str, device_id: str, *, rotate: bool) -> Enrolled:
        """Refuse every device, because all devices of the tests have profiles."""
        del endpoint, device_id, rotate
        raise CloudError("InitDevice", "PERMISSION_DENIED")

    def rest(self) -> None:
        """Do nothing, because there are no connections."""

    def close(self) -> None:
        """Do nothing, because there are no connections."""

    def _check(self, call: str, kept: FakeSession, log: SyncLog) -> None:
        session = log.require_session()
        if session.part_count <= 0 or log.file_size <= 0 or not session.etag.startswith('"'):
            raise CloudError(call, "INVALID_ARGUMENT")
        _, stored = self.store.objects.get(
            (kept.session.bucket, kept.session.object_key), (b"", None)
        )
        if (
            kept.stage == "terminal"
            or stored is None
            or stored.size != log.file_size
            or not same_etag(stored.etag, session.etag)
            or session.part_size_bytes != kept.session.part_size_bytes
        ):
            raise CloudError(call, "FAILED_PRECONDITION")

    def _enter(self, call: str) -> Callable[[], None]:
        self.before(call)
        with self._lock:
            self.calls.append(call)
            fault = next((fault for fault in self._faults.get(call, []) if fault.times > 0), None)
            if fault is None:
                return lambda: None
            fault.times -= 1
            if fault.lost:
                return lambda: _raise(fault.error)
        raise fault.error

    def _device(self, call: str, profile: DeviceProfile, token: AccessToken) -> str:
        known = self._tokens.get(token.value)
        if known is None or self.clock.now() >= token.expires_at:
            raise CloudError(call, "UNAUTHENTICATED")
        # The token alone identifies the device.
        del profile
        return known.asset_id

    def _by_logical(self, call: str, logical_upload_id: str, asset_id: str) -> FakeSession:
        kept = self.sessions.get(logical_upload_id)
        if kept is None:
            raise CloudError(call, "UPLOAD_NOT_FOUND")
        if kept.asset_id != asset_id:
            raise CloudError(call, "UPLOAD_NOT_OWNED")
        return kept

    def _by_upload(self, call: str, upload_id: str, asset_id: str) -> FakeSession:
        found = [key for key, kept in self.sessions.items() if kept.session.upload_id == upload_id]
        return self._by_logical(call, found[0] if found else "", asset_id)

    def _grant(self, kept: FakeSession, part_size: int) -> Grant:
        number = next(self._ids)
        lease = CredentialLease(
            f"access-{number}",
            f"secret-{number}",
            f"session-{number}",
            self.clock.now() + self.lease_seconds,
        )
        kept.leases.append(lease)
        return Grant(replace(kept.session, part_size_bytes=part_size), lease)


def _receipt(log: SyncLog) -> tuple[object, ...]:
    """Return what a device reports to the platform about a stored object."""
    session = log.require_session()
    return (
        session.upload_id,
        log.file_size,
        log.raw_tags,
        session.part_count,
        session.etag,
        session.part_size_bytes,
    )


def _raise(error: Exception) -> None:
    raise error
