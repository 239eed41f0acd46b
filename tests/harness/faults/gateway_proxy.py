"""A gRPC proxy that passes on calls as bytes, and applies the faults of its script to some."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from tests.harness.faults.script import Script
from tests.harness.faults.tcp_faults import GrpcLink

_Answer = TypeVar("_Answer", bound=Message)
_OURS = ("authorization",)


@dataclass(frozen=True)
class Call:
    """One call on its way to the gateway.

    ``forward`` lets the real gateway answer. If it refuses the call, the proxy refuses it, too.
    """

    name: str
    forward: Callable[[], bytes]
    context: grpc.ServicerContext
    link: GrpcLink


Fault = Callable[[Call], bytes]


class GatewayProxy(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A running proxy in front of a gateway. ``link`` is the connection between agent and proxy."""

    def __init__(self, gateway_port: int) -> None:
        self.script: Script[Fault] = Script()
        self.seen: Counter[str] = Counter()
        self._channel = grpc.insecure_channel(
            f"127.0.0.1:{gateway_port}", [("grpc.enable_http_proxy", 0)]
        )
        self._pool = ThreadPoolExecutor(16)
        self._server = grpc.server(self._pool, [self], options=[("grpc.so_reuseport", 0)])
        self.link = GrpcLink(self._server.add_insecure_port("127.0.0.1:0"))
        self._server.start()
        self.url = f"http://127.0.0.1:{self.link.port.number}"

    def service(self, details: Any) -> Any:
        """Return a handler that takes and returns bytes, for any method."""
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._answer(details.method, request, context)
        )

    def stop(self) -> None:
        """Stop the server and close all connections."""
        self.link.stop()
        self._server.stop(None).wait()
        self._pool.shutdown()
        self._channel.close()

    def _answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        name = method.rpartition("/")[2]
        self.seen[name] += 1
        metadata = [(key, value) for key, value in context.invocation_metadata() if key in _OURS]

        def forward() -> bytes:
            try:
                return bytes(
                    self._channel.unary_unary(method)(request, metadata=metadata, timeout=10)
                )
            except grpc.RpcError as error:
                context.set_trailing_metadata(error.trailing_metadata())
                context.abort(error.code(), error.details())
                # This line is never reached, because abort() raises.
                raise AssertionError from None

        call = Call(name, forward, context, self.link)
        fault = self.script.due(name)
        return forward() if fault is None else fault(call)


def refused(status: grpc.StatusCode, text: str = "injected", *, after: bool = False) -> Fault:
    """The call fails. With ``after`` the gateway has done it, and only its answer is lost."""

    def act(call: Call) -> bytes:
        if after:
            call.forward()
        call.context.abort(status, text)
        raise AssertionError

    return act


def twice(call: Call) -> bytes:
    """The gateway gets the request twice, and its second answer is returned."""
    call.forward()
    return call.forward()


def cut_after(call: Call) -> bytes:
    """The gateway has done the call, but the connection breaks before its answer."""
    answer = call.forward()
    call.link.port.cut()
    return answer


def cut_before(call: Call) -> bytes:
    """The connection breaks before the gateway gets the call."""
    call.link.port.cut()
    call.context.abort(grpc.StatusCode.CANCELLED, "this text never arrives")
    raise AssertionError


def silence(call: Call) -> bytes:
    """There is no answer as long as the client waits, at most 30 seconds."""
    gone = threading.Event()
    if call.context.add_callback(gone.set):
        gone.wait(30)
    return b""


def altered(kind: type[_Answer], change: Callable[[_Answer], None]) -> Fault:
    """The gateway's answer is changed on its way."""

    def act(call: Call) -> bytes:
        answer = kind.FromString(call.forward())
        change(answer)
        return answer.SerializeToString()

    return act
