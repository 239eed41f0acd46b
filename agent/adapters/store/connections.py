"""The connections to a store.

They differ from urllib3's in four ways. A connection is given up only when nothing moves at all. It
can be cancelled from another thread. Little waits unsent in the kernel. The head of an answer has a
limited size.
"""

from __future__ import annotations

import http.client
import select
import socket
import ssl
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError, NewConnectionError
from urllib3.response import HTTPResponse

from agent.adapters.store.cancel_scope import current_scope
from agent.adapters.store.part_body import PartPiece
from agent.adapters.store.responses import TooLongError
from agent.adapters.store.sockets import StallDetector, send_all, send_file, unacknowledged_bytes

# A request counts as sent when no more than this is unacknowledged. The rest is sent within the
# timeout of the answer.
_SENT_BUT_BYTES = 32 * 1024

# The most bytes of an answer's status line and headers, interim answers included.
_HEAD_MAX_BYTES = 64 * 1024

# How long the sender waits before it checks again what is unacknowledged. The wait doubles from
# the first value up to the second.
_FIRST_WAIT_SECONDS = 0.001
_LONGEST_WAIT_SECONDS = 0.05

# Little waits unsent in the kernel, so that bytes handed to the kernel are bytes that were really
# sent. The kernel may hold what the connection sends in this time, at the rate of the last body.
# With less, each wake-up for a few bytes costs as much CPU time as the bytes themselves.
_UNSENT_SECONDS = 0.02
_UNSENT_MIN_BYTES = 128 * 1024

_UNSENT_OPTION = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
_NO_DELAY_OPTION = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _LimitedHead:
    """The lines before an answer's body, up to a limit.

    Without a limit a server could send headers without end. The library closes this object where
    the first line is no HTTP.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self._left = _HEAD_MAX_BYTES

    def readline(self, limit: int) -> bytes:
        line: bytes = self.source.readline(min(limit, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise TooLongError("InvalidResponse", _HEAD_MAX_BYTES)
        return line

    def close(self) -> None:
        self.source.close()

    def __getattr__(self, name: str) -> Any:
        """Return what the library wants of the connection's own file."""
        return getattr(self.source, name)


class _LimitedResponse(http.client.HTTPResponse):
    """The library's answer, with a limit for the size of its head."""

    def begin(self) -> None:
        source = self.fp
        head: Any = _LimitedHead(source)
        # The library reads the head only line by line, so readline() sees all of it.
        self.fp = head
        try:
            super().begin()
        finally:
            # The library has set another value where it has closed the connection.
            if self.fp is head:
                self.fp = source


class Connection(HTTPConnection):
    """A connection that fails only when nothing moves, and that its scope can cancel.

    Used by one thread at a time, inside a ``CancelScope``.
    """

    response_class = _LimitedResponse
    _sends_part = False
    _began = 0.0
    _sent = 0
    # When the last answer on this connection began, by the monotonic clock.
    answered_at = float("-inf")

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers, on a socket that the scope can shut down."""
        problem = OSError("the name has no address")
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(
                self._dns_host, self.port, type=socket.SOCK_STREAM
            ):
                try:
                    return self._connected(socket.socket(family, kind, protocol), address)
                except OSError as error:
                    problem = error
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        raise NewConnectionError(self, str(problem)) from problem

    def _connected(self, sock: socket.socket, address: Any) -> socket.socket:
        """Connect ``sock`` to ``address`` and return it; close it where that fails."""
        try:
            current_scope().register(sock.fileno())
            sock.setsockopt(*_NO_DELAY_OPTION)
            sock.setsockopt(*_UNSENT_OPTION, _UNSENT_MIN_BYTES)
            sock.settimeout(self.timeout or current_scope().stall_timeout)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def request(self, method: str, *arguments: Any, **options: Any) -> None:
        """Send a request; the current scope can cancel it."""
        self._sends_part = method == "PUT"
        self._began, self._sent = current_scope().monotonic(), 0
        if self.sock is not None:
            current_scope().register(self.sock.fileno())
        super().request(method, *arguments, **options)

    def send(self, data: Any) -> None:
        """Send all of ``data``.

        Args:
            data: Bytes, or a ``PartPiece``.

        Raises:
            TimeoutError: Nothing was sent for the scope's ``stall_timeout``.
            OSError: The connection failed.
        """
        if self.sock is None:
            self.connect()
        self._sent += len(data)
        if not isinstance(data, PartPiece):
            send_all(self.sock, [data])
            return
        if not isinstance(self.sock, ssl.SSLSocket):
            send_file(self.sock, data)
        send_all(self.sock, data.blocks())

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in the library
        """Wait for the answer.

        The answer's timeout begins when the request was really sent, and not when the kernel took
        its last byte.
        """
        self._wait_until_sent()
        # A store may need long to join the parts of a recording, but not to take in one part.
        if self._sends_part:
            stall_timeout = current_scope().stall_timeout
            self.timeout = min(self.timeout or stall_timeout, stall_timeout)
            self._adapt_unsent_limit()
        answer = super().getresponse()
        self.answered_at = current_scope().monotonic()
        return answer

    def _adapt_unsent_limit(self) -> None:
        """Let the kernel hold as many unsent bytes as the rate of the last body suggests."""
        seconds = current_scope().monotonic() - self._began
        if self.sock is not None and seconds > 0:
            unsent_bytes = int(self._sent / seconds * _UNSENT_SECONDS)
            self.sock.setsockopt(*_UNSENT_OPTION, max(_UNSENT_MIN_BYTES, unsent_bytes))

    def _wait_until_sent(self) -> None:
        """Wait until almost all of the request is acknowledged, or an answer arrives."""
        if self.sock is None:
            return
        poll = select.poll()
        # Over TLS there may be something to read that is no answer.
        over_tls = isinstance(self, HTTPSConnection)
        poll.register(self.sock, select.POLLRDHUP if over_tls else select.POLLIN)
        stall = StallDetector(self.sock.fileno())
        wait_seconds = _FIRST_WAIT_SECONDS
        while unacknowledged_bytes(self.sock.fileno()) > _SENT_BUT_BYTES and not poll.poll(
            wait_seconds * 1000
        ):
            stall.check()
            wait_seconds = min(wait_seconds * 2, _LONGEST_WAIT_SECONDS)


class SecureConnection(Connection, HTTPSConnection):
    """Such a connection over TLS. Used by one thread at a time, inside a ``CancelScope``."""


class ConnectionPool(HTTPConnectionPool):
    """Connections to one host without TLS. May be used from any thread."""

    ConnectionCls = Connection


class SecureConnectionPool(HTTPSConnectionPool):
    """Connections to one host over TLS. May be used from any thread."""

    ConnectionCls = SecureConnection


# The pool for each scheme of a URL.
POOLS: dict[str, type[HTTPConnectionPool]] = {"http": ConnectionPool, "https": SecureConnectionPool}
