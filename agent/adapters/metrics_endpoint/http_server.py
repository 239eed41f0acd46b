"""A small HTTP server for a few pages that are made when they are asked for.

Nobody can exhaust it: few threads, a time for each whole answer, and when all are taken the oldest client has to go.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

_log = logging.getLogger(__name__)

_MOST = 4  # clients at a time
_SILENT, _WHOLE = 5.0, 10.0  # seconds that a client may say nothing, and take in all
_LEAVING = 1.0  # seconds for a client that has to go
_HEAD = 16 * 1024  # bytes that a client may say
_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """What is answered."""

    body: bytes
    status: int = 200
    content_type: str = _TEXT


class HttpServer:
    """Serves from a thread of its own."""

    def __init__(self, listen: str, pages: Mapping[str, Callable[[], Page]]) -> None:
        """Listen on ``listen`` ("HOST:PORT", IPv6 in brackets). Raises OSError. ``pages`` are by path."""
        host, _, port = listen.rpartition(":")
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._server = _ThreadingServer(family, address, pages)
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="pages", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Listen no longer; answers under way are cut off. May be repeated."""
        self._server.shutdown()
        self._server.server_close()
        self._server.cut(0)


class _ThreadingServer(socketserver.TCPServer):
    allow_reuse_address = True

    def __init__(self, family: int, address: Any, pages: Mapping[str, Callable[[], Page]]) -> None:
        self.address_family = family
        self.pages = pages
        self._slots = threading.Semaphore(_MOST)
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, float] = {}  # since when, monotonic; the oldest first
        super().__init__(address, _PageHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if there may be one more."""
        if not self._slots.acquire(blocking=False):
            self.cut(0, most=1)
            if not self._slots.acquire(timeout=_LEAVING):
                self.shutdown_request(request)
                return
        with self._lock:
            self._clients[request] = time.monotonic()
        thread = threading.Thread(
            target=self._answer, args=(request, client_address), name="page", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:  # no more threads on this robot
            self._forget(request)

    def service_actions(self) -> None:
        """Twice a second."""
        self.cut(_WHOLE)

    def cut(self, seconds: float, *, most: int = _MOST) -> None:
        """End the connections of clients that are older than ``seconds``, the oldest first."""
        before = time.monotonic() - seconds
        with self._lock:
            for request in [request for request, since in self._clients.items() if since <= before][
                :most
            ]:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)  # its thread wakes up and closes it

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:  # the client's own affair
            _log.debug(
                "%s did not wait for its answer: %s",
                client_address[0],
                error,
                extra={"event": "page_cut"},
            )
        finally:
            self._forget(request)

    def _forget(self, request: Any) -> None:
        with self._lock:
            del self._clients[request]
        self.shutdown_request(request)
        self._slots.release()


class _RequestHead:
    """What a client says, as long as it is no longer than it may be."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._left = _HEAD

    def readline(self, most: int) -> bytes:
        line: bytes = self._source.readline(min(most, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise ConnectionAbortedError(f"it said more than {_HEAD} bytes")
        return line

    def close(self) -> None:
        self._source.close()


class _PageHandler(BaseHTTPRequestHandler):
    server: _ThreadingServer
    timeout = _SILENT

    def setup(self) -> None:
        super().setup()
        self.rfile = _RequestHead(self.rfile)  # type: ignore[assignment]  # all that is read of it are lines

    def do_GET(self) -> None:
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            self._send(Page(b"not found\n", 404))
            return
        try:
            page = make()
        except Exception:  # noqa: BLE001 - whatever it is, the next page may be in order
            _log.exception("could not make the page %s", self.path, extra={"event": "bug"})
            page = Page(b"a mistake in the agent; see its log\n", 500)
        self._send(page)

    do_HEAD = do_GET  # noqa: N815

    def _refuse(self) -> None:
        self._send(Page(b"only GET and HEAD\n", 405))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse  # noqa: N815

    def _send(self, page: Page) -> None:
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        if page.status == 405:
            self.send_header("Allow", "GET, HEAD")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page.body)

    def version_string(self) -> str:
        return "keystone-agent"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        _log.debug(format, *args, extra={"event": "page"})
