"""Tests of GrpcGateway, and the contract that FakeGateway keeps as well.

GrpcGateway calls the embedded cloud and a server that gives wrong answers.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from agent.adapters.clock import RealClock
from agent.adapters.gateway import GrpcGateway
from agent.adapters.profiles import ProfileFile
from agent.adapters.store import MinioStore
from agent.devcloud.cloud import DevCloud
from agent.model.errors import CloudError, judge
from agent.model.transfer import DEFAULT_PART_SIZE
from agent.model.values import AccessToken, DeviceProfile
from agent.pb import auth_pb2, auth_pb2_grpc, common_pb2, data_gateway_pb2, data_gateway_pb2_grpc
from tests.contracts.gateway import LOG, GatewayContract, PlatformUnderTest
from tests.harness import s3_servers as servers
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.gateway import PROFILE, FakeGateway
from tests.harness.fakes.store import FakeStore
from tests.harness.shortages import no_descriptors

TOKEN = AccessToken("token-of-this-device", 0.0)


class TestFakeGateway(GatewayContract):
    @pytest.fixture
    def platform(self) -> PlatformUnderTest:
        store = FakeStore()
        other = DeviceProfile("robot-2", "api-key-2", {"site": "here"}, "", "")
        gateway = FakeGateway(store, FakeClock(), PROFILE, other)
        return PlatformUnderTest(
            gateway, store, PROFILE, other, gateway.expire_tokens, gateway.expire_leases
        )


@pytest.fixture(scope="module", params=["wrapped", "raw", "none", "tls"])
def cloud(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PlatformUnderTest]:
    kind = request.param
    folder = tmp_path_factory.mktemp("cloud")
    options: dict[str, Any] = {"tls": True} if kind == "tls" else {"details": kind}
    with DevCloud(folder, store="rclone", devices=("robot-1", "robot-2"), **options) as running:
        ca_file = str(running.ca_file or "")
        gateway = GrpcGateway(timeout_seconds=10, ca_file=ca_file)
        store = MinioStore(clock=RealClock(), ca_file=ca_file)
        profiles = ProfileFile(running.agent_files.profile_path).load()
        yield PlatformUnderTest(
            gateway,
            store,
            profiles["robot-1"],
            profiles["robot-2"],
            running.expire_tokens,
            running.expire_leases,
        )
        gateway.close()
        store.close()


class TestGrpcGateway(GatewayContract):
    @pytest.fixture
    def platform(self, cloud: PlatformUnderTest) -> PlatformUnderTest:
        return cloud


class ScriptedGateway:
    """A gateway server whose every answer is set by the test."""

    def __init__(self) -> None:
        self.answer: Callable[[Any, grpc.ServicerContext], Any] = lambda _request, _context: None
        self.seen: list[tuple[Any, dict[str, Any]]] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        data_gateway_pb2_grpc.add_DataGatewayServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call] # generated code
        auth_pb2_grpc.add_AuthServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call] # generated code
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def __getattr__(self, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)
        return self._say

    def _say(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.seen.append((request, dict(context.invocation_metadata())))
        return self.answer(request, context)

    def stop(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def script() -> Iterator[ScriptedGateway]:
    script = ScriptedGateway()
    yield script
    script.stop()


@pytest.fixture
def gateway() -> Iterator[GrpcGateway]:
    gateway = GrpcGateway(timeout_seconds=5)
    yield gateway
    gateway.close()


def at(endpoint: str) -> DeviceProfile:
    return DeviceProfile("robot-1", "the-api-key", {"a": "b"}, endpoint, endpoint)


def at_script(script: ScriptedGateway) -> DeviceProfile:
    return at(f"127.0.0.1:{script.port}")


def test_a_call_carries_the_bearer_token_and_what_is_asked(
    script: ScriptedGateway, gateway: GrpcGateway
) -> None:
    script.answer = lambda _request, _context: data_gateway_pb2.AbortUploadResponse()
    gateway.abort(at_script(script), TOKEN, "logical", "why")
    request, metadata = script.seen[0]
    assert metadata["authorization"] == f"Bearer {TOKEN.value}"
    assert (request.logical_upload_id, request.reason) == ("logical", "why")


def test_the_token_service_gets_no_metadata_of_ours(
    script: ScriptedGateway, gateway: GrpcGateway
) -> None:
    script.answer = lambda _request, _context: auth_pb2.ExchangeCredentialResponse(
        access_token="t",  # noqa: S106 - a test's token
        expires_at_unix=5,
    )
    token = gateway.exchange(at_script(script))
    assert (token.value, token.expires_at) == ("t", 5.0)
    assert "authorization" not in script.seen[0][1]


@pytest.mark.parametrize("name", ["DATA_GATEWAY_ERROR_CODE_UPLOAD_NOT_OWNED", "UPLOAD_NOT_OWNED"])
@pytest.mark.parametrize("form", ["wrapped", "raw", "message"])
def test_the_platforms_code_is_found_in_each_form(
    script: ScriptedGateway, gateway: GrpcGateway, name: str, form: str
) -> None:
    def answer(_request: Any, context: grpc.ServicerContext) -> Any:
        detail = common_pb2.ErrorDetail(code=name, message="no")
        packed = AnyMessage()
        packed.Pack(detail)
        inner = packed.SerializeToString()
        raw = {
            "raw": detail.SerializeToString(),
            # These bytes are a google.rpc.Status. Its fields are 1 code, 2 message, 3 details.
            "wrapped": b"\x08\x07\x12\x02no\x1a" + bytes([len(inner)]) + inner,
        }
        if form in raw:
            context.set_trailing_metadata([("grpc-status-details-bin", raw[form])])
        context.abort(
            grpc.StatusCode.PERMISSION_DENIED, f"{name}: no" if form == "message" else "no"
        )

    script.answer = answer
    with pytest.raises(CloudError) as raised:
        gateway.recover(at_script(script), TOKEN, "logical")
    assert (raised.value.call, raised.value.code) == ("GetUploadRecovery", "UPLOAD_NOT_OWNED")


@pytest.mark.parametrize(
    "status", [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK]
)
def test_without_a_code_of_the_platform_grpcs_own_is_the_code(
    script: ScriptedGateway, gateway: GrpcGateway, status: grpc.StatusCode
) -> None:
    script.answer = lambda _request, context: context.abort(
        status, "stream closed with INTERNAL_ERROR"
    )
    with pytest.raises(CloudError) as raised:
        gateway.recover(at_script(script), TOKEN, "logical")
    expected = "UPLOAD_NOT_FOUND" if status is grpc.StatusCode.NOT_FOUND else status.name
    assert raised.value.code == expected


@pytest.mark.parametrize("raw", [b"\xff\xff", b"", b"\x1a\x02\xff\xff", b"\x0a\x02\xff\xfe"])
def test_details_that_are_rubbish_leave_grpcs_own_code(
    script: ScriptedGateway, gateway: GrpcGateway, raw: bytes
) -> None:
    def answer(_request: Any, context: grpc.ServicerContext) -> Any:
        context.set_trailing_metadata([("grpc-status-details-bin", raw)])
        context.abort(grpc.StatusCode.INTERNAL, "no")

    script.answer = answer
    with pytest.raises(CloudError) as raised:
        gateway.recover(at_script(script), TOKEN, "logical")
    assert raised.value.code == "INTERNAL"


def test_secrets_that_a_server_repeats_stay_out_of_the_error(
    script: ScriptedGateway, gateway: GrpcGateway
) -> None:
    script.answer = lambda _request, context: context.abort(
        grpc.StatusCode.UNAUTHENTICATED, f"bad {TOKEN.value} the-api-key"
    )
    with pytest.raises(CloudError) as raised:
        gateway.recover(at_script(script), TOKEN, "logical")
    assert TOKEN.value not in str(raised.value)
    with pytest.raises(CloudError) as raised:
        gateway.exchange(at_script(script))
    assert "the-api-key" not in str(raised.value)


def _full_grant(**changes: Any) -> data_gateway_pb2.CreateLogicalUploadResponse:
    credentials = {
        "bucket": "b",
        "endpoint": "e:1",
        "object_key": "k",
        "sts_access_key_id": "a",
        "sts_access_key_secret": "s",
        "sts_security_token": "t",
        "sts_expire_at_unix": 7,
        **{name: value for name, value in changes.items() if not name.endswith("upload_id")},
    }
    ids = {"logical_upload_id": "l", "upload_id": "u"}
    return data_gateway_pb2.CreateLogicalUploadResponse(
        **{**ids, **{name: value for name, value in changes.items() if name in ids}},
        credentials=data_gateway_pb2.UploadCredentials(**credentials),
    )


@pytest.mark.parametrize(
    "missing",
    [
        "logical_upload_id",
        "upload_id",
        "bucket",
        "endpoint",
        "object_key",
        "sts_access_key_id",
        "sts_access_key_secret",
    ],
)
def test_an_answer_without_something_needed_is_a_lie(
    script: ScriptedGateway, gateway: GrpcGateway, missing: str
) -> None:
    script.answer = lambda _request, _context: _full_grant(**{missing: ""})
    with pytest.raises(CloudError) as raised:
        gateway.create(at_script(script), TOKEN, LOG)
    assert raised.value.code == "lying_server"
    assert missing in str(raised.value)


def test_a_session_is_asked_for_with_the_episode_and_who_uploads(
    script: ScriptedGateway, gateway: GrpcGateway
) -> None:
    script.answer = lambda _request, _context: _full_grant()
    gateway.create(at_script(script), TOKEN, LOG, "upload-before")
    request, _ = script.seen[0]
    assert dict(request.client_hints) == {"episode_id": LOG.episode_id, "source": "keystone-agent"}
    assert request.restart_from_upload_id == "upload-before"


@pytest.mark.parametrize(
    ("told", "means"), [(0, DEFAULT_PART_SIZE), (-1, DEFAULT_PART_SIZE), (5, 5)]
)
def test_a_part_size_that_is_none_means_eight_mebibytes(
    script: ScriptedGateway, gateway: GrpcGateway, told: int, means: int
) -> None:
    script.answer = lambda _request, _context: _full_grant(part_size_bytes=told)
    assert gateway.create(at_script(script), TOKEN, LOG).session.part_size_bytes == means


def test_numbers_that_the_platform_adds_later_are_unspecified(
    script: ScriptedGateway, gateway: GrpcGateway
) -> None:
    # These bytes hold enums of the value 99, and an unknown field 111.
    later = b"\x0a\x07logical" + b"\x10\x63" + b"\x60\x63" + b"\xfa\x06\x01x"
    script.answer = lambda _request, _context: (
        data_gateway_pb2.GetUploadRecoveryResponse.FromString(later)
    )
    known = gateway.recover(at_script(script), TOKEN, "logical")
    assert (known.stage, known.action) == ("unspecified", "unspecified")


def test_an_answer_about_another_session_is_a_lie(
    script: ScriptedGateway, gateway: GrpcGateway
) -> None:
    script.answer = lambda _request, _context: data_gateway_pb2.GetUploadRecoveryResponse(
        logical_upload_id="other"
    )
    with pytest.raises(CloudError) as raised:
        gateway.recover(at_script(script), TOKEN, "logical")
    assert raised.value.code == "lying_server"


def test_a_token_that_no_header_can_carry_is_a_lie(
    script: ScriptedGateway, gateway: GrpcGateway
) -> None:
    script.answer = lambda _request, _context: auth_pb2.ExchangeCredentialResponse(
        access_token="a\nb"  # noqa: S106 - a test's token
    )
    with pytest.raises(CloudError) as raised:
        gateway.exchange(at_script(script))
    assert raised.value.code == "lying_server"


def test_an_answer_of_more_than_a_mebibyte_is_not_taken(
    script: ScriptedGateway, gateway: GrpcGateway
) -> None:
    def of(size: int) -> None:
        answer = auth_pb2.ExchangeCredentialResponse(access_token="t" * size)
        script.answer = lambda _request, _context: answer

    of(1_000_000)
    assert len(gateway.exchange(at_script(script)).value) == 1_000_000
    of(1_100_000)
    with pytest.raises(CloudError) as raised:
        gateway.exchange(at_script(script))
    assert raised.value.code == "RESOURCE_EXHAUSTED"
    assert judge(raised.value).kind == "offline"


def test_text_that_is_no_utf8_is_an_invalid_argument(gateway: GrpcGateway) -> None:
    with pytest.raises(CloudError) as raised:
        gateway.create(at("127.0.0.1:1"), TOKEN, replace(LOG, episode_id="\udcff"))
    assert raised.value.code == "INVALID_ARGUMENT"


def test_a_port_where_nobody_listens_is_refused(gateway: GrpcGateway) -> None:
    with socket.socket() as taken:
        # The socket is bound but does not listen.
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(CloudError) as raised:
            gateway.recover(at(f"127.0.0.1:{taken.getsockname()[1]}"), TOKEN, "logical")
    assert raised.value.code == "refused"


def test_a_name_that_does_not_resolve_is_dns(gateway: GrpcGateway) -> None:
    with pytest.raises(CloudError) as raised:
        gateway.recover(at("http://no-such-host.invalid:1"), TOKEN, "logical")
    assert raised.value.code == "dns"


def test_an_answer_that_does_not_come_in_time_is_a_deadline(script: ScriptedGateway) -> None:
    given_up = threading.Event()

    def answer(_request: Any, context: grpc.ServicerContext) -> Any:
        if context.add_callback(given_up.set):
            given_up.wait(30)
        return data_gateway_pb2.GetUploadRecoveryResponse()

    script.answer = answer
    impatient = GrpcGateway(timeout_seconds=0.2)
    with pytest.raises(CloudError) as raised:
        impatient.recover(at_script(script), TOKEN, "logical")
    impatient.close()
    assert raised.value.code == "DEADLINE_EXCEEDED"


def test_a_certificate_nobody_vouches_for_is_told_apart(tmp_path: Path) -> None:
    certificate = servers.certificate(tmp_path)
    server = grpc.server(ThreadPoolExecutor(1))
    pair = (certificate.key_file.read_bytes(), certificate.cert_file.read_bytes())
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    stranger = GrpcGateway(timeout_seconds=5)
    with pytest.raises(CloudError) as raised:
        stranger.recover(at(f"https://127.0.0.1:{port}"), TOKEN, "logical")
    stranger.close()
    server.stop(None).wait()
    assert raised.value.code == "certificate"


def test_after_close_a_call_is_cancelled(script: ScriptedGateway, gateway: GrpcGateway) -> None:
    script.answer = lambda _request, _context: data_gateway_pb2.AbortUploadResponse()
    gateway.abort(at_script(script), TOKEN, "logical", "why")
    gateway.close()
    with pytest.raises(CloudError) as raised:
        gateway.abort(at_script(script), TOKEN, "logical", "why")
    assert raised.value.code == "CANCELLED"


def test_a_proxy_in_the_environment_is_not_asked(
    script: ScriptedGateway, gateway: GrpcGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    script.answer = lambda _request, _context: data_gateway_pb2.AbortUploadResponse()
    gateway.abort(at_script(script), TOKEN, "logical", "why")
    assert len(script.seen) == 1


def test_after_a_minute_without_a_call_it_hangs_up_and_the_next_call_connects_anew(
    script: ScriptedGateway, gateway: GrpcGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.answer = lambda *_: data_gateway_pb2.AbortUploadResponse()
    gateway.abort(at_script(script), TOKEN, "logical", "why")
    channels = dict(gateway._channels)
    gateway.rest()
    assert gateway._channels == channels
    monkeypatch.setattr("agent.adapters.gateway._IDLE_SECONDS", -1.0)
    gateway.rest()
    assert gateway._channels == {}
    gateway.abort(at_script(script), TOKEN, "logical", "why")
    assert len(script.seen) == 2


def test_it_does_not_hang_up_on_a_call_that_lasts(
    script: ScriptedGateway, gateway: GrpcGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_request: Any, _context: grpc.ServicerContext) -> Any:
        gateway.rest()
        return data_gateway_pb2.AbortUploadResponse()

    monkeypatch.setattr("agent.adapters.gateway._IDLE_SECONDS", -1.0)
    script.answer = answer
    gateway.abort(at_script(script), TOKEN, "logical", "why")
    assert len(script.seen) == 1


def test_once_closed_it_connects_no_more_though_it_had_hung_up(
    script: ScriptedGateway, gateway: GrpcGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.adapters.gateway._IDLE_SECONDS", -1.0)
    gateway.rest()
    gateway.close()
    with pytest.raises(CloudError) as raised:
        gateway.abort(at_script(script), TOKEN, "logical", "why")
    assert raised.value.code == "CANCELLED"


def test_what_nobody_foresaw_in_a_call_is_an_error_of_that_call_without_a_secret(
    script: ScriptedGateway, gateway: GrpcGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def surprise(*_arguments: object) -> CloudError:
        raise LookupError(f"nobody foresaw {TOKEN.value}")

    script.answer = lambda _request, context: context.abort(grpc.StatusCode.INTERNAL, "no")
    monkeypatch.setattr("agent.adapters.gateway.translated", surprise)
    with pytest.raises(CloudError) as raised:
        gateway.recover(at_script(script), TOKEN, "logical")
    assert raised.value.message == "GetUploadRecovery: unexpected_answer: LookupError"
    assert judge(raised.value).kind == "counted"


def test_a_robot_without_descriptors_says_so_and_goes_on_when_it_has_some(
    script: ScriptedGateway, gateway: GrpcGateway
) -> None:
    script.answer = lambda _request, _context: data_gateway_pb2.AbortUploadResponse()
    with pytest.raises(CloudError) as raised, no_descriptors():
        gateway.abort(at_script(script), TOKEN, "logical", "why")
    assert (raised.value.call, raised.value.code) == ("AbortUpload", "out_of_descriptors")


def test_a_robot_without_threads_says_so(
    gateway: GrpcGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> grpc.Channel:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(grpc, "insecure_channel", refuse)
    with pytest.raises(CloudError) as raised:
        gateway.exchange(at("http://127.0.0.1:9"))
    assert (raised.value.call, raised.value.code) == ("ExchangeCredential", "out_of_threads")
