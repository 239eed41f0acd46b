"""Each fault between the agent and the platform, and what the fault may cost.

A fault costs no attempt, no byte and no second object.
"""

from __future__ import annotations

import grpc
import pytest

from agent.pb.data_gateway_pb2 import ReissueUploadCredentialsResponse
from tests.harness.faults import gateway_proxy as gateway
from tests.harness.faults.gateway_proxy import Call, Fault, altered, refused
from tests.harness.faults.rig import PART, Rig
from tests.harness.faults.script import FOREVER
from tests.harness.faults.store_proxy import says

CALLS = ["ExchangeCredential", "CreateLogicalUpload", "CompleteUpload"]
PORTAL = (
    b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n"
    b"Content-Type: text/html\r\nContent-Length: 0\r\n\r\n"
)

# GOAWAY with this stream id: all open streams are still answered.
GRACEFUL = 2**31 - 1
ENHANCE_YOUR_CALM = 11
impatient = pytest.mark.parametrize("timeout", [1.0])


def test_refused(rig: Rig) -> None:
    rig.gateway.link.port.refuse()
    rig.start()
    assert rig.closed("refused").kind == "offline"
    rig.gateway.link.port.accept()
    rig.completed()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", [gateway.cut_before, gateway.cut_after])
def test_reset(rig: Rig, call: str, fault: Fault) -> None:
    rig.gateway.script.on(call, fault=fault)
    rig.start()
    # CreateLogicalUpload can not be repeated: the platform then has two sessions.
    lost = call == "CreateLogicalUpload" and fault is gateway.cut_after
    rig.completed(sessions=2 if lost else 1)


@impatient
@pytest.mark.parametrize("call", CALLS)
def test_black_hole(rig: Rig, call: str) -> None:
    rig.gateway.script.on(call, fault=gateway.silence)
    rig.start()
    rig.completed()


@impatient
def test_black_hole_that_lasts(rig: Rig) -> None:
    rig.gateway.script.on("CreateLogicalUpload", fault=_swallow)
    rig.start()
    assert rig.closed("DEADLINE_EXCEEDED").kind == "offline"
    rig.gateway.link.mend()
    rig.completed()


def _swallow(call: Call) -> bytes:
    call.link.black_hole()
    return gateway.silence(call)


@impatient
def test_one_byte_a_second(rig: Rig) -> None:
    rig.gateway.script.on("CompleteUpload", fault=_drip)
    rig.start()
    assert rig.closed("DEADLINE_EXCEEDED").kind == "offline"
    rig.gateway.link.mend()
    rig.completed()


def _drip(call: Call) -> bytes:
    call.link.drip(1)
    return call.forward()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("last_stream", [0, GRACEFUL])
def test_goaway(rig: Rig, call: str, last_stream: int) -> None:
    def leave(asked: Call) -> bytes:
        asked.link.go_away(last_stream)
        return asked.forward() if last_stream else gateway.silence(asked)

    rig.gateway.script.on(call, fault=leave)
    rig.start()
    rig.completed()
    # These calls need another connection.
    more = last_stream == 0 or call != CALLS[-1]
    assert rig.gateway.link.connections == 1 + more


def test_goaway_because_of_too_many_pings(rig: Rig) -> None:
    def leave(call: Call) -> bytes:
        call.link.go_away(GRACEFUL, ENHANCE_YOUR_CALM)
        return gateway.cut_before(call)

    rig.gateway.script.on("CompleteUpload", fault=leave)
    rig.start()
    rig.completed()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ],
)
def test_error_of_the_server(rig: Rig, call: str, status: grpc.StatusCode) -> None:
    rig.gateway.script.on(call, fault=refused(status), times=FOREVER)
    rig.start()
    assert rig.closed(status.name).kind == "offline"
    rig.gateway.script.mend()
    rig.completed()


@pytest.mark.parametrize("call", CALLS)
def test_internal_error_for_everybody(rig: Rig, call: str) -> None:
    rig.gateway.script.on(
        call, fault=refused(grpc.StatusCode.INTERNAL, "INTERNAL_ERROR: oops"), times=FOREVER
    )
    rig.start()
    assert rig.closed("INTERNAL_ERROR").kind == "offline"
    rig.gateway.script.mend()
    rig.completed()


@pytest.mark.parametrize("call", ["CreateLogicalUpload", "CompleteUpload"])
def test_unauthenticated(rig: Rig, call: str) -> None:
    rig.gateway.script.on(call, fault=refused(grpc.StatusCode.UNAUTHENTICATED))
    rig.start()
    rig.completed()
    assert rig.gateway.seen["ExchangeCredential"] == 2
    assert rig.gateway.seen[call] == 2


@pytest.mark.parametrize("call", ["CreateLogicalUpload", "CompleteUpload"])
def test_unauthenticated_with_a_new_token_too(rig: Rig, call: str) -> None:
    rig.gateway.script.on(call, fault=refused(grpc.StatusCode.UNAUTHENTICATED), times=FOREVER)
    rig.start()
    assert rig.closed("UNAUTHENTICATED").kind == "blocked"
    rig.gateway.script.mend()
    rig.completed()


def test_key_disabled(rig: Rig) -> None:
    rig.cloud.disable_key("robot-1")
    rig.start()
    assert rig.closed("KEY_DISABLED").kind == "blocked"
    rig.cloud.enable_key("robot-1")
    rig.completed()


@pytest.mark.parametrize(
    "fault",
    [
        gateway.cut_after,
        refused(grpc.StatusCode.UNAVAILABLE, after=True),
        refused(grpc.StatusCode.DEADLINE_EXCEEDED, after=True),
        refused(grpc.StatusCode.INTERNAL, after=True),
    ],
)
def test_lost_answer_of_complete_upload(rig: Rig, fault: Fault) -> None:
    rig.gateway.script.on("CompleteUpload", fault=fault)
    rig.start()
    rig.completed()


def test_lost_answers_of_complete_upload_until_it_is_asked_how_far_it_came(rig: Rig) -> None:
    fault = refused(grpc.StatusCode.UNAVAILABLE, after=True)
    rig.gateway.script.on("CompleteUpload", fault=fault, times=FOREVER)
    rig.start()
    rig.completed()
    assert rig.gateway.seen["GetUploadRecovery"] == 1


@pytest.mark.parametrize("call", ["CompleteUpload", "ExchangeCredential"])
def test_duplicate_requests(rig: Rig, call: str) -> None:
    rig.gateway.script.on(call, fault=gateway.twice)
    rig.start()
    rig.completed()


@pytest.mark.parametrize("field", ["bucket", "endpoint", "object_key"])
def test_wrong_place_in_a_reissued_lease(rig: Rig, field: str) -> None:
    def lie(answer: ReissueUploadCredentialsResponse) -> None:
        setattr(answer.credentials, field, "elsewhere")

    rig.store.script.on("UploadPart", fault=says(400, "ExpiredToken"), nth=2)
    rig.gateway.script.on(
        "ReissueUploadCredentials",
        fault=altered(ReissueUploadCredentialsResponse, lie),
        times=FOREVER,
    )
    rig.start()
    closed = rig.closed("lying_server")
    assert closed.kind == "blocked"
    assert field in closed.reason
    rig.gateway.script.mend()
    rig.completed(again=PART)


def test_captive_portal(rig: Rig) -> None:
    rig.gateway.link.say(PORTAL)
    rig.start()
    closed = rig.wait(rig.app.gate.closed)
    assert closed is not None
    assert closed.kind == "offline"
    rig.closed(closed.code)
    rig.gateway.link.mend()
    rig.completed()
