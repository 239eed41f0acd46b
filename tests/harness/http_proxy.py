"""A real HTTP proxy: it opens CONNECT tunnels for TLS and gRPC, and passes on plain requests."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

_BLOCK = 64 * 1024


@dataclass
class ProxiedRequest:
    """A request that came to the proxy, with its target as the client named it."""

    method: str
    target: str
    admitted: bool = True


@dataclass
class HttpProxy:
    """A proxy that runs during the block. With a ``user`` it requires that user's password."""

    user: str = ""
    password: str = field(default="", repr=False)
    passed: list[ProxiedRequest] = field(default_factory=list)

    def __enter__(self) -> HttpProxy:  # noqa: PYI034 - Self is not in Python 3.10
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.place = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def targets(self, method: str = "") -> set[str]:
        """Return HOST:PORT of all admitted requests, with this method or with any."""
        through = [each for each in self.passed if each.admitted and method in ("", each.method)]
        return {
            urlsplit(each.target).netloc if "://" in each.target else each.target
            for each in through
        }

    def _admits(self, header: str) -> bool:
        who = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return not self.user or header == f"Basic {who}"

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the class inside has self
        class ProxyHandler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                if self._refused():
                    return
                host, _, port = self.path.rpartition(":")
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection((host, int(port)), 10) as there,
                ):
                    self.send_response(200, "Connection established")
                    self.end_headers()
                    _pump(self.connection, there)
                self.close_connection = True

            def _pass_on(self) -> None:
                if self._refused():
                    return
                url = urlsplit(self.path)
                target = url._replace(scheme="", netloc="").geturl()
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection((url.hostname, url.port or 80), 10) as there,
                ):
                    lines = [f"{self.command} {target} HTTP/1.1"]
                    lines += [
                        f"{name}: {text}"
                        for name, text in self.headers.items()
                        if not _hop_by_hop(name)
                    ]
                    there.sendall(
                        ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1")
                    )
                    left = int(self.headers.get("content-length") or 0)
                    while left and (block := self.rfile.read(min(left, _BLOCK))):
                        there.sendall(block)
                        left -= len(block)
                    while block := there.recv(_BLOCK):
                        self.connection.sendall(block)
                self.close_connection = True

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on  # noqa: N815 - http.server requires these names

            def _refused(self) -> bool:
                admitted = proxy._admits(self.headers.get("proxy-authorization", ""))
                proxy.passed.append(ProxiedRequest(self.command, self.path, admitted))
                if not admitted:
                    self.send_response(407, "Proxy Authentication Required")
                    self.send_header("Proxy-Authenticate", 'Basic realm="test"')
                    self.send_header("Content-Length", "0")
                    self.send_header("Connection", "close")
                    self.end_headers()
                    self.close_connection = True
                return not admitted

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        return ProxyHandler


def _hop_by_hop(name: str) -> bool:
    return name.lower() in {"connection", "proxy-authorization", "proxy-connection", "keep-alive"}


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Copy bytes in both directions until one side ends."""
    while True:
        ready, _, _ = select.select([one, other], [], [])
        for source in ready:
            block = source.recv(_BLOCK)
            if not block:
                return
            (other if source is one else one).sendall(block)
