"""What the platform allows and answers: enrolment, tokens, upload sessions and their leases.

Takes and gives the protocol's messages, and knows nothing of gRPC but its status codes. A session is ACTIVE until its
device says that it is complete; what recovery advises follows from that and from what the store really holds.
"""

from __future__ import annotations

import math
import re
import secrets
import time
import unicodedata
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agent.devcloud.bucket import StoreAwayError, Stored
from agent.devcloud.ledger import Completion, Device, IssuedLease, IssuedToken, Ledger, Session
from agent.devcloud.servers import REGION
from agent.pb import auth_pb2 as auth
from agent.pb import data_gateway_pb2 as gateway

DEVICE_TAG = "778a6d83c9ec49108537542a570966ee.device_id"
RAW_FILE_TAG = "a206e337ecdf70a93bb611cf6a30c346.raw_file"
MAX_TAGS, MAX_TAG_KEY, MAX_TAG_VALUE = 256, 64, 2048  # keys; bytes of UTF-8
_SESSION_SECONDS = 7 * 86_400
_AUTH = "AUTH_ERROR_CODE_"
_GATEWAY = "DATA_GATEWAY_ERROR_CODE_"
_STATUS = {
    "INVALID_CREDENTIAL": "UNAUTHENTICATED",
    "KEY_DISABLED": "PERMISSION_DENIED",
    "KEY_EXPIRED": "UNAUTHENTICATED",
    "SITE_DISABLED": "PERMISSION_DENIED",
    "UNAUTHENTICATED": "UNAUTHENTICATED",
    "UPLOAD_NOT_FOUND": "NOT_FOUND",
    "UPLOAD_NOT_OWNED": "PERMISSION_DENIED",
    "UPLOAD_NOT_REFRESHABLE": "FAILED_PRECONDITION",
    "INVALID_ARGUMENT": "INVALID_ARGUMENT",
    "FAILED_PRECONDITION": "FAILED_PRECONDITION",
    "STS_UNAVAILABLE": "UNAVAILABLE",
}


class PlatformError(Exception):
    """The platform says no: gRPC ``status`` and the full name of the error ``code``."""

    def __init__(self, status: str, code: str, message: str) -> None:
        """``message`` is for people and holds no secret."""
        super().__init__(message)
        self.status = status
        self.code = code


def _no(code: str, message: str, prefix: str = _GATEWAY) -> PlatformError:
    return PlatformError(_STATUS[code], prefix + code, message)


@dataclass(slots=True)
class PlatformTerms:
    """What a test or a demo may choose; may be changed while the platform runs. Seconds and bytes."""

    lease_seconds: float = 3600
    token_seconds: float = 3600
    part_size_bytes: int = 8 * 1024 * 1024
    reissued_part_size_bytes: int = (
        0  # told with a fresh lease in place of the session's own, to try a client; 0 = off
    )


class Platform:
    """The platform's services, one method an RPC."""

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
        """``endpoint`` is where devices find the store, ``head`` what the store holds under a key."""
        self.terms = terms
        self._ledger = ledger
        self._bucket = bucket
        self._endpoint = endpoint
        self._head = head
        self._now = now

    # Devices

    def enrol(self, device_id: str, tags: Mapping[str, str]) -> Device:
        """Give a device a fresh key in place of any it had."""
        device = Device(device_id, secrets.token_urlsafe(24), tags)
        self._ledger.put(device)
        return device

    def init_device(self, request: gateway.InitDeviceRequest) -> gateway.InitDeviceResponse:
        """InitDevice: a key for a device that has none."""
        device_id = _device_id(request.device_id)
        with self._ledger.exclusive():
            if self._ledger.get(Device, device_id):
                raise PlatformError(
                    "ALREADY_EXISTS",
                    "DATA_GATEWAY_DEVICE_ALREADY_INITIALIZED",
                    f"{device_id} has a key already",
                )
            return _enrolled(
                self.enrol(
                    device_id, {"device": device_id, "platform": request.platform or "unknown"}
                )
            )

    def reinit_device(self, request: gateway.ReinitDeviceRequest) -> gateway.InitDeviceResponse:
        """ReinitDevice: another key for a device that has one; the old one stops working."""
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
        """ExchangeCredential: an access token for an API key."""
        key = request.credential.strip()
        device = next(
            (device for device in self._ledger.all(Device) if key and device.api_key == key), None
        )
        if device is None:
            raise _no("INVALID_CREDENTIAL", "no device has this key", _AUTH)
        if device.refused:
            raise _no(device.refused, f"the key of {device.id} is refused", _AUTH)
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
        """The device that a call's ``authorization`` metadata proves."""
        scheme, _, value = authorization.partition(" ")
        token = self._ledger.get(IssuedToken, value) if scheme.lower() == "bearer" else None
        if token is None:
            raise _no("UNAUTHENTICATED", "no valid access token")
        if self._now() >= token.expires_at:
            raise _no("UNAUTHENTICATED", "the access token has ended")
        return token.device_id

    # Uploads

    def create_logical_upload(
        self, request: gateway.CreateLogicalUploadRequest, device_id: str
    ) -> gateway.CreateLogicalUploadResponse:
        """CreateLogicalUpload: a new session; the one it restarts from ends."""
        hints = dict(request.client_hints)
        for name in ("episode_id", "source"):
            if not hints.get(name):
                raise _no("INVALID_ARGUMENT", f"client_hints must hold {name}")
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
                    raise _no(
                        "FAILED_PRECONDITION", f"a session that is {old.status} is not restarted"
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
        """ReissueUploadCredentials: a fresh lease for the same place."""
        with self._ledger.exclusive():
            session = self._own(request.upload_id, device_id)
            if not _running(session):
                raise _no("UPLOAD_NOT_REFRESHABLE", f"the session is {session.status}")
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
        """GetUploadRecovery: how far a session is, and what its device should do."""
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
        """AbortUpload: the session ends; doing it again is no error."""
        with self._ledger.exclusive():
            session = self._own_logical(request.logical_upload_id, device_id)
            if session.status == "COMPLETED":
                raise _no("FAILED_PRECONDITION", "the session is completed")
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
        """CompleteUpload: the session is done if the store holds what the device says."""
        session = self._own(request.upload_id, device_id)
        told = Completion(
            file_size=request.file_size,
            part_count=request.completed_part_count,
            etag=request.oss_object_etag,
            part_size_bytes=request.part_size_bytes,
            raw_tags=dict(request.raw_tags),
        )
        if told.file_size <= 0 or told.part_count <= 0 or not told.etag:
            raise _no(
                "INVALID_ARGUMENT",
                "file_size, completed_part_count and oss_object_etag must be given",
            )
        _check_tags(told.raw_tags, session)
        if session.completion:
            if session.completion != told:
                raise _no("FAILED_PRECONDITION", "the session is completed with other values")
            return gateway.CompleteUploadResponse()
        if not _running(session):
            raise _no("FAILED_PRECONDITION", f"the session is {session.status}")
        self._ledger.put(session := replace(session, status="COMPLETING"))
        self._check_object(told, session)
        self._ledger.put(replace(session, status="COMPLETED", completion=told))
        return gateway.CompleteUploadResponse()

    def _check_object(self, told: Completion, session: Session) -> None:
        if told.part_size_bytes != session.part_size_bytes:
            raise _no(
                "FAILED_PRECONDITION", f"the session's part size is {session.part_size_bytes}"
            )
        stored = self._stored(session)
        if stored is None:
            raise _no("FAILED_PRECONDITION", "the object is not in the store")
        if stored.size != told.file_size:
            raise _no("FAILED_PRECONDITION", f"the object has {stored.size} bytes")
        if stored.etag != told.etag:
            raise _no("FAILED_PRECONDITION", f"the object's ETag is {stored.etag}, quotes included")
        if told.part_count != _part_count(stored.size, session):
            raise _no(
                "FAILED_PRECONDITION", f"the object has {_part_count(stored.size, session)} parts"
            )

    def _stored(self, session: Session) -> Stored | None:
        try:
            return self._head(session.object_key)
        except StoreAwayError as error:
            raise _no("STS_UNAVAILABLE", str(error)) from error

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
            raise _no("UPLOAD_NOT_FOUND", "no such upload")
        if session.device_id != device_id:
            raise _no("UPLOAD_NOT_OWNED", "the upload belongs to another device")
        if _running(session) and self._now() >= session.expires_at:
            self._ledger.put(session := replace(session, status="TERMINAL", reason="expired"))
        return session

    def _own_logical(self, logical_upload_id: str, device_id: str) -> Session:
        for session in self._ledger.all(Session):
            if session.logical_upload_id == logical_upload_id:
                return self._own(session.id, device_id)
        raise _no("UPLOAD_NOT_FOUND", "no such upload")


def _running(session: Session) -> bool:
    return session.status in {"ACTIVE", "COMPLETING"}


def _part_count(size: int, session: Session) -> int:
    return -(-size // session.part_size_bytes)


def _device_id(given: str) -> str:
    if not given.strip():
        raise _no("INVALID_ARGUMENT", "device_id must be given")
    return given.strip()


def _enrolled(device: Device) -> gateway.InitDeviceResponse:
    return gateway.InitDeviceResponse(api_key=device.api_key, tags=device.tags)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=-]+", "_", name)[:128].lstrip(".") or "_"


def _file_name(hints: Mapping[str, str]) -> str:
    name = _plain(hints.get("raw_file") or hints["episode_id"])
    return name if ".mcap" in name else f"{name}.mcap"


def _check_tags(tags: Mapping[str, str], session: Session) -> None:
    if len(tags) > MAX_TAGS:
        raise _no("INVALID_ARGUMENT", f"{len(tags)} raw tags, at most {MAX_TAGS}")
    for key, value in tags.items():
        if not 1 <= len(key.encode()) <= MAX_TAG_KEY:
            raise _no("INVALID_ARGUMENT", f"raw tag key {key!r} has not 1 to {MAX_TAG_KEY} bytes")
        if len(value.encode()) > MAX_TAG_VALUE:
            raise _no(
                "INVALID_ARGUMENT", f"the value of raw tag {key!r} is over {MAX_TAG_VALUE} bytes"
            )
        if any(unicodedata.category(letter) == "Cc" for letter in key + value):
            raise _no("INVALID_ARGUMENT", f"raw tag {key!r} has control characters")
    if tags.get(DEVICE_TAG) != session.device_id:
        raise _no("INVALID_ARGUMENT", f"raw tag {DEVICE_TAG} must be {session.device_id!r}")
    raw_file = tags.get(RAW_FILE_TAG, "")
    if not raw_file or "/" in raw_file:
        raise _no("INVALID_ARGUMENT", f"raw tag {RAW_FILE_TAG} must be the recording's base name")
