"""The rules of the embedded platform: enrolment, tokens, upload sessions and their leases.

This module takes and returns the protocol's messages. It does not depend on gRPC, but its errors
name gRPC status codes. A session is ACTIVE until its device reports that the upload is complete.
The advice for recovery follows from the session's status and from what the store really holds.
"""

from __future__ import annotations

import math
import re
import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agent.devcloud.bucket import StoreAwayError, Stored
from agent.devcloud.ledger import Completion, Device, IssuedLease, IssuedToken, Ledger, Session
from agent.devcloud.platform_errors import AUTH_PREFIX, PlatformError, refusal
from agent.devcloud.raw_tags import check_tags
from agent.devcloud.servers import REGION
from agent.pb import auth_pb2 as auth
from agent.pb import data_gateway_pb2 as gateway

# How long an upload session can be used.
_SESSION_SECONDS = 7 * 86_400


@dataclass(slots=True)
class PlatformTerms:
    """What a test or the demo may choose. The values may be changed while the platform runs."""

    lease_seconds: float = 3600
    token_seconds: float = 3600
    part_size_bytes: int = 8 * 1024 * 1024

    # With a value other than 0, a reissued lease names this part size instead of the session's own.
    # A client must cope with such an answer.
    reissued_part_size_bytes: int = 0


class Platform:
    """The platform's services, with one method for each RPC.

    Every method raises PlatformError when the platform refuses the request. Safe for several
    threads: all state is in the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        terms: PlatformTerms,
        *,
        bucket: str,
        endpoint: Callable[[], str],
        head: Callable[[str], Stored | None],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Use the state in ``ledger``.

        Args:
            ledger: The platform's database.
            terms: How long tokens and leases are valid, and the part size.
            bucket: The bucket for all objects.
            endpoint: Returns the store's address that devices get.
            head: Returns what the store holds under a key, or None.
            now: Returns the wall clock in seconds since 1970.
        """
        self.terms = terms
        self._ledger = ledger
        self._bucket = bucket
        self._endpoint = endpoint
        self._head = head
        self._now = now

    # Devices

    def enrol(self, device_id: str, tags: Mapping[str, str]) -> Device:
        """Give a device a new key. It replaces any key that the device had."""
        device = Device(device_id, secrets.token_urlsafe(24), tags)
        self._ledger.put(device)
        return device

    def init_device(self, request: gateway.InitDeviceRequest) -> gateway.InitDeviceResponse:
        """InitDevice: give a key to a device that has none."""
        device_id = _device_id(request.device_id)
        with self._ledger.exclusive():
            if self._ledger.get(Device, device_id):
                raise PlatformError(
                    "ALREADY_EXISTS",
                    "DATA_GATEWAY_DEVICE_ALREADY_INITIALIZED",
                    f"{device_id} already has a key",
                )
            return _enrolled(
                self.enrol(
                    device_id, {"device": device_id, "platform": request.platform or "unknown"}
                )
            )

    def reinit_device(self, request: gateway.ReinitDeviceRequest) -> gateway.InitDeviceResponse:
        """ReinitDevice: replace the key of a device. The old key is no longer accepted."""
        device_id = _device_id(request.device_id)
        with self._ledger.exclusive():
            known = self._ledger.get(Device, device_id)
            if known is None:
                raise PlatformError(
                    "FAILED_PRECONDITION",
                    "DATA_GATEWAY_DEVICE_NOT_INITIALIZED",
                    f"{device_id} has no key yet",
                )
            return _enrolled(self.enrol(device_id, known.tags))

    def exchange_credential(
        self, request: auth.ExchangeCredentialRequest
    ) -> auth.ExchangeCredentialResponse:
        """ExchangeCredential: return an access token for an API key."""
        key = request.credential.strip()
        device = next(
            (device for device in self._ledger.all(Device) if key and device.api_key == key), None
        )
        if device is None:
            raise refusal("INVALID_CREDENTIAL", "no device has this key", AUTH_PREFIX)
        if device.refused:
            raise refusal(device.refused, f"the key of {device.id} is refused", AUTH_PREFIX)
        token = IssuedToken(
            secrets.token_urlsafe(24), device.id, math.ceil(self._now() + self.terms.token_seconds)
        )
        self._ledger.put(token)
        return auth.ExchangeCredentialResponse(
            access_token=token.id,
            expires_at_unix=int(token.expires_at),
            token_type="Bearer",  # noqa: S106 - the kind of token
        )

    def device_of(self, authorization: str) -> str:
        """Return the device to which the token in a call's ``authorization`` metadata belongs."""
        scheme, _, value = authorization.partition(" ")
        token = self._ledger.get(IssuedToken, value) if scheme.lower() == "bearer" else None
        if token is None:
            raise refusal("UNAUTHENTICATED", "no valid access token")
        if self._now() >= token.expires_at:
            raise refusal("UNAUTHENTICATED", "the access token has expired")
        return token.device_id

    # Uploads

    def create_logical_upload(
        self, request: gateway.CreateLogicalUploadRequest, device_id: str
    ) -> gateway.CreateLogicalUploadResponse:
        """CreateLogicalUpload: open a session. The session that it replaces, if any, ends."""
        hints = dict(request.client_hints)
        for name in ("episode_id", "source"):
            if not hints.get(name):
                raise refusal("INVALID_ARGUMENT", f"client_hints must hold {name}")
        logical_upload_id = str(uuid.uuid4())
        date = time.strftime("%Y-%m-%d", time.gmtime(self._now()))
        session = Session(
            id=str(uuid.uuid4()),
            logical_upload_id=logical_upload_id,
            device_id=device_id,
            client_hints=hints,
            bucket=self._bucket,
            object_key=f"{_plain(device_id)}/{date}/{logical_upload_id}/{_file_name(hints)}",
            part_size_bytes=self.terms.part_size_bytes,
            expires_at=math.ceil(self._now() + _SESSION_SECONDS),
        )
        with self._ledger.exclusive():
            if request.restart_from_upload_id:
                old = self._own(request.restart_from_upload_id, device_id)
                if not _running(old):
                    raise refusal(
                        "FAILED_PRECONDITION", f"a session that is {old.status} cannot be restarted"
                    )
                self._ledger.put(replace(old, status="TERMINAL", reason="restarted"))
            self._ledger.put(session)
        return gateway.CreateLogicalUploadResponse(
            logical_upload_id=session.logical_upload_id,
            upload_id=session.id,
            credentials=self._lease(session, session.part_size_bytes),
        )

    def reissue_upload_credentials(
        self, request: gateway.ReissueUploadCredentialsRequest, device_id: str
    ) -> gateway.ReissueUploadCredentialsResponse:
        """ReissueUploadCredentials: return a new lease for the same object."""
        with self._ledger.exclusive():
            session = self._own(request.upload_id, device_id)
            if not _running(session):
                raise refusal("UPLOAD_NOT_REFRESHABLE", f"the session is {session.status}")
            session = replace(
                session, credential_refresh_count=session.credential_refresh_count + 1
            )
            self._ledger.put(session)
        part_size = self.terms.reissued_part_size_bytes or session.part_size_bytes
        return gateway.ReissueUploadCredentialsResponse(
            logical_upload_id=session.logical_upload_id,
            upload_id=session.id,
            credentials=self._lease(session, part_size),
        )

    def get_upload_recovery(
        self, request: gateway.GetUploadRecoveryRequest, device_id: str
    ) -> gateway.GetUploadRecoveryResponse:
        """GetUploadRecovery: return a session's progress and what its device should do next."""
        session = self._own_logical(request.logical_upload_id, device_id)
        answer = gateway.GetUploadRecoveryResponse(
            logical_upload_id=session.logical_upload_id,
            logical_upload_status=f"LOGICAL_UPLOAD_STATUS_{session.status}",
            current_upload_id=session.id,
            bucket=session.bucket,
            endpoint=self._endpoint(),
            object_key=session.object_key,
            can_refresh_credentials=_running(session),
            restart_allowed=_running(session),
            terminal_reason=session.reason,
            credential_refresh_count=session.credential_refresh_count,
            session_expire_at_unix=int(session.expires_at),
        )
        if session.completion:
            answer.completed_part_count = session.completion.part_count
            answer.oss_object_etag = session.completion.etag
        elif session.status == "TERMINAL":
            answer.next_action = gateway.UPLOAD_RECOVERY_ACTION_ABORT
        elif stored := self._stored(session):
            answer.next_action = gateway.UPLOAD_RECOVERY_ACTION_COMPLETE_ONLY
            answer.completed_part_count = _part_count(stored.size, session)
            answer.oss_object_etag = stored.etag
        elif session.status == "COMPLETING":
            answer.next_action = gateway.UPLOAD_RECOVERY_ACTION_RESTART
        else:
            answer.next_action = gateway.UPLOAD_RECOVERY_ACTION_CONTINUE
        return answer

    def abort_upload(
        self, request: gateway.AbortUploadRequest, device_id: str
    ) -> gateway.AbortUploadResponse:
        """AbortUpload: end a session. To end it again is no error."""
        with self._ledger.exclusive():
            session = self._own_logical(request.logical_upload_id, device_id)
            if session.status == "COMPLETED":
                raise refusal("FAILED_PRECONDITION", "the session is completed")
            if session.status != "TERMINAL":
                self._ledger.put(
                    replace(session, status="TERMINAL", reason=request.reason or "aborted")
                )
        return gateway.AbortUploadResponse(
            logical_upload_id=session.logical_upload_id, upload_id=session.id
        )

    def complete_upload(
        self, request: gateway.CompleteUploadRequest, device_id: str
    ) -> gateway.CompleteUploadResponse:
        """CompleteUpload: complete a session if the store holds what the device reports."""
        session = self._own(request.upload_id, device_id)
        reported = Completion(
            file_size=request.file_size,
            part_count=request.completed_part_count,
            etag=request.oss_object_etag,
            part_size_bytes=request.part_size_bytes,
            raw_tags=dict(request.raw_tags),
        )
        if reported.file_size <= 0 or reported.part_count <= 0 or not reported.etag:
            raise refusal(
                "INVALID_ARGUMENT",
                "file_size, completed_part_count and oss_object_etag must be given",
            )
        check_tags(reported.raw_tags, session.device_id)
        if session.completion:
            if session.completion != reported:
                raise refusal("FAILED_PRECONDITION", "the session is completed with other values")
            return gateway.CompleteUploadResponse()
        if not _running(session):
            raise refusal("FAILED_PRECONDITION", f"the session is {session.status}")
        self._ledger.put(session := replace(session, status="COMPLETING"))
        self._check_object(reported, session)
        self._ledger.put(replace(session, status="COMPLETED", completion=reported))
        return gateway.CompleteUploadResponse()

    def _check_object(self, reported: Completion, session: Session) -> None:
        if reported.part_size_bytes != session.part_size_bytes:
            raise refusal(
                "FAILED_PRECONDITION", f"the session's part size is {session.part_size_bytes}"
            )
        stored = self._stored(session)
        if stored is None:
            raise refusal("FAILED_PRECONDITION", "the object is not in the store")
        if stored.size != reported.file_size:
            raise refusal("FAILED_PRECONDITION", f"the object has {stored.size} bytes")
        if stored.etag != reported.etag:
            raise refusal(
                "FAILED_PRECONDITION", f"the object's ETag is {stored.etag}, quotes included"
            )
        if reported.part_count != _part_count(stored.size, session):
            raise refusal(
                "FAILED_PRECONDITION", f"the object has {_part_count(stored.size, session)} parts"
            )

    def _stored(self, session: Session) -> Stored | None:
        try:
            return self._head(session.object_key)
        except StoreAwayError as error:
            raise refusal("STS_UNAVAILABLE", str(error)) from error

    def _lease(self, session: Session, part_size: int) -> gateway.UploadCredentials:
        lease = IssuedLease(
            id="DEV" + secrets.token_hex(8).upper(),
            secret_key=secrets.token_urlsafe(30),
            session_token=secrets.token_urlsafe(60),
            bucket=session.bucket,
            object_key=session.object_key,
            expires_at=math.ceil(self._now() + self.terms.lease_seconds),
        )
        self._ledger.put(lease)
        return gateway.UploadCredentials(
            bucket=session.bucket,
            endpoint=self._endpoint(),
            object_key=session.object_key,
            sts_access_key_id=lease.id,
            sts_access_key_secret=lease.secret_key,
            sts_security_token=lease.session_token,
            sts_expire_at_unix=int(lease.expires_at),
            part_size_bytes=part_size,
            object_store_backend="s3",
            object_store_region=REGION,
        )

    def _own(self, upload_id: str, device_id: str) -> Session:
        session = self._ledger.get(Session, upload_id)
        if session is None:
            raise refusal("UPLOAD_NOT_FOUND", "no such upload")
        if session.device_id != device_id:
            raise refusal("UPLOAD_NOT_OWNED", "the upload belongs to another device")
        if _running(session) and self._now() >= session.expires_at:
            self._ledger.put(session := replace(session, status="TERMINAL", reason="expired"))
        return session

    def _own_logical(self, logical_upload_id: str, device_id: str) -> Session:
        for session in self._ledger.all(Session):
            if session.logical_upload_id == logical_upload_id:
                return self._own(session.id, device_id)
        raise refusal("UPLOAD_NOT_FOUND", "no such upload")


def _running(session: Session) -> bool:
    return session.status in {"ACTIVE", "COMPLETING"}


def _part_count(size: int, session: Session) -> int:
    return -(-size // session.part_size_bytes)


def _device_id(given: str) -> str:
    if not given.strip():
        raise refusal("INVALID_ARGUMENT", "device_id must be given")
    return given.strip()


def _enrolled(device: Device) -> gateway.InitDeviceResponse:
    return gateway.InitDeviceResponse(api_key=device.api_key, tags=device.tags)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", name)[:128].lstrip(".") or "_"


def _file_name(hints: Mapping[str, str]) -> str:
    name = _plain(hints.get("raw_file") or hints["episode_id"])
    return name if ".mcap" in name else f"{name}.mcap"
