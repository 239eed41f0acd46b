"""Each fault between the agent and the platform, and what the fault may cost.

A fault costs no attempt, no byte and no second object.
"""

from __future__ import annotations

import grpc
import pytest

from agent.pb.data_gateway_pb2 import ReissueUploadCredentialsResponse
from tests.harness.faults import gateway_proxy
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


def test_refused(testbed: Rig) -> None:
    testbed.gateway.link.port.refuse()
    testbed.start()
    assert testbed.closed("refused").kind == "offline"
    testbed.gateway.link.port.accept()
    testbed.completed()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fault", [gateway_proxy.cut_before, gateway_proxy.cut_after])
def test_reset(testbed: Rig, call: str, fault: Fault) -> None:
    testbed.gateway.script.on(call, fault=fault)
    testbed.start()
    # CreateLogicalUpload can not be repeated: the platform then has two sessions.
    lost = call == "CreateLogicalUpload" and fault is gateway_proxy.cut_after
    testbed.completed(sessions=2 if lost else 1)


@impatient
@pytest.mark.parametrize("call", CALLS)
def test_black_hole(testbed: Rig, call: str) -> None:
    testbed.gateway.script.on(call, fault=gateway_proxy.silence)
    testbed.start()
    testbed.completed()


@impatient
def test_black_hole_that_lasts(testbed: Rig) -> None:
    testbed.gateway.script.on("CreateLogicalUpload", fault=_swallow)
    testbed.start()
    assert testbed.closed("DEADLINE_EXCEEDED").kind == "offline"
    testbed.gateway.link.mend()
    testbed.completed()


def _swallow(call: Call) -> bytes:
    call.link.black_hole()
    return gateway_proxy.silence(call)


@impatient
def test_one_byte_a_second(testbed: Rig) -> None:
    testbed.gateway.script.on("CompleteUpload", fault=_drip)
    testbed.start()
    assert testbed.closed("DEADLINE_EXCEEDED").kind == "offline"
    testbed.gateway.link.mend()
    testbed.completed()


def _drip(call: Call) -> bytes:
    call.link.drip(1)
    return call.forward()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("last_stream", [0, GRACEFUL])
def test_goaway(testbed: Rig, call: str, last_stream: int) -> None:
    def leave(call: Call) -> bytes:
        call.link.go_away(last_stream)
        return call.forward() if last_stream else gateway_proxy.silence(call)

    testbed.gateway.script.on(call, fault=leave)
    testbed.start()
    testbed.completed()
    # These calls need another connection.
    more = last_stream == 0 or call != CALLS[-1]
    assert testbed.gateway.link.connections == 1 + more


def test_goaway_because_of_too_many_pings(testbed: Rig) -> None:
    def leave(call: Call) -> bytes:
        call.link.go_away(GRACEFUL, ENHANCE_YOUR_CALM)
        return gateway_proxy.cut_before(call)

    testbed.gateway.script.on("CompleteUpload", fault=leave)
    testbed.start()
    testbed.completed()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    ],
)
def test_error_of_the_server(testbed: Rig, call: str, status: grpc.StatusCode) -> None:
    testbed.gateway.script.on(call, fault=refused(status), times=FOREVER)
    testbed.start()
    assert testbed.closed(status.name).kind == "offline"
    testbed.gateway.script.mend()
    testbed.completed()


@pytest.mark.parametrize("call", CALLS)
def test_internal_error_for_everybody(testbed: Rig, call: str) -> None:
    testbed.gateway.script.on(
        call, fault=refused(grpc.StatusCode.INTERNAL, "INTERNAL_ERROR: oops"), times=FOREVER
    )
    testbed.start()
    assert testbed.closed("INTERNAL_ERROR").kind == "offline"
    testbed.gateway.script.mend()
    testbed.completed()


@pytest.mark.parametrize("call", ["CreateLogicalUpload", "CompleteUpload"])
def test_unauthenticated(testbed: Rig, call: str) -> None:
    testbed.gateway.script.on(call, fault=refused(grpc.StatusCode.UNAUTHENTICATED))
    testbed.start()
    testbed.completed()
    assert testbed.gateway.seen["ExchangeCredential"] == 2
    assert testbed.gateway.seen[call] == 2


@pytest.mark.parametrize("call", ["CreateLogicalUpload", "CompleteUpload"])
def test_unauthenticated_with_a_new_token_too(testbed: Rig, call: str) -> None:
    testbed.gateway.script.on(call, fault=refused(grpc.StatusCode.UNAUTHENTICATED), times=FOREVER)
    testbed.start()
    assert testbed.closed("UNAUTHENTICATED").kind == "blocked"
    testbed.gateway.script.mend()
    testbed.completed()


def test_key_disabled(testbed: Rig) -> None:
    testbed.cloud.disable_key("robot-1")
    testbed.start()
    assert testbed.closed("KEY_DISABLED").kind == "blocked"
    testbed.cloud.enable_key("robot-1")
    testbed.completed()


@pytest.mark.parametrize(
    "fault",
    [
        gateway_proxy.cut_after,
        refused(grpc.StatusCode.UNAVAILABLE, after=True),
        refused(grpc.StatusCode.DEADLINE_EXCEEDED, after=True),
        refused(grpc.StatusCode.INTERNAL, after=True),
    ],
)
def test_lost_answer_of_complete_upload(testbed: Rig, fault: Fault) -> None:
    testbed.gateway.script.on("CompleteUpload", fault=fault)
    testbed.start()
    testbed.completed()


def test_lost_answers_of_complete_upload_until_it_is_asked_how_far_it_came(testbed: Rig) -> None:
    fault = refused(grpc.StatusCode.UNAVAILABLE, after=True)
    testbed.gateway.script.on("CompleteUpload", fault=fault, times=FOREVER)
    testbed.start()
    testbed.completed()
    assert testbed.gateway.seen["GetUploadRecovery"] == 1


@pytest.mark.parametrize("call", ["CompleteUpload", "ExchangeCredential"])
def test_duplicate_requests(testbed: Rig, call: str) -> None:
    testbed.gateway.script.on(call, fault=gateway_proxy.twice)
    testbed.start()
    testbed.completed()


@pytest.mark.parametrize("field", ["bucket", "endpoint", "object_key"])
def test_wrong_place_in_a_reissued_lease(testbed: Rig, field: str) -> None:
    def lie(answer: ReissueUploadCredentialsResponse) -> None:
        setattr(answer.credentials, field, "elsewhere")

    testbed.store.script.on("UploadPart", fault=says(400, "ExpiredToken"), nth=2)
    testbed.gateway.script.on(
        "ReissueUploadCredentials",
        fault=altered(ReissueUploadCredentialsResponse, lie),
        times=FOREVER,
    )
    testbed.start()
    closed = testbed.closed("lying_server")
    assert closed.kind == "blocked"
    assert field in closed.reason
    testbed.gateway.script.mend()
    testbed.completed(again=PART)


def test_captive_portal(testbed: Rig) -> None:
    testbed.gateway.link.say(PORTAL)
    testbed.start()
    closed = testbed.wait(testbed.app.gate.closed)
    assert closed is not None
    assert closed.kind == "offline"
    testbed.closed(closed.code)
    testbed.gateway.link.mend()
    testbed.completed()
