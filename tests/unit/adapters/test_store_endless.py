"""Endless answers of a store or of a captive portal.

Only a little of them is read, and a stop gets through.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.adapters.clock import RealClock
from agent.adapters.store import MinioStore
from agent.model.errors import CloudError, GateClosedError, judge
from agent.model.ports import Target
from agent.model.transfer import Part, SentPart, Transfer
from tests.harness.faults.tcp_faults import Port
from tests.harness.scripted_http_server import opened, target_at

KIB, MIB = 1024, 1024 * 1024
# Both ends of a connection may buffer this many bytes in the kernel.
KERNEL_BUFFER_BYTES = 16 * MIB
FILLING = b" " * (64 * KIB)
OK = b'HTTP/1.1 200 OK\r\nETag: "0"\r\n'
REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\n"
DENIED = b"<Error><Code>AccessDenied</Code><Message>no</Message>"


class EndlessServer:
    """A server that sends the given answer to every request, for as long as the client reads."""

    def __init__(self, says: Callable[[], Iterable[bytes]]) -> None:
        self.sent = 0
        self.listened_to = threading.Event()
        self._says = says
        self._port = Port(self._serve)
        self.endpoint = f"http://127.0.0.1:{self._port.number}"

    def stop(self) -> None:
        self._port.stop()

    def wait(self, seconds: float) -> None:
        self._port.ended.wait(seconds)

    def _serve(self, client: socket.socket) -> None:
        reader = client.makefile("rb")
        length = 0
        while (line := reader.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        reader.read(length)
        for block in self._says():
            client.sendall(block)
            self.sent += len(block)
            self.listened_to.set()


def whole(*head: bytes) -> Callable[[], Iterable[bytes]]:
    """Return an answer that begins with ``head`` and never ends."""
    return lambda: itertools.chain(head, itertools.repeat(FILLING))


def chunked(*head: bytes) -> Callable[[], Iterable[bytes]]:
    chunk = b"%x\r\n%b\r\n" % (len(FILLING), FILLING)
    return lambda: itertools.chain(head, itertools.repeat(chunk))


def heads() -> Iterable[bytes]:
    """Return an endless head, each of whose lines is allowed."""
    line = b"X-More: " + b"m" * 60 * KIB + b"\r\n"
    return itertools.chain([OK], itertools.repeat(line))


def interim() -> Iterable[bytes]:
    return itertools.repeat(b"HTTP/1.1 100 Continue\r\nX-More: " + b"m" * 1000 + b"\r\n\r\n")


@contextlib.contextmanager
def serving(says: Callable[[], Iterable[bytes]]) -> Iterator[tuple[Target, EndlessServer]]:
    server, store = EndlessServer(says), MinioStore(clock=RealClock())
    yield target_at(store, server.endpoint), server
    store.close()
    server.stop()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    with opened(tmp_path, os.urandom(KIB)) as descriptor:
        yield descriptor


CALLS: dict[str, Callable[[Target, int], object]] = {
    "begin": lambda target, _: target.begin(),
    "send": lambda target, file: target.send("m", Part(1, 0, KIB), file, Transfer(KIB)),
    "parts": lambda target, _: target.parts("m"),
    "multiparts": lambda target, _: target.multiparts(),
    "complete": lambda target, _: target.complete("m", [SentPart(1, KIB, '"e"')]),
    "abort": lambda target, _: target.abort("m"),
    "put": lambda target, _: target.put(b"{}", "application/json"),
    "read": lambda target, _: target.read(100),
}
LISTINGS = {"parts": 4 * MIB, "multiparts": 4 * MIB}
ENDLESS = {
    "a success without a length": whole(OK + b"\r\n"),
    "a success of many terabytes": whole(OK + b"Content-Length: 99999999999999\r\n\r\n"),
    "a success in chunks": chunked(OK + b"Transfer-Encoding: chunked\r\n\r\n"),
    "a head": heads,
    "interim answers": interim,
}


@pytest.mark.parametrize("says", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("call", CALLS)
def test_little_is_read_of_a_success_without_an_end(
    call: str, says: Callable[[], Iterable[bytes]], file: int
) -> None:
    with serving(says) as (target, server):
        tracemalloc.start()
        with pytest.raises(CloudError) as raised:
            CALLS[call](target, file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        longest = LISTINGS.get(call, 64 * KIB)
        assert raised.value.code == "InvalidResponse"
        assert f"longer than {longest} bytes" in str(
            raised.value
        ) or "longer than 65536 bytes" in str(raised.value)
        assert server.sent < longest + KERNEL_BUFFER_BYTES
        assert peak < 3 * longest + MIB


@pytest.mark.parametrize("call", CALLS)
def test_the_beginning_of_an_endless_refusal_says_what_it_is(call: str, file: int) -> None:
    with serving(whole(REFUSED + b"\r\n" + DENIED)) as (target, server):
        with pytest.raises(CloudError) as raised:
            CALLS[call](target, file)
        assert raised.value.code == "AccessDenied"
        assert server.sent < 64 * KIB + KERNEL_BUFFER_BYTES


def test_an_endless_page_of_somebody_else_is_a_portal() -> None:
    with serving(whole(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html>")) as (target, _):
        with pytest.raises(CloudError) as raised:
            target.begin()
        assert judge(raised.value).kind == "offline"
        assert raised.value.code == "portal"


@pytest.mark.parametrize(
    "head", [OK + b"\r\n", OK, b""], ids=["in the body", "in the head", "before it"]
)
@pytest.mark.parametrize("call", ["begin", "send", "complete"])
def test_a_stop_gets_through_an_answer_that_trickles(call: str, head: bytes, file: int) -> None:
    def says() -> Iterator[bytes]:
        yield head or b"HTTP/1.1 100 Continue\r\n\r\n"
        while True:
            server.wait(0.02)
            yield b" " if head.endswith(b"\r\n\r\n") else b"x"

    with serving(says) as (target, server), ThreadPoolExecutor(1) as pool:
        calling = pool.submit(CALLS[call], target, file)
        assert server.listened_to.wait(20)
        target.break_off()
        with pytest.raises(GateClosedError):
            calling.result(5)
