"""The platform's services by gRPC: enrolment, token service and data gateway."""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from agent import __version__
from agent.adapters.gateway.grpc_errors import translated
from agent.model.digests import same_etag
from agent.model.errors import CloudError
from agent.model.sync_log import SyncLog
from agent.model.transfer import DEFAULT_PART_SIZE
from agent.model.unforeseen import foreign
from agent.model.values import (
    AccessToken,
    Action,
    CredentialLease,
    DeviceProfile,
    Enrolled,
    Grant,
    Recovery,
    Stage,
    UploadSession,
)
from agent.pb.auth_pb2 import ExchangeCredentialRequest
from agent.pb.auth_pb2_grpc import AuthServiceStub
from agent.pb.data_gateway_pb2 import (
    AbortUploadRequest,
    CompleteUploadRequest,
    CreateLogicalUploadRequest,
    GetUploadRecoveryRequest,
    InitDeviceRequest,
    ReinitDeviceRequest,
    ReissueUploadCredentialsRequest,
)
from agent.pb.data_gateway_pb2_grpc import DataGatewayServiceStub, DeviceInitServiceStub

# The code and the message of a call that the agent's end has cut off.
_STOPPING = ("CANCELLED", "the agent is stopping")

# After this time without a call, connections are closed.
_IDLE_SECONDS = 60.0

# The uploading program, in the records of the platform.
_SOURCE = "keystone-agent"

# The numbers of the enumerations in data_gateway.proto.
_ACTIONS: Mapping[int, Action] = {1: "continue", 2: "complete_only", 3: "restart", 4: "abort"}
_STAGES: Mapping[int, Stage] = {1: "active", 2: "completing", 3: "completed", 4: "terminal"}

# The most bytes of an answer. 256 tags of the longest kind are half of it.
_ANSWER_MAX_BYTES = 1024 * 1024

_OPTIONS = (
    ("grpc.max_receive_message_length", _ANSWER_MAX_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    # grpc.keepalive_timeout_ms has no effect any more.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 1_000),
    # This is also the time in which a connection must be open.
    ("grpc.min_reconnect_backoff_ms", 20_000),
    ("grpc.max_reconnect_backoff_ms", 20_000),
)
_Request = TypeVar("_Request", bound=Message)


class GrpcGateway:
    """Implements ``ports.Gateway`` and ``ports.DeviceInit``, with one channel for each endpoint.

    Opening a channel costs several round trips, so all calls to an endpoint share one.

    May be used from any thread.
    """

    def __init__(self, *, timeout_seconds: float, ca_file: str = "", proxy: str = "") -> None:
        """Make the gateway; no connection is opened.

        Args:
            timeout_seconds: How long each call may take.
            ca_file: Certificate authorities to trust instead of gRPC's own; "" for gRPC's own.
            proxy: ``http://[USER:PASSWORD@]HOST:PORT`` of an HTTP proxy, or "". The proxy settings
                of the environment are not used.

        Raises:
            OSError: ``ca_file`` can't be read.
        """
        self._timeout = timeout_seconds
        self._roots = Path(ca_file).read_bytes() if ca_file else None
        if proxy:
            # Without this, gRPC obeys no_proxy of the environment and ignores the setting.
            os.environ["no_grpc_proxy"] = ""  # noqa: SIM112 - the library's own spelling
        self._options = (
            *_OPTIONS,
            ("grpc.enable_http_proxy", int(bool(proxy))),
            *([("grpc.http_proxy", proxy)] if proxy else []),
        )
        self._channels: dict[str, grpc.Channel] = {}
        self._running_calls = 0
        # When a call last began or ended, by the monotonic clock.
        self._last_used = 0.0
        self._closed = False
        self._lock = threading.Lock()

    @foreign("InitDevice")
    def enrol(self, endpoint: str, device_id: str, *, rotate: bool) -> Enrolled:
        """Return the API key of a device.

        Args:
            endpoint: The address of the enrolment service.
            device_id: The device.
            rotate: Whether the device has a key already, which the new one replaces.

        Raises:
            CloudError: The call failed, or its answer has no key.
        """
        call = "ReinitDevice" if rotate else "InitDevice"
        stub = DeviceInitServiceStub(self._channel(endpoint))  # type: ignore[no-untyped-call]  # generated
        request = _built(
            call,
            ReinitDeviceRequest if rotate else InitDeviceRequest,
            device_id=device_id,
            sdk_version=__version__,
            platform=f"{sys.platform}-{os.uname().machine}",
        )
        answer = self._invoke(call, getattr(stub, call), request, "")
        if not answer.api_key.strip():
            raise CloudError(call, "lying_server", "the answer has no api_key")
        return Enrolled(answer.api_key.strip(), dict(answer.tags))

    @foreign("ExchangeCredential")
    def exchange(self, profile: DeviceProfile) -> AccessToken:
        """Return an access token in exchange for the API key."""
        call = "ExchangeCredential"
        stub = AuthServiceStub(self._channel(profile.auth))  # type: ignore[no-untyped-call]  # generated
        request = _built(call, ExchangeCredentialRequest, credential=profile.api_key.strip())
        answer = self._invoke(call, stub.ExchangeCredential, request, profile.api_key)
        token = answer.access_token
        if not (token and token.isascii() and token.isprintable()):
            raise CloudError(call, "lying_server", "the token can't be used")
        return AccessToken(token, float(answer.expires_at_unix))

    @foreign("CreateLogicalUpload")
    def create(
        self, profile: DeviceProfile, token: AccessToken, log: SyncLog, restart_from: str = ""
    ) -> Grant:
        """Open an upload session for the recording that ``log`` describes."""
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
        """Return a new lease for an upload session that goes on."""
        call = "ReissueUploadCredentials"
        request = _built(call, ReissueUploadCredentialsRequest, upload_id=upload_id)
        return _grant(call, self._call(profile, token, call, request))

    @foreign("GetUploadRecovery")
    def recover(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str
    ) -> Recovery:
        """Return how far the upload session has come."""
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
        """Abort the upload session."""
        call = "AbortUpload"
        request = _built(
            call, AbortUploadRequest, logical_upload_id=logical_upload_id, reason=reason
        )
        self._call(profile, token, call, request)

    @foreign("CompleteUpload")
    def complete(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> None:
        """Tell the platform that the recording is stored as ``log`` describes it."""
        call, session = "CompleteUpload", log.require_session()
        request = _built(
            call,
            CompleteUploadRequest,
            upload_id=session.upload_id,
            file_size=log.file_size,
            raw_tags=dict(log.raw_tags),
            completed_part_count=session.part_count,
            oss_object_etag=session.etag,
            part_size_bytes=session.part_size_bytes,
        )
        self._call(profile, token, call, request)

    @foreign("GetUploadRecovery")
    def stored(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> bool:
        """Return whether the platform has the upload as completed, with the object of ``log``."""
        if log.session is None:
            return False
        try:
            recovery = self.recover(profile, token, log.session.logical_upload_id)
        except CloudError as error:
            if not error.means("session_unknown"):
                raise
            return False
        return recovery.stage == "completed" and same_etag(recovery.etag, log.session.etag)

    def rest(self) -> None:
        """Close the connections after a minute without a call.

        The threads of an open connection wake up several times a second.
        """
        with self._lock:
            idle_seconds = time.monotonic() - self._last_used
            if self._running_calls > 0 or idle_seconds <= _IDLE_SECONDS:
                return
            idle_channels = list(self._channels.values())
            self._channels.clear()
        for channel in idle_channels:
            channel.close()

    def close(self) -> None:
        """Close all connections; calls that still run end with CloudError("CANCELLED")."""
        with self._lock:
            self._closed = True
            for channel in self._channels.values():
                channel.close()

    def _call(self, profile: DeviceProfile, token: AccessToken, call: str, request: Message) -> Any:
        """Return the answer of the data gateway."""
        stub = DataGatewayServiceStub(self._channel(profile.gateway))  # type: ignore[no-untyped-call]  # generated
        method = getattr(stub, call)
        metadata = (("authorization", f"Bearer {token.value}"),)
        return self._invoke(call, method, request, token.value, profile.api_key, metadata=metadata)

    def _invoke(
        self,
        call: str,
        method: Callable[..., Any],
        request: Message,
        *secrets: str,
        metadata: Any = None,
    ) -> Any:
        """Return the answer to a request, and keep ``secrets`` out of the error where it fails."""
        with self._lock:
            self._running_calls += 1
        try:
            return method(request, timeout=self._timeout, metadata=metadata)
        except grpc.RpcError as error:
            # The cause is left out, because its text quotes what the server said.
            raise translated(call, error, secrets) from None
        except ValueError:
            # The channel is closed. The library has no error of its own for this.
            raise CloudError(call, *_STOPPING) from None
        finally:
            with self._lock:
                self._running_calls -= 1
                self._last_used = time.monotonic()

    def _channel(self, endpoint: str) -> grpc.Channel:
        """Return the channel to an endpoint; open it where there is none."""
        with self._lock:
            if endpoint not in self._channels:
                if self._closed:
                    raise CloudError("Connect", *_STOPPING)
                self._channels[endpoint] = self._new_channel(endpoint)
            self._last_used = time.monotonic()
            return self._channels[endpoint]

    def _new_channel(self, endpoint: str) -> grpc.Channel:
        """Return a new channel.

        An https endpoint has TLS and by default port 443. Any other endpoint has no TLS and by
        default port 80.
        """
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
    """Return a request with these fields.

    Raises:
        CloudError: Protobuf can't carry a field: a text is no UTF-8, or a number is out of range.
            The code is INVALID_ARGUMENT.
    """
    try:
        return kind(**fields)
    except (ValueError, TypeError):
        raise CloudError(call, "INVALID_ARGUMENT", "a value can't be sent") from None


def _grant(call: str, answer: Any) -> Grant:
    """Return the upload session and the lease of an answer.

    Raises:
        CloudError: The answer lacks a field.
    """
    credentials = answer.credentials
    needed = {
        "logical_upload_id": answer.logical_upload_id,
        "upload_id": answer.upload_id,
        "bucket": credentials.bucket,
        "endpoint": credentials.endpoint,
        "object_key": credentials.object_key,
        "sts_access_key_id": credentials.sts_access_key_id,
        "sts_access_key_secret": credentials.sts_access_key_secret,
    }
    missing = [name for name, value in needed.items() if not value]
    if missing:
        raise CloudError(call, "lying_server", f"the answer has no {', '.join(missing)}")
    session = UploadSession(
        logical_upload_id=answer.logical_upload_id,
        upload_id=answer.upload_id,
        bucket=credentials.bucket,
        endpoint=credentials.endpoint,
        object_key=credentials.object_key,
        region=credentials.object_store_region,
        part_size_bytes=credentials.part_size_bytes
        if credentials.part_size_bytes > 0
        else DEFAULT_PART_SIZE,
    )
    lease = CredentialLease(
        access_key_id=credentials.sts_access_key_id,
        secret_access_key=credentials.sts_access_key_secret,
        session_token=credentials.sts_security_token,
        expires_at=float(credentials.sts_expire_at_unix),
    )
    return Grant(session, lease)
