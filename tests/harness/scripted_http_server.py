"""An HTTP server that answers as a test tells it to, and values for tests of the store."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from agent.adapters.store import MinioStore
from agent.model.ports import Target
from agent.model.values import CredentialLease, UploadSession
from tests.harness import s3_servers as servers
from tests.harness.faults.tcp_faults import Port

LEASE = CredentialLease(servers.ACCESS_KEY, servers.SECRET_KEY, "", 0.0)


@dataclass
class ScriptedAnswer:
    """The answer to a request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class ReceivedRequest:
    """A request as it was received."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Oracle:
    """A running server that answers each request by ``say``, and keeps the request in ``seen``."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.seen: list[ReceivedRequest] = []
        self.say: Callable[[ReceivedRequest], ScriptedAnswer] = lambda _request: ScriptedAnswer()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.endpoint = (
            f"{'https' if context else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        )
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        oracle = self

        class ScriptedHandler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = ReceivedRequest(self.command, self.path, headers, body)
                oracle.seen.append(request)
                answer = oracle.say(request)
                self.send_response_only(answer.status)
                for name, value in {
                    "content-length": str(len(answer.body)),
                    **answer.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - http.server requires

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server has it
                pass

        return ScriptedHandler


def session_at(endpoint: str, region: str = "us-east-1") -> UploadSession:
    return UploadSession("l", "u", "bucket", endpoint, "key", region, 1000)


def target_at(store: MinioStore, endpoint: str) -> Target:
    return store.at(session_at(endpoint), lambda: LEASE)


def xml(code: str, message: str = "no") -> bytes:
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return f"<?xml version='1.0'?>{error}".encode()


XML = {"content-type": "application/xml"}
HTML = {"content-type": "text/html; charset=utf-8"}
PAGE = b"<!DOCTYPE html><html><body>Welcome to the hotel</body></html>"


@contextlib.contextmanager
def opened(folder: Path, content: bytes) -> Iterator[int]:
    path = folder / "opened.mcap"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def raw_server(says: bytes) -> Iterator[str]:
    """Yield the endpoint of a port that answers each request with these bytes and then closes."""

    def serve(client: socket.socket) -> None:
        client.recv(64 * 1024)
        client.sendall(says)
        client.shutdown(socket.SHUT_WR)

    port = Port(serve)
    try:
        yield f"http://127.0.0.1:{port.number}"
    finally:
        port.stop()
