"""Sockets that are patient with a slow line and done with a dead one, and TLS in few calls.

The library's timeout would bound the sending of a block as a whole. Here only a line on which nothing moves is given
up: the kernel tells how much it still holds back, and as long as that shrinks, however slowly, there is progress.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import ssl
import struct
import termios
from collections.abc import Callable
from typing import Any

from urllib3.util.ssltransport import SSLTransport

from agent.edges.store.line import used_line
from agent.edges.store.window import Piece

_LOOK = 1.0  # seconds between looks at a line that takes nothing
_OF_THE_FILE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EIO, errno.ESTALE})


class Socket(socket.socket):
    """A connection's, with a timeout: it raises TimeoutError only when nothing moves for too long."""

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        """Send all of ``data``."""
        del flags
        view = memoryview(data)
        while view:
            view = view[self._moved(os.write, view) :]

    def send_file(self, piece: Piece) -> None:
        """Send what the kernel can without showing it to us: what is left then must be read."""
        while piece:
            try:
                count = self._moved(os.sendfile, piece.descriptor, piece.offset, len(piece))
            except OSError as error:
                if error.errno not in _OF_THE_FILE:
                    raise
                return
            if count == 0:
                return
            piece.take(count)

    def _moved(self, push: Callable[..., int], *what: Any) -> int:
        """What ``push`` moves into this socket, once it moves anything."""
        try:
            return push(self.fileno(), *what)
        except BlockingIOError:
            pass
        stall, poll = Stall(self.fileno()), select.poll()
        poll.register(self, select.POLLOUT)
        while True:
            poll.poll(stall.look * 1000)
            try:
                return push(self.fileno(), *what)
            except BlockingIOError:
                stall.check()


class Context(ssl.SSLContext):
    """TLS in memory: a block goes out by one call, where the standard library's sockets need one for each 16 KiB."""

    def wrap_socket(  # type: ignore[override]  # of what the base knows, urllib3 asks for this
        self, sock: socket.socket, *, server_hostname: str | None = None
    ) -> SSLTransport:
        """Shake hands, and return what sends and receives over ``sock``."""
        return SSLTransport(sock, self, server_hostname)


def trusting(ca_file: str) -> Context:
    """A client's context; raises OSError where ``ca_file``, in place of the system's authorities, can't be read."""
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file:
        context.load_verify_locations(ca_file)
    else:
        context.load_default_certs()
    return context


class Stall:
    """Since when nothing has left on a socket."""

    def __init__(self, descriptor: int) -> None:
        """It is the line that is used which knows patience."""
        self._line = used_line()
        self._descriptor = descriptor
        self._held = -1
        self._since = self._line.monotonic()
        self.look = min(_LOOK, self._line.patience / 4)

    def check(self) -> None:
        """Raise TimeoutError when nothing has been acknowledged for too long."""
        held, now = held_back(self._descriptor), self._line.monotonic()
        if held != self._held:
            self._held, self._since = held, now
        elif now - self._since >= self._line.patience:
            raise TimeoutError(f"nothing was sent for {self._line.patience:.0f} s")


def held_back(descriptor: int) -> int:
    """Bytes that the kernel took and the other side has not acknowledged (SIOCOUTQ, tcp(7))."""
    answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
