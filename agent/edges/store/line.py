"""The connections to a store: patient with a slow line, done with a dead one, and broken off at once when told to.

The library's timeout would bound the sending of a block as a whole. Here only a line on which nothing moves is given
up: the kernel tells how much it still holds back, and as long as that shrinks, however slowly, there is progress.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import select
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError, NewConnectionError
from urllib3.response import HTTPResponse

from agent.edges.store.answers import TooLongError

_LOOK = 1.0  # seconds between looks at a line that takes nothing
_LITTLE = 32 * 1024  # held back when the body is out: what the timeout of the answer has room for
_HEAD = 64 * 1024  # bytes of an answer's status and headers, interim answers included
_SOON, _LATER = 0.001, 0.05  # seconds between looks at what is held back, first and at most
# Little waits unsent in the kernel, so that bytes handed out are bytes that leave: what goes in this many seconds, as
# the last body went; every wake-up for less costs as much as the bytes themselves.
_AHEAD, _LEAST_UNSENT = 0.02, 128 * 1024
_UNSENT = (socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
_AT_ONCE = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Line:
    """What the requests of one target have in common: their patience, and that they can be broken off together."""

    def __init__(self, patience: float, monotonic: Callable[[], float]) -> None:
        """``patience``: seconds without any progress after which a connection is given up."""
        self.patience = patience
        self.monotonic = monotonic
        self.broken = False
        self._lock = threading.Lock()
        self._sockets: dict[int, socket.socket] = {}  # of each thread that is in a request; a second name for each

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """The requests that this thread makes inside belong to this line. Raises OSError if it was broken off."""
        token = _USED.set(self)
        try:
            yield
        finally:
            _USED.reset(token)
            self._let_go()
        if self.broken:
            raise ConnectionAbortedError("told to stop")  # where the answer ended may be our own doing

    def take(self, descriptor: int) -> None:
        """This thread's request goes by that socket from now on. Raises OSError once the line is broken off."""
        self._let_go()
        with self._lock:
            if self.broken:
                raise ConnectionAbortedError("told to stop")
            self._sockets[threading.get_ident()] = socket.socket(fileno=os.dup(descriptor))

    def break_off(self) -> None:
        """End all requests that are under way, and let none begin."""
        with self._lock:
            self.broken = True
            for each in self._sockets.values():
                with contextlib.suppress(OSError):  # the other side was faster
                    each.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        with self._lock:
            known = self._sockets.pop(threading.get_ident(), None)
        if known is not None:
            known.close()


_USED: ContextVar[Line] = ContextVar("line")


def in_use() -> bool:
    """Whether this thread is inside ``Line.used``."""
    return _USED.get(None) is not None


class _Head:
    """The lines before an answer's body, as many as a store has."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self._left = _HEAD

    def readline(self, most: int) -> bytes:
        line: bytes = self.source.readline(min(most, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise TooLongError("InvalidResponse", _HEAD)
        return line


class _Answer(http.client.HTTPResponse):
    """The library's, but for an end to its head."""

    def begin(self) -> None:
        head = self.fp = _Head(self.fp)  # type: ignore[assignment]  # all that is read of it are lines
        try:
            super().begin()
        finally:
            self.fp = head.source


class Connection(HTTPConnection):
    """A connection whose time runs out only while nothing moves. It belongs to the line that is used."""

    response_class = _Answer
    _sends_part = False
    _began = 0.0
    _sent = 0

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
            _USED.get().take(sock.fileno())
            sock.setsockopt(*_AT_ONCE)
            sock.setsockopt(*_UNSENT, _LEAST_UNSENT)
            sock.settimeout(self.timeout)
            sock.connect(address)
        except OSError:
            sock.close()
            raise
        return sock

    def request(self, method: str, *arguments: Any, **options: Any) -> None:
        """Send the request, on a line that knows the socket."""
        self._sends_part = method == "PUT"
        self._began, self._sent = _USED.get().monotonic(), 0
        if self.sock is not None:
            _USED.get().take(self.sock.fileno())
        super().request(method, *arguments, **options)

    def send(self, data: Any) -> None:
        """Send all of ``data``; raises TimeoutError when nothing moves for too long."""
        if self.sock is None:
            self.connect()
        sock, view, stall = self.sock, memoryview(data), _Stall(self.sock.fileno())
        self._sent += len(view)
        before = sock.gettimeout()
        sock.settimeout(stall.look)
        try:
            while view:
                try:
                    view = view[sock.send(view) :]
                except TimeoutError:
                    stall.check()  # to be sent again as it is: TLS may have taken its first records
                else:
                    stall.over()
        finally:
            sock.settimeout(before)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in the library
        """Wait for the answer; its time runs from when the request has left, not from when the kernel took it."""
        self._await_departure()
        if self._sends_part:  # joining them may take a store long, but not taking in one
            self.timeout = min(self.timeout or _USED.get().patience, _USED.get().patience)
            self._make_room()
        return super().getresponse()

    def _make_room(self) -> None:
        """Let as much wait unsent as the body's pace tells."""
        seconds = _USED.get().monotonic() - self._began
        if self.sock is not None and seconds > 0:
            self.sock.setsockopt(*_UNSENT, max(_LEAST_UNSENT, int(self._sent / seconds * _AHEAD)))

    def _await_departure(self) -> None:
        if self.sock is None:
            return
        poll = select.poll()
        # Over TLS there may be something to read that is no answer.
        poll.register(self.sock, select.POLLRDHUP if isinstance(self, HTTPSConnection) else select.POLLIN)
        stall, pause = _Stall(self.sock.fileno()), _SOON
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


def held_back(descriptor: int) -> int:
    """Bytes that the kernel took and the other side has not acknowledged (SIOCOUTQ, tcp(7))."""
    answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


class _Stall:
    """Since when nothing has left on a socket."""

    def __init__(self, descriptor: int) -> None:
        self._line = _USED.get()
        self._descriptor = descriptor
        self.look = min(_LOOK, self._line.patience / 4)
        self.over()

    def over(self) -> None:
        """Something was taken: begin anew."""
        self._held = -1
        self._since = self._line.monotonic()

    def check(self) -> None:
        """Raise TimeoutError when nothing has been acknowledged for too long."""
        held, now = held_back(self._descriptor), self._line.monotonic()
        if held != self._held:
            self._held, self._since = held, now
        elif now - self._since >= self._line.patience:
            raise TimeoutError(f"nothing was sent for {self._line.patience:.0f} s")
