"""gRPC → keys, tokens, sessions, leases and completion: the platform's enrolment, token service and data gateway."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from agent import __version__
from agent.model.digests import same_etag
from agent.model.errors import CloudError
from agent.model.unforeseen import foreign
from agent.model.values import (
    DEFAULT_PART_SIZE,
    AccessToken,
    Action,
    CredentialLease,
    DeviceProfile,
    Enrolled,
    Grant,
    Recovery,
    Stage,
    SyncLog,
    UploadSession,
)
from agent.pb.auth_pb2 import AuthErrorCode, ExchangeCredentialRequest
from agent.pb.auth_pb2_grpc import AuthServiceStub
from agent.pb.common_pb2 import ErrorDetail
from agent.pb.data_gateway_pb2 import (
    AbortUploadRequest,
    CompleteUploadRequest,
    CreateLogicalUploadRequest,
    DataGatewayErrorCode,
    GetUploadRecoveryRequest,
    InitDeviceRequest,
    ReinitDeviceRequest,
    ReissueUploadCredentialsRequest,
)
from agent.pb.data_gateway_pb2_grpc import DataGatewayServiceStub, DeviceInitServiceStub

_DETAILS = "grpc-status-details-bin"
_STATUS_DETAILS_FIELD = 3  # google.rpc.Status: repeated google.protobuf.Any details
_LONGEST_MESSAGE = 300
_STOPPING = ("CANCELLED", "the agent is stopping")
_REST = 60.0  # seconds without a call
_SOURCE = "keystone-agent"  # who uploads, as the platform files it
_PREFIX = re.compile(r"(?:DATA_GATEWAY|AUTH)_ERROR_CODE_|DATA_GATEWAY_")
_CODES = frozenset(
    _PREFIX.sub("", name) for name in (*AuthErrorCode.keys(), *DataGatewayErrorCode.keys())
) - {"UNSPECIFIED"} | {"DEVICE_ALREADY_INITIALIZED", "DEVICE_NOT_INITIALIZED"}  # fmt: skip
_NAMED = re.compile(r"(?:(?:DATA_GATEWAY|AUTH)_ERROR_CODE_|DATA_GATEWAY_(?=DEVICE_))([A-Z_]+)")
_BEGINNING = re.compile(r"\A[A-Z_]+")
_NO_UPLOAD = ("ExchangeCredential", "InitDevice", "ReinitDevice")  # calls that are about no upload
_ACTIONS: Mapping[int, Action] = {1: "continue", 2: "complete_only", 3: "restart", 4: "abort"}
_STAGES: Mapping[int, Stage] = {1: "active", 2: "completing", 3: "completed", 4: "terminal"}
# gRPC says UNAVAILABLE to all of these; only its text tells which.
_CUTS = (
    ("proxy", re.compile(r"HTTP proxy returned")),
    (
        "certificate",
        re.compile(
            r"CERTIFICATE_VERIFY_FAILED|[Hh]ostname [Vv]erification|not in peer certificate"
        ),
    ),
    ("dns", re.compile(r"DNS|Domain name not found|[Nn]ame resolution")),
    ("refused", re.compile(r"[Cc]onnection refused")),
    ("tls", re.compile(r"handshake failed|SSL_ERROR")),
    ("out_of_descriptors", re.compile(r"[Tt]oo many open files")),
    ("out_of_memory", re.compile(r"Cannot allocate memory")),
)
_LONGEST = 1024 * 1024  # bytes of an answer: 256 tags of the longest kind are half of it
_OPTIONS = (
    ("grpc.max_receive_message_length", _LONGEST),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.http2.ping_timeout_ms", 10_000),  # grpc.keepalive_timeout_ms has no effect any more
    ("grpc.initial_reconnect_backoff_ms", 1_000),
    (
        "grpc.min_reconnect_backoff_ms",
        20_000,
    ),  # also the time that a connection may take to come about
    ("grpc.max_reconnect_backoff_ms", 20_000),
)
_Request = TypeVar("_Request", bound=Message)


class GrpcGateway:
    """Implements ``ports.Gateway`` and ``ports.DeviceInit``; one channel per endpoint for as long as it lives."""

    def __init__(self, *, timeout_seconds: float, ca_file: str = "", proxy: str = "") -> None:
        """Connect nowhere yet.

        Args:
            timeout_seconds: Of each call.
            ca_file: Trusted instead of gRPC's own authorities.
            proxy: ``http://[USER:PASSWORD@]HOST:PORT`` of an HTTP proxy; the environment is not asked.

        Raises:
            OSError: ``ca_file`` can't be read.
        """
        self._timeout = timeout_seconds
        self._roots = Path(ca_file).read_bytes() if ca_file else None
        if proxy:
            # Or gRPC lets no_proxy of the environment overrule what was configured.
            os.environ["no_grpc_proxy"] = ""  # noqa: SIM112 - the library's own spelling
        self._options = (
            *_OPTIONS,
            ("grpc.enable_http_proxy", int(bool(proxy))),
            *([("grpc.http_proxy", proxy)] if proxy else []),
        )
        self._channels: dict[str, grpc.Channel] = {}
        self._calls, self._called, self._closed = 0, 0.0, False
        self._lock = threading.Lock()

    @foreign("InitDevice")
    def enrol(self, endpoint: str, device_id: str, *, rotate: bool) -> Enrolled:
        """Ask for a device's key: its first, or another one in place of its old one."""
        call = "ReinitDevice" if rotate else "InitDevice"
        stub = DeviceInitServiceStub(self._channel(endpoint))  # type: ignore[no-untyped-call]  # generated
        request = _built(
            call,
            ReinitDeviceRequest if rotate else InitDeviceRequest,
            device_id=device_id,
            sdk_version=__version__,
            platform=f"{sys.platform}-{os.uname().machine}",
        )
        answer = self._ask(call, getattr(stub, call), request, "")
        if not answer.api_key.strip():
            raise CloudError(call, "lying_server", "the answer has no api_key")
        return Enrolled(answer.api_key.strip(), dict(answer.tags))

    @foreign("ExchangeCredential")
    def exchange(self, profile: DeviceProfile) -> AccessToken:
        """Trade the API key for an access token."""
        call = "ExchangeCredential"
        stub = AuthServiceStub(self._channel(profile.auth))  # type: ignore[no-untyped-call]  # generated
        request = _built(call, ExchangeCredentialRequest, credential=profile.api_key.strip())
        answer = self._ask(call, stub.ExchangeCredential, request, profile.api_key)
        token = answer.access_token
        if not (token and token.isascii() and token.isprintable()):
            raise CloudError(call, "lying_server", "the token can't be used")
        return AccessToken(token, float(answer.expires_at_unix))

    @foreign("CreateLogicalUpload")
    def create(
        self, profile: DeviceProfile, token: AccessToken, log: SyncLog, restart_from: str = ""
    ) -> Grant:
        """Open a session."""
        call = "CreateLogicalUpload"
        hints = {"episode_id": log.episode_id, "source": _SOURCE}
        request = _built(
            call,
            CreateLogicalUploadRequest,
            client_hints=hints,
            restart_from_upload_id=restart_from,
        )
        return _grant(call, self._call(profile, token, call, request))

    @foreign("ReissueUploadCredentials")
    def reissue(self, profile: DeviceProfile, token: AccessToken, upload_id: str) -> Grant:
        """Fresh keys for a running session."""
        call = "ReissueUploadCredentials"
        request = _built(call, ReissueUploadCredentialsRequest, upload_id=upload_id)
        return _grant(call, self._call(profile, token, call, request))

    @foreign("GetUploadRecovery")
    def recover(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str
    ) -> Recovery:
        """How far the session has come."""
        call = "GetUploadRecovery"
        request = _built(call, GetUploadRecoveryRequest, logical_upload_id=logical_upload_id)
        answer = self._call(profile, token, call, request)
        if answer.logical_upload_id not in {"", logical_upload_id}:
            raise CloudError(call, "lying_server", "the answer is about another session")
        return Recovery(
            logical_upload_id=logical_upload_id,
            upload_id=answer.current_upload_id,
            stage=_STAGES.get(answer.logical_upload_status, "unspecified"),
            action=_ACTIONS.get(answer.next_action, "unspecified"),
            part_count=answer.completed_part_count,
            etag=answer.oss_object_etag,
            reason=answer.terminal_reason,
        )

    @foreign("AbortUpload")
    def abort(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str, reason: str
    ) -> None:
        """Give the session up."""
        call = "AbortUpload"
        request = _built(
            call, AbortUploadRequest, logical_upload_id=logical_upload_id, reason=reason
        )
        self._call(profile, token, call, request)

    @foreign("CompleteUpload")
    def complete(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> None:
        """Say that the object is stored."""
        call = "CompleteUpload"
        request = _built(
            call,
            CompleteUploadRequest,
            upload_id=log.upload_id,
            file_size=log.file_size,
            raw_tags=dict(log.raw_tags),
            completed_part_count=log.part_count,
            oss_object_etag=log.etag,
            part_size_bytes=log.part_size_bytes,
        )
        self._call(profile, token, call, request)

    @foreign("GetUploadRecovery")
    def stored(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> bool:
        """Whether the platform has it as completed, with the object that the document names."""
        try:
            known = self.recover(profile, token, log.logical_upload_id)
        except CloudError as error:
            if error.code != "UPLOAD_NOT_FOUND":
                raise
            return False
        return known.stage == "completed" and same_etag(known.etag, log.etag)

    def rest(self) -> None:
        """Hang up after a minute without a call: the library's threads wake up several times a second till then."""
        with self._lock:
            idle = self._calls == 0 and time.monotonic() > self._called + _REST
            hung_up = (
                [self._channels.pop(endpoint) for endpoint in list(self._channels)] if idle else []
            )
        for channel in hung_up:
            channel.close()

    def close(self) -> None:
        """Close all channels; calls that still run end with CloudError("CANCELLED")."""
        with self._lock:
            self._closed = True
            for channel in self._channels.values():
                channel.close()

    def _call(self, profile: DeviceProfile, token: AccessToken, call: str, request: Message) -> Any:
        stub = DataGatewayServiceStub(self._channel(profile.gateway))  # type: ignore[no-untyped-call]  # generated
        method = getattr(stub, call)
        metadata = (("authorization", f"Bearer {token.value}"),)
        return self._ask(call, method, request, token.value, profile.api_key, metadata=metadata)

    def _ask(
        self,
        call: str,
        method: Callable[..., Any],
        request: Message,
        *secrets: str,
        metadata: Any = None,
    ) -> Any:
        with self._lock:
            self._calls += 1
        try:
            return method(request, timeout=self._timeout, metadata=metadata)
        except grpc.RpcError as error:
            raise _translated(
                call, error, secrets
            ) from None  # its own text quotes what the server said
        except ValueError:  # the channel is closed; the library has no error for that
            raise CloudError(call, *_STOPPING) from None
        finally:
            with self._lock:
                self._calls -= 1
                self._called = time.monotonic()

    def _channel(self, endpoint: str) -> grpc.Channel:
        with self._lock:
            if endpoint not in self._channels:
                if self._closed:
                    raise CloudError("Connect", *_STOPPING)
                self._channels[endpoint] = self._connected(endpoint)
            self._called = time.monotonic()
            return self._channels[endpoint]

    def _connected(self, endpoint: str) -> grpc.Channel:
        """A channel: https is TLS on port 443, http or no scheme plaintext on port 80."""
        scheme, _, address = endpoint.rpartition("://")
        secure = scheme == "https"
        if not re.search(r":\d+$", address):
            address += ":443" if secure else ":80"
        if secure:
            return grpc.secure_channel(
                address, grpc.ssl_channel_credentials(self._roots), self._options
            )
        return grpc.insecure_channel(address, self._options)


def _built(call: str, kind: Callable[..., _Request], **fields: Any) -> _Request:
    """A request; what protobuf can't carry (text that is no UTF-8, numbers out of range) is INVALID_ARGUMENT."""
    try:
        return kind(**fields)
    except (ValueError, TypeError):
        raise CloudError(call, "INVALID_ARGUMENT", "a value can't be sent") from None


def _grant(call: str, answer: Any) -> Grant:
    """A session and its keys, once nothing is missing."""
    given = answer.credentials
    needed = {
        "logical_upload_id": answer.logical_upload_id,
        "upload_id": answer.upload_id,
        "bucket": given.bucket,
        "endpoint": given.endpoint,
        "object_key": given.object_key,
        "sts_access_key_id": given.sts_access_key_id,
        "sts_access_key_secret": given.sts_access_key_secret,
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise CloudError(call, "lying_server", f"the answer has no {', '.join(missing)}")
    session = UploadSession(
        logical_upload_id=answer.logical_upload_id,
        upload_id=answer.upload_id,
        bucket=given.bucket,
        endpoint=given.endpoint,
        object_key=given.object_key,
        region=given.object_store_region,
        part_size_bytes=given.part_size_bytes if given.part_size_bytes > 0 else DEFAULT_PART_SIZE,
    )
    lease = CredentialLease(
        access_key_id=given.sts_access_key_id,
        secret_access_key=given.sts_access_key_secret,
        session_token=given.sts_security_token,
        expires_at=float(given.sts_expire_at_unix),
    )
    return Grant(session, lease)


def _translated(call: str, error: grpc.RpcError, secrets: Sequence[str]) -> CloudError:
    """What an RPC's failure means; the platform's own code says most, gRPC's the rest."""
    text = error.details() or ""
    code = _platform_code(error, text) or error.code().name
    if code == "NOT_FOUND" and call not in _NO_UPLOAD:
        code = "UPLOAD_NOT_FOUND"
    if code == "UNAVAILABLE":
        code = next((cut for cut, pattern in _CUTS if pattern.search(text)), code)
    for secret in filter(None, map(str.strip, secrets)):  # a server may quote what it was sent
        text = text.replace(secret, "***")
    return CloudError(call, code, text[:_LONGEST_MESSAGE])


def _platform_code(error: grpc.RpcError, text: str) -> str:
    """The platform's code without its prefix, from the details or else from the text; "" where there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            for detail in _error_details(value):
                code = _PREFIX.sub("", detail.code)
                if code not in {"", "UNSPECIFIED"}:
                    return code
    # Without its prefix a code is believed at the beginning only: gRPC's own texts hold such words, too.
    named = [*_NAMED.findall(text), *_BEGINNING.findall(text)]
    return next((code for code in named if code in _CODES), "")


def _error_details(raw: bytes) -> Iterator[ErrorDetail]:
    """ErrorDetails that are ``raw``, or stand inside the google.rpc.Status that it is.

    Read as an ErrorDetail, a Status keeps its details as an unknown field.
    """
    with contextlib.suppress(DecodeError):
        outer = ErrorDetail.FromString(raw)
        yield outer
        unknown: Any = UnknownFieldSet(
            outer
        )  # its stub does not know that it can be walked through
        for field in unknown:
            if field.field_number == _STATUS_DETAILS_FIELD and isinstance(field.data, bytes):
                yield ErrorDetail.FromString(AnyMessage.FromString(field.data).value)
