"""A small HTTP server for a few pages, each made when it is requested.

Clients cannot exhaust it. It has few threads, each answer must be finished in a limited time, and
when all threads are taken, the oldest client is disconnected.
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

# How many clients are served at the same time, each by a thread.
_MAX_CLIENTS = 4

# How long a client may send nothing.
_SILENCE_SECONDS = 5.0

# How long a client may be connected in all.
_CONNECTION_SECONDS = 10.0

# How long to wait until the thread of a client that was disconnected is free.
_DISCONNECT_SECONDS = 1.0

# The most bytes of a request.
_REQUEST_MAX_BYTES = 16 * 1024

_PLAIN_TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a request."""

    body: bytes
    status: int = 200
    content_type: str = _PLAIN_TEXT


class HttpServer:
    """Serves pages from threads of its own.

    May be used from any thread.
    """

    def __init__(self, listen: str, pages: Mapping[str, Callable[[], Page]]) -> None:
        """Listen and serve.

        Args:
            listen: "HOST:PORT"; an IPv6 address stands in brackets.
            pages: For each path, a function that makes its page. Called from several threads.

        Raises:
            OSError: The address can't be used.
        """
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
        """Stop serving, and cut off the answers that are under way. May be repeated."""
        self._server.shutdown()
        self._server.server_close()
        self._server.disconnect_older(0)


class _ThreadingServer(socketserver.TCPServer):
    """Answers each client in a thread.

    The standard library's own server has no limit for the number of its threads.

    The methods of the base class run in the thread that serves, and ``disconnect_older`` in any.
    """

    allow_reuse_address = True

    def __init__(self, family: int, address: Any, pages: Mapping[str, Callable[[], Page]]) -> None:
        self.address_family = family
        self.pages = pages
        self._free_threads = threading.Semaphore(_MAX_CLIENTS)
        self._lock = threading.Lock()
        # When each client connected, by the monotonic clock, the oldest first.
        self._connected_at: dict[socket.socket, float] = {}
        super().__init__(address, _PageHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread. Disconnect the oldest client where all threads are taken."""
        if not self._free_threads.acquire(blocking=False):
            self.disconnect_older(0, limit=1)
            if not self._free_threads.acquire(timeout=_DISCONNECT_SECONDS):
                self.shutdown_request(request)
                return
        with self._lock:
            self._connected_at[request] = time.monotonic()
        thread = threading.Thread(
            target=self._answer, args=(request, client_address), name="page", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # The system refuses a thread.
            self._release(request)

    def service_actions(self) -> None:
        """Disconnect clients that take too long. The base class calls this twice a second."""
        self.disconnect_older(_CONNECTION_SECONDS)

    def disconnect_older(self, seconds: float, *, limit: int = _MAX_CLIENTS) -> None:
        """Disconnect clients, the oldest first.

        Args:
            seconds: Only clients that have been connected for at least so long.
            limit: How many clients at most.
        """
        before = time.monotonic() - seconds
        with self._lock:
            older = [request for request, since in self._connected_at.items() if since <= before]
            for request in older[:limit]:
                # The shutdown wakes the client's thread, and the thread closes the socket.
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def _answer(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except OSError as error:
            # The client has disconnected, which is no fault of the agent.
            _log.debug(
                "%s did not wait for its answer: %s",
                client_address[0],
                error,
                extra={"event": "page_cut"},
            )
        finally:
            self._release(request)

    def _release(self, request: Any) -> None:
        """Close a client's socket, and free its thread for another client."""
        with self._lock:
            del self._connected_at[request]
        self.shutdown_request(request)
        self._free_threads.release()


class _RequestHead:
    """The lines of a request, up to a limit. Used by the client's thread."""

    def __init__(self, source: Any) -> None:
        self._source = source
        self._left = _REQUEST_MAX_BYTES

    def readline(self, limit: int) -> bytes:
        line: bytes = self._source.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise ConnectionAbortedError(f"the request has more than {_REQUEST_MAX_BYTES} bytes")
        return line

    def close(self) -> None:
        self._source.close()


class _PageHandler(BaseHTTPRequestHandler):
    """Reads one request and sends the page. Used by the client's thread."""

    server: _ThreadingServer
    timeout = _SILENCE_SECONDS

    def setup(self) -> None:
        super().setup()
        # The base class reads a request only by lines.
        self.rfile = _RequestHead(self.rfile)  # type: ignore[assignment] # readline is enough

    def do_GET(self) -> None:
        make = self.server.pages.get(self.path.partition("?")[0])
        if make is None:
            self._send(Page(b"not found\n", 404))
            return
        try:
            page = make()
        except Exception:  # noqa: BLE001 - one page that fails must not end the others
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
