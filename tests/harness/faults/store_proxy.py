"""An HTTP proxy in front of an S3 server.

It passes on requests byte for byte, and applies the faults of its script to some of them.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

from tests.harness.faults.script import Script
from tests.harness.faults.tcp_faults import Port, abort


@dataclass
class StoreRequest:
    """A request: its S3 operation, its head, and how many bytes of its body were read."""

    operation: str
    part: int
    method: str
    head: bytes
    length: int
    taken: int = 0


@dataclass
class StoreAnswer:
    """An answer to the client. Answers to HEAD have a length and no body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def raw(self, method: str) -> bytes:
        """Return the bytes of the answer to a request with this method."""
        own = (
            {}
            if any(name.lower() == "content-length" for name in self.headers)
            else {"Content-Length": len(self.body)}
        )
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in {**self.headers, **own}.items()]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else self.body)


class Exchange:
    """One request and its connection, on which a fault acts."""

    def __init__(
        self,
        proxy: FaultyStoreProxy,
        client: socket.socket,
        reader: BinaryIO,
        request: StoreRequest,
    ) -> None:
        self.request = request
        self.proxy = proxy
        self._client = client
        self._reader = reader

    def take(self, size: int | None = None) -> bytes:
        """Read and return the next ``size`` bytes of the body, by default the whole rest."""
        left = self.request.length - self.request.taken
        wanted = left if size is None else min(size, left)
        body = self._reader.read(wanted)
        self.request.taken += len(body)
        if len(body) < wanted:
            raise ConnectionResetError("the client closed the connection within the body")
        return body

    def forward(self, body: bytes) -> StoreAnswer:
        """Send this request with that body to the store, and return the store's answer."""
        with contextlib.closing(
            socket.create_connection(("127.0.0.1", self.proxy.store_port), timeout=30)
        ) as store:
            # The store may answer and close the connection before it has read the whole body.
            with contextlib.suppress(ConnectionError):
                store.sendall(self.request.head + body)
            answer = http.client.HTTPResponse(store, method=self.request.method)
            answer.begin()
            content = answer.read()
            headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() != "transfer-encoding"
            }
            return StoreAnswer(answer.status, headers, content)

    def answer(self, answer: StoreAnswer) -> None:
        """Send the answer to the client."""
        self._client.sendall(answer.raw(self.request.method))

    def drip(self, answer: StoreAnswer, pause: float) -> None:
        """Send the answer byte by byte, with a pause of so many seconds after each."""
        for byte in answer.raw(self.request.method):
            self._client.sendall(bytes([byte]))
            self.wait(pause)

    def wait(self, seconds: float) -> bool:
        """Let time pass. Return whether the proxy has ended."""
        return self.proxy.port.ended.wait(seconds)

    def reset(self) -> None:
        """Reset the connection to the client."""
        abort(self._client)
        raise ConnectionAbortedError


Fault = Callable[[Exchange], None]


class FaultyStoreProxy:
    """A running proxy in front of the store at ``store_port``.

    With a certificate clients must use TLS. The proxy always uses plain HTTP to the store.
    """

    def __init__(self, store_port: int, certificate: ssl.SSLContext | None = None) -> None:
        self.store_port = store_port
        self.script: Script[Fault] = Script()
        self.seen: list[StoreRequest] = []
        self._lock = threading.Lock()
        self.port = Port(self._serve, certificate)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port.number}"

    def stop(self) -> None:
        """Close all connections and the port."""
        self.port.stop()

    def count(self, operation: str) -> int:
        """Return how many requests of this operation came in."""
        return sum(request.operation == operation for request in self.seen)

    @property
    def part_bytes(self) -> int:
        """How many bytes of parts came in, with all repetitions."""
        return sum(request.taken for request in self.seen if request.operation == "UploadPart")

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = client.makefile("rb")
        while head := _head(reader):
            exchange = Exchange(self, client, reader, _request(head))
            with self._lock:
                self.seen.append(exchange.request)
            (self.script.due(exchange.request.operation) or passed)(exchange)
            if exchange.request.taken < exchange.request.length:
                # The rest of the body must not be read as the next request.
                return


def passed(exchange: Exchange) -> None:
    """Pass on the request and its answer without a fault."""
    exchange.answer(exchange.forward(exchange.take()))


def _head(reader: BinaryIO) -> bytes:
    """Return the head of the next request, or nothing at the end of the connection."""
    lines = []
    while line := reader.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _request(head: bytes) -> StoreRequest:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)
    }
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    return StoreRequest(
        _operation(method, set(query)),
        int(query.get("partNumber", ["0"])[0]),
        method,
        head,
        int(headers.get("content-length", "0")),
    )


_OPERATIONS = (
    ("PUT", "partNumber", "UploadPart"),
    ("POST", "uploads", "CreateMultipartUpload"),
    ("POST", "uploadId", "CompleteMultipartUpload"),
    ("GET", "uploads", "ListMultipartUploads"),
    ("GET", "uploadId", "ListParts"),
    ("DELETE", "uploadId", "AbortMultipartUpload"),
)


def _operation(method: str, query: set[str]) -> str:
    for verb, parameter, operation in _OPERATIONS:
        if method == verb and parameter in query:
            return operation
    return {"HEAD": "HeadObject", "GET": "GetObject"}.get(method, method)


# The following functions are or make the faults that can happen to a request.


def says(
    status: int, code: str = "", *, content_type: str = "application/xml", **headers: str
) -> Fault:
    """The proxy answers an S3 error in place of the store. Without a ``code`` it has no body."""
    error = f"<Error><Code>{code}</Code><Message>injected</Message></Error>"
    xml = f"<?xml version='1.0' encoding='UTF-8'?>\n{error}"
    return page(status, xml if code else "", content_type, **headers)


def page(status: int, text: str, content_type: str = "text/html", **headers: str) -> Fault:
    """The proxy answers this text in place of the store."""
    all_headers = {
        "Content-Type": content_type,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }

    def act(exchange: Exchange) -> None:
        exchange.take()
        exchange.answer(StoreAnswer(status, all_headers, text.encode()))

    return act


def raw(text: bytes) -> Fault:
    """The proxy answers these bytes, which need not be HTTP, and closes the connection."""

    def act(exchange: Exchange) -> None:
        exchange.take()
        exchange._client.sendall(text)
        exchange._client.shutdown(socket.SHUT_WR)
        raise ConnectionAbortedError

    return act


def reset_before_the_body(exchange: Exchange) -> None:
    """The connection is reset before the body is read."""
    exchange.reset()


def reset_in_the_middle(exchange: Exchange) -> None:
    """The connection is reset when half of the body has been read."""
    exchange.take(exchange.request.length // 2)
    exchange.reset()


def reset_after_the_body(exchange: Exchange) -> None:
    """The connection is reset after the whole body, and the store never gets the request."""
    exchange.take()
    exchange.reset()


def lost_answer(exchange: Exchange) -> None:
    """The store does the request, but its answer never arrives."""
    exchange.forward(exchange.take())
    exchange.reset()


def endless_answer(exchange: Exchange) -> None:
    """Nothing is stored, and the answer never ends while the client reads it."""
    exchange.take()
    exchange._client.sendall(b'HTTP/1.1 200 OK\r\nETag: "0"\r\n\r\n')
    while True:
        exchange._client.sendall(b" " * 65536)


def half_an_answer(exchange: Exchange) -> None:
    """The store does the request, but its answer breaks off in the middle."""
    answer = exchange.forward(exchange.take())
    raw = answer.raw(exchange.request.method)
    exchange._client.sendall(raw[: len(raw) // 2])
    exchange.reset()


def black_hole(exchange: Exchange) -> None:
    """The proxy neither reads nor answers for 30 seconds, or until it ends."""
    exchange.proxy.port.ended.wait(30)
    exchange.reset()


def no_answer(exchange: Exchange) -> None:
    """The whole body is read, but there is no answer."""
    exchange.take()
    black_hole(exchange)


def slow_reader(exchange: Exchange) -> None:
    """The body is read at one byte per second until the client gives up."""
    while exchange.take(1) and not exchange.wait(1):
        pass
    exchange.reset()


def slow_answer(pause: float) -> Fault:
    """The important parts of the answer come one byte every ``pause`` seconds."""

    def act(exchange: Exchange) -> None:
        answer = exchange.forward(exchange.take())
        headers = {
            name: value
            for name, value in answer.headers.items()
            if "checksum" in name or name.lower() == "etag"
        }
        exchange.drip(StoreAnswer(answer.status, headers, answer.body), pause)

    return act


def answered_twice(exchange: Exchange) -> None:
    """The same answer comes twice. The second copy looks like one to the next request."""
    answer = exchange.forward(exchange.take())
    exchange.answer(answer)
    exchange.answer(answer)


def answered_again_later(exchange: Exchange) -> None:
    """The answer comes again when the next request of this connection begins."""
    answer = exchange.forward(exchange.take())
    exchange.answer(answer)
    exchange._reader.peek(1)  # type: ignore[attr-defined]  # it is a buffered reader
    exchange.answer(answer)


def asked_twice(exchange: Exchange) -> None:
    """The store gets the request twice, and its second answer is returned."""
    body = exchange.take()
    exchange.forward(body)
    exchange.answer(exchange.forward(body))


def corrupted(exchange: Exchange) -> None:
    """A bit of the body changes on its way."""
    body = bytearray(exchange.take())
    body[len(body) // 2] ^= 0x10
    exchange.answer(exchange.forward(bytes(body)))
