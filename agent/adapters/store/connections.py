"""The connections to a store: what may wait unsent, from when an answer is awaited, and how long it may be."""

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

from agent.adapters.store.cancel_scope import used_line
from agent.adapters.store.part_body import PartPiece
from agent.adapters.store.responses import TooLongError
from agent.adapters.store.sockets import StallDetector, held_back, send_all, send_file

_LITTLE = 32 * 1024  # held back when the body is out: what the timeout of the answer has room for
_HEAD = 64 * 1024  # bytes of an answer's status and headers, interim answers included
_SOON, _LATER = 0.001, 0.05  # seconds between looks at what is held back, first and at most
# Little waits unsent in the kernel, so that bytes handed out are bytes that leave: what goes in this many seconds, as
# the last body went; every wake-up for less costs as much as the bytes themselves.
_AHEAD, _LEAST_UNSENT = 0.02, 128 * 1024
_UNSENT = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
_AT_ONCE = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _LimitedHead:
    """The lines before an answer's body, as many as a store has.

    The library closes this where the first line is no HTTP.
    """

    def __init__(self, source: Any) -> None:
        self.source = source
        self._left = _HEAD

    def readline(self, most: int) -> bytes:
        line: bytes = self.source.readline(min(most, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise TooLongError("InvalidResponse", _HEAD)
        return line

    def close(self) -> None:
        self.source.close()

    def __getattr__(self, name: str) -> Any:
        """Whatever else the library asks of a file is the connection's own."""
        return getattr(self.source, name)


class _LimitedResponse(http.client.HTTPResponse):
    """The library's, but for an end to its head."""

    def begin(self) -> None:
        source = self.fp
        head: Any = _LimitedHead(source)
        self.fp = head  # all that is read of it are lines
        try:
            super().begin()
        finally:
            # The library has let go of it already where it has closed it.
            if self.fp is head:
                self.fp = source


class Connection(HTTPConnection):
    """A connection whose time runs out only while nothing moves. It belongs to the line that is used."""

    response_class = _LimitedResponse
    _sends_part = False
    _began = 0.0
    _sent = 0
    answered = float("-inf")  # when an answer to it last began, monotonic

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers, on a socket that can be broken off meanwhile."""
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
        try:
            used_line().take(sock.fileno())
            sock.setsockopt(*_AT_ONCE)
            sock.setsockopt(*_UNSENT, _LEAST_UNSENT)
            sock.settimeout(self.timeout or used_line().patience)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def request(self, method: str, *arguments: Any, **options: Any) -> None:
        """Send the request, on a line that knows the socket."""
        self._sends_part = method == "PUT"
        self._began, self._sent = used_line().monotonic(), 0
        if self.sock is not None:
            used_line().take(self.sock.fileno())
        super().request(method, *arguments, **options)

    def send(self, data: Any) -> None:
        """Send all of ``data``, bytes or a piece of a file; raises TimeoutError when nothing moves for too long."""
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
        """Wait for the answer; its time runs from when the request has left, not from when the kernel took it."""
        self._await_departure()
        if self._sends_part:  # joining them may take a store long, but not taking in one
            self.timeout = min(self.timeout or used_line().patience, used_line().patience)
            self._make_room()
        answer = super().getresponse()
        self.answered = used_line().monotonic()
        return answer

    def _make_room(self) -> None:
        """Let as much wait unsent as the body's pace tells."""
        seconds = used_line().monotonic() - self._began
        if self.sock is not None and seconds > 0:
            self.sock.setsockopt(*_UNSENT, max(_LEAST_UNSENT, int(self._sent / seconds * _AHEAD)))

    def _await_departure(self) -> None:
        if self.sock is None:
            return
        poll = select.poll()
        # Over TLS there may be something to read that is no answer.
        poll.register(
            self.sock, select.POLLRDHUP if isinstance(self, HTTPSConnection) else select.POLLIN
        )
        stall, pause = StallDetector(self.sock.fileno()), _SOON
        while held_back(self.sock.fileno()) > _LITTLE and not poll.poll(pause * 1000):
            stall.check()
            pause = min(pause * 2, _LATER)


class SecureConnection(Connection, HTTPSConnection):
    """The same over TLS."""


class ConnectionPool(HTTPConnectionPool):
    """Connections to one host."""

    ConnectionCls = Connection


class SecureConnectionPool(HTTPSConnectionPool):
    """The same over TLS."""

    ConnectionCls = SecureConnection


POOLS: dict[str, type[HTTPConnectionPool]] = {"http": ConnectionPool, "https": SecureConnectionPool}
