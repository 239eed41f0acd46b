"""Tests of the embedded cloud.

They check every rule of the platform over a real store, and that the cloud starts and stops without
a trace.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import urllib3
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from grpc_tools import protoc
from mcap.reader import make_reader
from minio import Minio
from minio.error import S3Error

from agent.devcloud import recorder
from agent.devcloud.cloud import DevCloud
from agent.devcloud.raw_tags import DEVICE_TAG, RAW_FILE_TAG
from agent.devcloud.servers import ServerError
from agent.pb import auth_pb2, auth_pb2_grpc, common_pb2, data_gateway_pb2, data_gateway_pb2_grpc
from tests.harness import s3_servers as servers
from tests.harness.paths import REPOSITORY

MIB = 1024 * 1024
HINTS = {"episode_id": "episode-1", "source": "keystone-agent"}
CONTINUE = 1
COMPLETE_ONLY = 2
RESTART = 3
ABORT = 4
ACTIVE = 1
COMPLETING = 2
COMPLETED = 3
TERMINAL = 4


class PlatformClock:
    """The platform's wall clock, moved by hand."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now


class PlatformClient:
    """A plain client of the platform, for one device of the profile file."""

    def __init__(self, cloud: DevCloud, number: int = 0) -> None:
        profiles = json.loads(cloud.agent_files.profile_path.read_text())
        profile = profiles["devices"][number]
        self.id: str = profile["deviceId"]
        self.api_key: str = profile["apiKey"]
        self.channel = open_channel(cloud)
        self.auth = auth_pb2_grpc.AuthServiceStub(self.channel)  # type: ignore[no-untyped-call] # generated code
        self.uploads = data_gateway_pb2_grpc.DataGatewayServiceStub(self.channel)  # type: ignore[no-untyped-call] # generated code
        self.enrolment = data_gateway_pb2_grpc.DeviceInitServiceStub(self.channel)  # type: ignore[no-untyped-call] # generated code
        self.token = ""

    def exchange(self, api_key: str = "") -> Any:
        request = auth_pb2.ExchangeCredentialRequest(credential=api_key or self.api_key)
        answer = self.auth.ExchangeCredential(request, timeout=10)
        self.token = answer.access_token
        return answer

    def call(self, name: str, **fields: Any) -> Any:
        if not self.token:
            self.exchange()
        request = getattr(data_gateway_pb2, f"{name}Request")(**fields)
        metadata = [("authorization", f"Bearer {self.token}")]
        return getattr(self.uploads, name)(request, timeout=10, metadata=metadata)

    def create(self, **fields: Any) -> Any:
        return self.call("CreateLogicalUpload", **{"client_hints": HINTS} | fields)

    def recovery(self, session: Any) -> Any:
        return self.call("GetUploadRecovery", logical_upload_id=session.logical_upload_id)

    def complete(self, session: Any, size: int, etag: str, parts: int = 1, **fields: Any) -> Any:
        told = {
            "upload_id": session.upload_id,
            "file_size": size,
            "raw_tags": {DEVICE_TAG: self.id, RAW_FILE_TAG: "a.mcap"},
            "completed_part_count": parts,
            "oss_object_etag": etag,
            "part_size_bytes": session.credentials.part_size_bytes,
        }
        return self.call("CompleteUpload", **told | fields)


def open_channel(cloud: DevCloud) -> grpc.Channel:
    where = cloud.gateway_url.partition("://")[2]
    # A channel of its own, so that the backoff of no other channel delays its calls.
    alone = [("grpc.use_local_subchannel_pool", 1)]
    if cloud.ca_file is None:
        return grpc.insecure_channel(where, options=alone)
    return grpc.secure_channel(
        where, grpc.ssl_channel_credentials(cloud.ca_file.read_bytes()), options=alone
    )


def s3(credentials: Any, ca_file: Path | None = None) -> Minio:
    """Return a store client with a lease; an endpoint without a scheme is https."""
    scheme, _, where = credentials.endpoint.rpartition("://")
    pool = urllib3.PoolManager(
        retries=False, timeout=30, ca_certs=str(ca_file) if ca_file else None
    )
    return Minio(
        where,
        access_key=credentials.sts_access_key_id,
        secret_key=credentials.sts_access_key_secret,
        session_token=credentials.sts_security_token,
        secure=scheme != "http",
        region=credentials.object_store_region,
        http_client=pool,
    )


def upload(session: Any, content: bytes, ca_file: Path | None = None) -> str:
    """Store ``content`` as one part; return the ETag as HEAD's header has it."""
    place = session.credentials
    client = s3(place, ca_file)
    upload_id = client._create_multipart_upload(place.bucket, place.object_key, {})
    etag = client._upload_part(place.bucket, place.object_key, content, {}, upload_id, 1)
    from minio.datatypes import Part  # noqa: PLC0415 - only this function needs it

    client._complete_multipart_upload(place.bucket, place.object_key, upload_id, [Part(1, etag)])
    return f'"{client.stat_object(place.bucket, place.object_key).etag}"'


def read_for_ever(client: Minio, bucket: str, key: str) -> None:
    # The loop ends when the store refuses, or at pytest's timeout.
    while True:
        with client.get_object(bucket, key) as answer:
            assert answer.read()


def refused(call: Any, status: str, code: str) -> grpc.RpcError:
    """Make ``call`` and prove that the platform refuses it in the form of its protocol."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    assert error.code().name == status
    assert error.details().startswith(f"{code}: ")
    return error


def details_of(error: Any) -> bytes:
    return bytes(dict(error.trailing_metadata())["grpc-status-details-bin"])


@pytest.fixture(params=[name for name in servers.available() if name in {"rclone", "minio"}])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def clock() -> PlatformClock:
    return PlatformClock()


@pytest.fixture
def cloud(tmp_path: Path, kind: str, clock: PlatformClock) -> Iterator[DevCloud]:
    with DevCloud(
        tmp_path / "cloud", store=kind, devices=("robot-1", "robot-2"), now=clock
    ) as running:
        yield running


@pytest.fixture
def device(cloud: DevCloud) -> Iterator[PlatformClient]:
    made = PlatformClient(cloud)
    with contextlib.closing(made.channel):
        yield made


@pytest.fixture
def stranger(cloud: DevCloud) -> Iterator[PlatformClient]:
    made = PlatformClient(cloud, 1)
    with contextlib.closing(made.channel):
        yield made


def children() -> list[psutil.Process]:
    return list(psutil.Process().children(recursive=True))


# These tests check the protocol.


def test_a_client_made_from_the_proto_files_finds_every_service_and_method(
    cloud: DevCloud, tmp_path: Path
) -> None:
    made = tmp_path / "descriptors"
    protos = [str(path) for path in sorted((REPOSITORY / "proto").glob("*.proto"))]
    assert (
        protoc.main(
            [
                "protoc",
                f"-I{REPOSITORY / 'proto'}",
                "--include_imports",
                f"--descriptor_set_out={made}",
                *protos,
            ]
        )
        == 0
    )
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(made.read_bytes()).file:
        pool.Add(file)
    expected = {
        "archebase.auth.v1.AuthService": {"ExchangeCredential"},
        "archebase.data_gateway.v1.DataGatewayService": {
            "CreateLogicalUpload",
            "GetUploadRecovery",
            "ReissueUploadCredentials",
            "AbortUpload",
            "CompleteUpload",
        },
        "archebase.data_gateway.v1.DeviceInitService": {"InitDevice", "ReinitDevice"},
    }
    with contextlib.closing(open_channel(cloud)) as channel:
        for name, methods in expected.items():
            service = pool.FindServiceByName(name)
            assert {method.name for method in service.methods} == methods
            for method in service.methods:
                call = channel.unary_unary(
                    f"/{name}/{method.name}",
                    request_serializer=GetMessageClass(method.input_type).SerializeToString,
                    response_deserializer=GetMessageClass(method.output_type).FromString,
                )
                with pytest.raises(grpc.RpcError) as caught:
                    call(GetMessageClass(method.input_type)(), timeout=10)
                assert caught.value.code() != grpc.StatusCode.UNIMPLEMENTED


def test_error_details_travel_inside_a_status_bare_or_not_at_all(tmp_path: Path) -> None:
    bare = common_pb2.ErrorDetail(
        code="AUTH_ERROR_CODE_INVALID_CREDENTIAL", message="no device has this key"
    ).SerializeToString()
    seen = {}
    for form in ("wrapped", "raw", "none"):
        with (
            DevCloud(tmp_path / form, store="rclone", details=form) as cloud,
            contextlib.closing(PlatformClient(cloud).channel) as channel,
        ):
            stub = auth_pb2_grpc.AuthServiceStub(channel)  # type: ignore[no-untyped-call] # generated code
            error: Any = refused(
                lambda stub=stub: stub.ExchangeCredential(
                    auth_pb2.ExchangeCredentialRequest(credential="no"), timeout=10
                ),
                "UNAUTHENTICATED",
                "AUTH_ERROR_CODE_INVALID_CREDENTIAL",
            )
            seen[form] = dict(error.trailing_metadata()).get("grpc-status-details-bin")
    assert seen["raw"] == bare
    assert seen["none"] is None
    assert status_of(seen["wrapped"]) == (
        16,
        "AUTH_ERROR_CODE_INVALID_CREDENTIAL: no device has this key",
        bare,
    )


def status_of(wrapped: Any) -> tuple[int, str, bytes]:
    """Parse a google.rpc.Status with a description of the message that is made here."""
    file = descriptor_pb2.FileDescriptorProto(name="status.proto", package="t", syntax="proto3")
    file.dependency.append("google/protobuf/any.proto")
    message = file.message_type.add(name="Status")
    message.field.add(name="code", number=1, type=5, label=1)
    message.field.add(name="message", number=2, type=9, label=1)
    message.field.add(name="details", number=3, type=11, label=3, type_name=".google.protobuf.Any")
    pool = descriptor_pool.Default()
    pool.Add(file)
    status: Any = GetMessageClass(pool.FindMessageTypeByName("t.Status")).FromString(wrapped)
    assert status.details[0].type_url == "type.googleapis.com/archebase.common.v1.ErrorDetail"
    return status.code, status.message, status.details[0].value


# These tests check devices and tokens.


def test_a_key_becomes_a_token_with_the_chosen_life(
    cloud: DevCloud, device: PlatformClient, clock: PlatformClock
) -> None:
    cloud.terms.token_seconds = 7
    answer = device.exchange(f"  {device.api_key}\n")
    assert (answer.token_type, answer.expires_at_unix) == ("Bearer", clock.now + 7)
    device.create()
    clock.now += 7
    refused(device.create, "UNAUTHENTICATED", "DATA_GATEWAY_ERROR_CODE_UNAUTHENTICATED")
    device.exchange()
    device.create()
    cloud.expire_tokens()
    refused(device.create, "UNAUTHENTICATED", "DATA_GATEWAY_ERROR_CODE_UNAUTHENTICATED")


def test_every_upload_call_wants_a_bearer(device: PlatformClient) -> None:
    for name in (
        "CreateLogicalUpload",
        "GetUploadRecovery",
        "ReissueUploadCredentials",
        "AbortUpload",
        "CompleteUpload",
    ):
        request = getattr(data_gateway_pb2, f"{name}Request")()
        for metadata in (
            [],
            [("authorization", "Bearer guessed")],
            [("authorization", device.api_key)],
        ):
            refused(
                lambda name=name, request=request, metadata=metadata: getattr(device.uploads, name)(
                    request, timeout=10, metadata=metadata
                ),
                "UNAUTHENTICATED",
                "DATA_GATEWAY_ERROR_CODE_UNAUTHENTICATED",
            )


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("KEY_DISABLED", "PERMISSION_DENIED"),
        ("KEY_EXPIRED", "UNAUTHENTICATED"),
        ("SITE_DISABLED", "PERMISSION_DENIED"),
    ],
)
def test_a_refused_key_says_why_until_it_is_accepted_again(
    cloud: DevCloud, device: PlatformClient, code: str, status: str
) -> None:
    cloud.disable_key(device.id, code)
    error = refused(device.exchange, status, f"AUTH_ERROR_CODE_{code}")
    assert f"AUTH_ERROR_CODE_{code}".encode() in details_of(error)
    cloud.enable_key(device.id)
    assert device.exchange().access_token


def test_enrolment_gives_a_key_once_and_rotation_ends_the_old_one(device: PlatformClient) -> None:
    init, reinit = data_gateway_pb2.InitDeviceRequest, data_gateway_pb2.ReinitDeviceRequest
    new = {"device_id": "robot-9", "sdk_version": "1", "platform": "linux"}
    refused(
        lambda: device.enrolment.ReinitDevice(reinit(**new), timeout=10),
        "FAILED_PRECONDITION",
        "DATA_GATEWAY_DEVICE_NOT_INITIALIZED",
    )
    first = device.enrolment.InitDevice(init(**new), timeout=10)
    assert first.api_key
    assert first.tags
    refused(
        lambda: device.enrolment.InitDevice(init(**new), timeout=10),
        "ALREADY_EXISTS",
        "DATA_GATEWAY_DEVICE_ALREADY_INITIALIZED",
    )
    second = device.enrolment.ReinitDevice(reinit(**new), timeout=10)
    assert dict(second.tags) == dict(first.tags)
    refused(
        lambda: device.exchange(first.api_key),
        "UNAUTHENTICATED",
        "AUTH_ERROR_CODE_INVALID_CREDENTIAL",
    )
    assert device.exchange(second.api_key).access_token
    refused(
        lambda: device.enrolment.InitDevice(init(device_id=" "), timeout=10),
        "INVALID_ARGUMENT",
        "DATA_GATEWAY_ERROR_CODE_INVALID_ARGUMENT",
    )


# These tests check upload sessions.


def test_a_session_names_its_place_its_keys_and_its_part_size(
    cloud: DevCloud, device: PlatformClient, clock: PlatformClock
) -> None:
    session = device.create()
    place = session.credentials
    date = time.strftime("%Y-%m-%d", time.gmtime(clock.now))
    assert place.object_key == f"robot-1/{date}/{session.logical_upload_id}/episode-1.mcap"
    assert (place.bucket, place.endpoint) == (cloud.bucket, cloud.store_url)
    assert (place.part_size_bytes, place.sts_expire_at_unix) == (8 * MIB, clock.now + 3600)
    recovery = device.recovery(session)
    assert (recovery.logical_upload_status, recovery.next_action) == (ACTIVE, CONTINUE)
    assert (recovery.current_upload_id, recovery.object_key) == (
        session.upload_id,
        place.object_key,
    )
    assert recovery.can_refresh_credentials
    assert recovery.restart_allowed
    assert [known.id for known in cloud.sessions()] == [session.upload_id]


@pytest.mark.parametrize(
    "hints", [{}, {"episode_id": "e"}, {"source": "s"}, {"episode_id": "", "source": "s"}]
)
def test_a_session_needs_its_hints(device: PlatformClient, hints: dict[str, str]) -> None:
    refused(
        lambda: device.create(client_hints=hints),
        "INVALID_ARGUMENT",
        "DATA_GATEWAY_ERROR_CODE_INVALID_ARGUMENT",
    )


def test_a_session_belongs_to_its_device_alone(
    device: PlatformClient, stranger: PlatformClient
) -> None:
    session = device.create()
    for call in (
        lambda: stranger.recovery(session),
        lambda: stranger.call("ReissueUploadCredentials", upload_id=session.upload_id),
        lambda: stranger.call("AbortUpload", logical_upload_id=session.logical_upload_id),
        lambda: stranger.complete(session, 1, '"x-1"'),
        lambda: stranger.create(restart_from_upload_id=session.upload_id),
    ):
        refused(call, "PERMISSION_DENIED", "DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_OWNED")
    assert device.recovery(session).next_action == CONTINUE


def test_a_session_that_never_was_is_not_found(device: PlatformClient) -> None:
    for call in (
        lambda: device.call("GetUploadRecovery", logical_upload_id="no"),
        lambda: device.call("ReissueUploadCredentials", upload_id="no"),
        lambda: device.call("AbortUpload", logical_upload_id="no"),
        lambda: device.call("CompleteUpload", upload_id="no"),
        lambda: device.create(restart_from_upload_id="no"),
    ):
        refused(call, "NOT_FOUND", "DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_FOUND")


def test_a_restart_ends_the_old_session_and_takes_the_part_size_of_its_own(
    cloud: DevCloud, device: PlatformClient
) -> None:
    old = device.create()
    cloud.terms.part_size_bytes = 5 * MIB
    new = device.create(restart_from_upload_id=old.upload_id)
    assert new.credentials.part_size_bytes == 5 * MIB
    assert new.credentials.object_key != old.credentials.object_key
    recovery = device.recovery(old)
    assert (recovery.logical_upload_status, recovery.next_action) == (TERMINAL, ABORT)
    refused(
        lambda: device.create(restart_from_upload_id=old.upload_id),
        "FAILED_PRECONDITION",
        "DATA_GATEWAY_ERROR_CODE_FAILED_PRECONDITION",
    )


def test_an_aborted_session_gives_no_more_leases_and_says_why(device: PlatformClient) -> None:
    session = device.create()
    for _ in range(2):
        answer = device.call(
            "AbortUpload", logical_upload_id=session.logical_upload_id, reason="given up"
        )
        assert answer.upload_id == session.upload_id
    recovery = device.recovery(session)
    assert (recovery.logical_upload_status, recovery.next_action) == (TERMINAL, ABORT)
    assert (recovery.terminal_reason, recovery.can_refresh_credentials) == ("given up", False)
    refused(
        lambda: device.call("ReissueUploadCredentials", upload_id=session.upload_id),
        "FAILED_PRECONDITION",
        "DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_REFRESHABLE",
    )
    refused(
        lambda: device.complete(session, 1, '"x-1"'),
        "FAILED_PRECONDITION",
        "DATA_GATEWAY_ERROR_CODE_FAILED_PRECONDITION",
    )


def test_a_session_ends_by_itself_after_a_week(
    device: PlatformClient, clock: PlatformClock
) -> None:
    session = device.create()
    clock.now = device.recovery(session).session_expire_at_unix
    device.exchange()
    recovery = device.recovery(session)
    assert (recovery.next_action, recovery.terminal_reason) == (ABORT, "expired")


def test_a_reissued_lease_opens_the_same_place_and_is_counted(
    cloud: DevCloud, device: PlatformClient
) -> None:
    session = device.create()
    cloud.expire_leases()
    with pytest.raises(S3Error) as caught:
        upload(session, b"bytes")
    assert caught.value.code == "ExpiredToken"
    cloud.terms.reissued_part_size_bytes = 6 * MIB
    again = device.call("ReissueUploadCredentials", upload_id=session.upload_id)
    assert (again.upload_id, again.logical_upload_id) == (
        session.upload_id,
        session.logical_upload_id,
    )
    assert again.credentials.object_key == session.credentials.object_key
    assert again.credentials.part_size_bytes == 6 * MIB
    assert upload(again, b"bytes")
    assert cloud.read_object(session.credentials.object_key) == b"bytes"
    assert device.recovery(session).credential_refresh_count == 1


def test_a_lease_of_one_second_is_refused_when_it_is_over_and_a_fresh_one_is_not(
    tmp_path: Path,
) -> None:
    with DevCloud(tmp_path / "cloud", store="rclone", lease_seconds=1) as cloud:
        device = PlatformClient(cloud)
        with contextlib.closing(device.channel):
            session = device.create()
            assert session.credentials.sts_expire_at_unix - time.time() <= 2
            upload(session, b"bytes")
            place, client = session.credentials, s3(session.credentials)
            with pytest.raises(S3Error) as caught:
                read_for_ever(client, place.bucket, place.object_key)
            assert caught.value.code == "ExpiredToken"
            assert time.time() >= place.sts_expire_at_unix
            again = device.call("ReissueUploadCredentials", upload_id=session.upload_id)
            assert s3(again.credentials).stat_object(place.bucket, place.object_key).size == 5


# These tests check completion and recovery.


def test_a_stored_object_is_completed_once_and_the_same_words_again_change_nothing(
    cloud: DevCloud, device: PlatformClient
) -> None:
    session = device.create()
    etag = upload(session, b"bytes")
    told = device.recovery(session)
    assert (told.next_action, told.completed_part_count, told.oss_object_etag) == (
        COMPLETE_ONLY,
        1,
        etag,
    )
    for _ in range(2):
        device.complete(session, 5, etag)
    told = device.recovery(session)
    assert (told.logical_upload_status, told.completed_part_count, told.oss_object_etag) == (
        COMPLETED,
        1,
        etag,
    )
    assert cloud.sessions()[0].status == "COMPLETED"
    for call in (
        lambda: device.complete(
            session, 5, etag, raw_tags={DEVICE_TAG: "robot-1", RAW_FILE_TAG: "b.mcap"}
        ),
        lambda: device.call("AbortUpload", logical_upload_id=session.logical_upload_id),
        lambda: device.create(restart_from_upload_id=session.upload_id),
    ):
        refused(call, "FAILED_PRECONDITION", "DATA_GATEWAY_ERROR_CODE_FAILED_PRECONDITION")


def test_a_missing_object_is_refused_and_recovery_asks_for_a_restart(
    device: PlatformClient,
) -> None:
    session = device.create()
    refused(
        lambda: device.complete(session, 5, '"x-1"'),
        "FAILED_PRECONDITION",
        "DATA_GATEWAY_ERROR_CODE_FAILED_PRECONDITION",
    )
    recovery = device.recovery(session)
    assert (recovery.logical_upload_status, recovery.next_action) == (COMPLETING, RESTART)
    assert device.create(restart_from_upload_id=session.upload_id).upload_id != session.upload_id


def test_whatever_differs_from_the_stored_object_is_refused(device: PlatformClient) -> None:
    session = device.create()
    etag = upload(session, b"bytes")
    for wrong in (
        {"file_size": 6},
        {"oss_object_etag": etag.strip('"')},
        {"oss_object_etag": '"0123456789abcdef0123456789abcdef-1"'},
        {"completed_part_count": 2},
        {"part_size_bytes": 5 * MIB},
    ):
        refused(
            lambda wrong=wrong: device.complete(session, 5, etag, **wrong),
            "FAILED_PRECONDITION",
            "DATA_GATEWAY_ERROR_CODE_FAILED_PRECONDITION",
        )
        assert device.recovery(session).next_action == COMPLETE_ONLY
    device.complete(session, 5, etag)


RIGHT = {DEVICE_TAG: "robot-1", RAW_FILE_TAG: "a.mcap"}


WRONG_WORDS: dict[str, dict[str, Any]] = {
    "an empty file": {"file_size": 0},
    "no parts": {"completed_part_count": 0},
    "no ETag": {"oss_object_etag": ""},
    "no reserved tags": {"raw_tags": {}},
    "another device": {"raw_tags": RIGHT | {DEVICE_TAG: "robot-2"}},
    "no raw file": {"raw_tags": RIGHT | {RAW_FILE_TAG: ""}},
    "a raw file with a folder": {"raw_tags": RIGHT | {RAW_FILE_TAG: "folder/a.mcap"}},
    "an empty key": {"raw_tags": RIGHT | {"": "value"}},
    "a key of 65 bytes": {"raw_tags": RIGHT | {"k" * 65: "value"}},
    "a key of 33 letters and 66 bytes": {"raw_tags": RIGHT | {"é" * 33: "value"}},
    "a value of 2049 bytes": {"raw_tags": RIGHT | {"key": "v" * 2049}},
    "a value of 1025 letters and 2050 bytes": {"raw_tags": RIGHT | {"key": "é" * 1025}},
    "a line break in a value": {"raw_tags": RIGHT | {"key": "two\nlines"}},
    "a control character in a key": {"raw_tags": RIGHT | {"k\x7f": "value"}},
    "257 tags": {"raw_tags": RIGHT | {f"k{number}": "" for number in range(255)}},
}


def test_words_that_break_a_limit_are_refused_before_the_store_is_asked(
    cloud: DevCloud, device: PlatformClient
) -> None:
    session = device.create()
    for name, wrong in WRONG_WORDS.items():
        with pytest.raises(grpc.RpcError) as caught:
            device.complete(session, 5, '"x-1"', **wrong)
        error: Any = caught.value
        assert (name, error.code()) == (name, grpc.StatusCode.INVALID_ARGUMENT)
        assert error.details().startswith("DATA_GATEWAY_ERROR_CODE_INVALID_ARGUMENT: ")
    assert cloud.sessions()[0].status == "ACTIVE"


def test_tags_just_within_the_limits_are_taken(device: PlatformClient) -> None:
    session = device.create()
    etag = upload(session, b"bytes")
    tags = RIGHT | {"é" * 32: "é" * 1024} | {f"k{number}": "" for number in range(253)}
    device.complete(session, 5, etag, raw_tags=tags)


# These tests check starts and stops.


def test_gateway_and_store_come_back_where_they_were(
    cloud: DevCloud, device: PlatformClient
) -> None:
    session = device.create()
    urls = cloud.gateway_url, cloud.store_url
    cloud.stop_gateway()
    with pytest.raises(grpc.RpcError) as caught:
        device.recovery(session)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    cloud.start_gateway()
    cloud.stop_store()
    with pytest.raises(urllib3.exceptions.HTTPError):
        upload(session, b"bytes")
    other = PlatformClient(cloud)
    with contextlib.closing(other.channel):
        refused(
            lambda: other.recovery(session),
            "UNAVAILABLE",
            "DATA_GATEWAY_ERROR_CODE_STS_UNAVAILABLE",
        )
        cloud.start_store()
        assert (cloud.gateway_url, cloud.store_url) == urls
        other.complete(session, 5, upload(session, b"bytes"))


def test_a_restart_of_the_folder_keeps_ports_keys_sessions_leases_and_objects(
    tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "cloud"
    with DevCloud(folder, store=kind) as first:
        device = PlatformClient(first)
        with contextlib.closing(device.channel):
            session = device.create()
            etag = upload(session, b"bytes")
        files = [
            path.read_text()
            for path in (first.agent_files.profile_path, first.agent_files.config_path)
        ]
    with DevCloud(folder) as second:
        assert (second.gateway_url, second.store_url) == (first.gateway_url, first.store_url)
        assert [
            path.read_text()
            for path in (second.agent_files.profile_path, second.agent_files.config_path)
        ] == files
        assert second.objects() == [session.credentials.object_key]
        assert second.read_object(session.credentials.object_key) == b"bytes"
        assert (
            s3(session.credentials)
            .stat_object(session.credentials.bucket, second.objects()[0])
            .size
            == 5
        )
        again = PlatformClient(second)
        again.token = device.token
        with contextlib.closing(again.channel):
            again.complete(session, 5, etag)


def test_nothing_is_left_running_after_stop(tmp_path: Path, kind: str) -> None:
    threads, processes = set(threading.enumerate()), children()
    cloud = DevCloud(tmp_path / "cloud", store=kind)
    cloud.start()
    assert len(children()) > len(processes)
    cloud.stop()
    cloud.stop()
    assert children() == processes
    # gRPC keeps one thread of its own for the life of the process.
    assert [
        thread
        for thread in set(threading.enumerate()) - threads
        if "grpc" not in repr(thread).lower()
    ] == []
    for url in (cloud.gateway_url, cloud.store_url):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=5)


def test_a_cloud_whose_process_is_killed_takes_its_store_along(tmp_path: Path, kind: str) -> None:
    program = (
        "import sys; from pathlib import Path; from agent.devcloud.cloud import DevCloud\n"
        f"cloud = DevCloud(Path({str(tmp_path / 'cloud')!r}), store={kind!r}); cloud.start()\n"
        "print(flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 2
        os.kill(process.pid, signal.SIGKILL)
    survivors = psutil.wait_procs(family, timeout=20)[1]
    assert [member for member in survivors if member.status() != psutil.STATUS_ZOMBIE] == []


def test_the_files_for_an_agent_are_private_and_complete(cloud: DevCloud) -> None:
    for path in (
        cloud.agent_files.profile_path,
        cloud.agent_files.config_path,
        cloud.folder / "platform.json",
        cloud.folder / "cloud.json",
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    profiles = json.loads(cloud.agent_files.profile_path.read_text())
    assert profiles["version"] == 3
    assert set(profiles["endpoints"].values()) == {cloud.gateway_url}
    assert [entry["deviceId"] for entry in profiles["devices"]] == ["robot-1", "robot-2"]
    assert all(entry["apiKey"] and entry["tags"] for entry in profiles["devices"])
    text = cloud.agent_files.config_path.read_text()
    assert f'dp_config = "{cloud.agent_files.profile_path}"' in text
    assert f'roots = ["{cloud.agent_files.recordings}"]' in text
    assert 'device_id = "robot-1"' in text


def test_over_tls_gateway_and_store_are_trusted_by_the_folders_own_authority(
    tmp_path: Path,
) -> None:
    with DevCloud(tmp_path / "cloud", store="rclone", tls=True) as cloud:
        assert cloud.ca_file is not None
        assert f'tls_ca_file = "{cloud.ca_file}"' in cloud.agent_files.config_path.read_text()
        device = PlatformClient(cloud)
        with contextlib.closing(device.channel):
            session = device.create()
            assert "://" not in session.credentials.endpoint
            content = os.urandom(3 * MIB)
            device.complete(session, len(content), upload(session, content, cloud.ca_file))
        assert cloud.read_object(session.credentials.object_key) == content
        with pytest.raises(urllib3.exceptions.HTTPError):
            s3(session.credentials).stat_object(cloud.bucket, session.credentials.object_key)


def test_any_s3_server_can_stand_behind_the_gateway(tmp_path: Path) -> None:
    with servers.moto() as store, DevCloud(tmp_path / "cloud", store=store.with_keys) as cloud:
        device = PlatformClient(cloud)
        with contextlib.closing(device.channel):
            session = device.create()
            etag = upload(session, b"bytes")
            assert etag.endswith('-1"')
            device.complete(session, 5, etag)
        assert cloud.read_object(session.credentials.object_key) == b"bytes"
        assert store.secret_key not in cloud.store_kind


def test_a_cloud_with_a_name_is_reached_from_everywhere_and_others_from_this_machine_alone(
    tmp_path: Path,
) -> None:
    elsewhere = "127.0.0.2"
    with DevCloud(tmp_path / "open", store="rclone", tls=True, host="localhost") as cloud:
        device = PlatformClient(cloud)
        with contextlib.closing(device.channel):
            session = device.create()
            assert session.credentials.endpoint == cloud.store_url.removeprefix("https://")
            device.complete(session, 5, upload(session, b"bytes", cloud.ca_file))
        for url in (cloud.gateway_url, cloud.store_url):
            assert url.startswith("https://localhost:")
            socket.create_connection((elsewhere, int(url.rpartition(":")[2]))).close()
    with DevCloud(tmp_path / "closed", store="rclone") as cloud:
        for url in (cloud.gateway_url, cloud.store_url):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((elsewhere, int(url.rpartition(":")[2])))


def test_a_store_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="no program for the store 'ceph'"):
        DevCloud(tmp_path / "cloud", store="ceph").start()


# These tests check the recorder.


def test_the_recorder_writes_a_whole_mcap_whose_end_and_sidecar_come_last(tmp_path: Path) -> None:
    path = tmp_path / "robot" / "run-7.mcap"
    seen: list[tuple[int, bool]] = []

    def watch(_: float) -> None:
        head = path.read_bytes()
        assert not head.endswith(b"\x89MCAP0\r\n") or len(head) == 8
        seen.append((len(head), path.with_suffix(".json").exists()))

    recorder.record(path, seconds=2, mebibytes=4, pause=watch)
    sizes = [size for size, _ in seen]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3
    assert not any(sidecar for _, sidecar in seen)
    assert math.isclose(path.stat().st_size, 4 * MIB, rel_tol=0.05)
    reader = make_reader(io.BytesIO(path.read_bytes()), validate_crcs=True)
    assert {channel.topic for _, channel, _ in reader.iter_messages()} == {
        "/camera/front",
        "/imu",
        "/joint_states",
    }
    assert [(record.name, record.metadata) for record in reader.iter_metadata()] == [
        ("keystone", {"episode_id": "run-7"})
    ]
    assert json.loads(path.with_suffix(".json").read_text())["episode_id"] == "run-7"


def test_the_recorder_is_a_program(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    command = [
        sys.executable,
        "-m",
        "agent.devcloud.recorder",
        str(path),
        "--seconds",
        "0.1",
        "--mebibytes",
        "1",
    ]
    subprocess.run([*command, "--episode", "e-1", "--no-sidecar"], check=True, cwd=REPOSITORY)
    assert path.read_bytes().endswith(b"\x89MCAP0\r\n")
    assert not path.with_suffix(".json").exists()
