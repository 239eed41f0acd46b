"""An HTTP proxy in front of an S3 server: passes requests on byte for byte, and does to some what its script says."""

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
class Request:
    """What came in: its S3 operation, its head, and how much of its body was taken."""

    operation: str
    part: int
    method: str
    head: bytes
    length: int
    taken: int = 0


@dataclass
class Answer:
    """What goes back. HEAD's answers have a length and no body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def raw(self, method: str) -> bytes:
        """As it stands on the wire."""
        own = (
            {}
            if any(name.lower() == "content-length" for name in self.headers)
            else {"Content-Length": len(self.body)}
        )
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in {**self.headers, **own}.items()]
        return "\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else self.body)


class Exchange:
    """One request in the hands of a fault."""

    def __init__(
        self, proxy: StoreProxy, client: socket.socket, reader: BinaryIO, request: Request
    ) -> None:
        self.request = request
        self.proxy = proxy
        self._client = client
        self._reader = reader

    def take(self, size: int | None = None) -> bytes:
        """The next ``size`` bytes of the body, by default all that is left of it."""
        left = self.request.length - self.request.taken
        wanted = left if size is None else min(size, left)
        body = self._reader.read(wanted)
        self.request.taken += len(body)
        if len(body) < wanted:
            raise ConnectionResetError("the client left within the body")
        return body

    def forward(self, body: bytes) -> Answer:
        """What the store says to this request with that body."""
        with contextlib.closing(
            socket.create_connection(("127.0.0.1", self.proxy.store_port), timeout=30)
        ) as store:
            with contextlib.suppress(
                ConnectionError
            ):  # it may refuse before it has read everything
                store.sendall(self.request.head + body)
            answer = http.client.HTTPResponse(store, method=self.request.method)
            answer.begin()
            content = answer.read()
            headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() != "transfer-encoding"
            }
            return Answer(answer.status, headers, content)

    def answer(self, answer: Answer) -> None:
        """Send it back."""
        self._client.sendall(answer.raw(self.request.method))

    def drip(self, answer: Answer, pause: float) -> None:
        """Send it back byte by byte."""
        for byte in answer.raw(self.request.method):
            self._client.sendall(bytes([byte]))
            self.wait(pause)

    def wait(self, seconds: float) -> bool:
        """Let time pass; tells whether the proxy ended meanwhile."""
        return self.proxy.port.ended.wait(seconds)

    def reset(self) -> None:
        """Break the connection."""
        abort(self._client)
        raise ConnectionAbortedError


Fault = Callable[[Exchange], None]


class StoreProxy:
    """In front of the store at ``store_port``. With a certificate it speaks TLS, and plain HTTP behind itself."""

    def __init__(self, store_port: int, certificate: ssl.SSLContext | None = None) -> None:
        self.store_port = store_port
        self.script: Script[Fault] = Script()
        self.seen: list[Request] = []
        self._lock = threading.Lock()
        self.port = Port(self._serve, certificate)
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port.number}"

    def stop(self) -> None:
        """Let go of everything."""
        self.port.stop()

    def count(self, operation: str) -> int:
        """How often it was asked for."""
        return sum(request.operation == operation for request in self.seen)

    @property
    def part_bytes(self) -> int:
        """Bytes of parts that came in, all tries together."""
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
                return  # what is left of the body would be read as the next request


def passed(exchange: Exchange) -> None:
    """No fault."""
    exchange.answer(exchange.forward(exchange.take()))


def _head(reader: BinaryIO) -> bytes:
    """A request's head, whole; empty at the end of the connection."""
    lines = []
    while line := reader.readline():
        lines.append(line)
        if line == b"\r\n":
            return b"".join(lines)
    return b""


def _request(head: bytes) -> Request:
    first, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)
    }
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    return Request(
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


# -- what can happen to a request


def says(
    status: int, code: str = "", *, content_type: str = "application/xml", **headers: str
) -> Fault:
    """The store is not asked; this is answered in its place. Without a ``code`` there is no body."""
    xml = f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{code}</Code><Message>injected</Message></Error>"
    return page(status, xml if code else "", content_type, **headers)


def page(status: int, text: str, content_type: str = "text/html", **headers: str) -> Fault:
    """The same with any text."""
    told = {
        "Content-Type": content_type,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }

    def act(exchange: Exchange) -> None:
        exchange.take()
        exchange.answer(Answer(status, told, text.encode()))

    return act


def raw(text: bytes) -> Fault:
    """The same with bytes that need not be HTTP; then the connection ends."""

    def act(exchange: Exchange) -> None:
        exchange.take()
        exchange._client.sendall(text)
        exchange._client.shutdown(socket.SHUT_WR)
        raise ConnectionAbortedError

    return act


def reset_before_the_body(exchange: Exchange) -> None:
    """Nothing of the body is read."""
    exchange.reset()


def reset_in_the_middle(exchange: Exchange) -> None:
    """Half of it is."""
    exchange.take(exchange.request.length // 2)
    exchange.reset()


def reset_after_the_body(exchange: Exchange) -> None:
    """All of it is, but the store never hears of it."""
    exchange.take()
    exchange.reset()


def lost_answer(exchange: Exchange) -> None:
    """The store has done it; its answer never arrives."""
    exchange.forward(exchange.take())
    exchange.reset()


def endless_answer(exchange: Exchange) -> None:
    """Nothing is stored; the answer goes on as long as somebody listens."""
    exchange.take()
    exchange._client.sendall(b'HTTP/1.1 200 OK\r\nETag: "0"\r\n\r\n')
    while True:
        exchange._client.sendall(b" " * 65536)


def half_an_answer(exchange: Exchange) -> None:
    """The store has done it; its answer breaks off."""
    answer = exchange.forward(exchange.take())
    raw = answer.raw(exchange.request.method)
    exchange._client.sendall(raw[: len(raw) // 2])
    exchange.reset()


def black_hole(exchange: Exchange) -> None:
    """Nothing is read and nothing is said until the client leaves or the proxy ends."""
    exchange.proxy.port.ended.wait(30)
    exchange.reset()


def no_answer(exchange: Exchange) -> None:
    """Everything is read and nothing is said."""
    exchange.take()
    black_hole(exchange)


def slow_reader(exchange: Exchange) -> None:
    """The body is taken at one byte a second until the client leaves."""
    while exchange.take(1) and not exchange.wait(1):
        pass
    exchange.reset()


def slow_answer(pause: float) -> Fault:
    """What matters of the answer comes one byte every ``pause`` seconds."""

    def act(exchange: Exchange) -> None:
        answer = exchange.forward(exchange.take())
        headers = {
            name: value
            for name, value in answer.headers.items()
            if "checksum" in name or name.lower() == "etag"
        }
        exchange.drip(Answer(answer.status, headers, answer.body), pause)

    return act


def answered_twice(exchange: Exchange) -> None:
    """The same answer comes two times, as one to the next request of this connection."""
    answer = exchange.forward(exchange.take())
    exchange.answer(answer)
    exchange.answer(answer)


def answered_again_later(exchange: Exchange) -> None:
    """The second copy comes only when the next request of this connection is on its way."""
    answer = exchange.forward(exchange.take())
    exchange.answer(answer)
    exchange._reader.peek(1)  # type: ignore[attr-defined]  # of a buffered reader
    exchange.answer(answer)


def asked_twice(exchange: Exchange) -> None:
    """The store gets the request two times; its second answer is told."""
    body = exchange.take()
    exchange.forward(body)
    exchange.answer(exchange.forward(body))


def corrupted(exchange: Exchange) -> None:
    """A bit of the body flips on its way."""
    body = bytearray(exchange.take())
    body[len(body) // 2] ^= 0x10
    exchange.answer(exchange.forward(bytes(body)))
