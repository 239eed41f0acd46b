"""Sending that is patient with a slow line and done with a dead one.

The library's timeout would bound the sending of a block as a whole. Here only a line on which nothing moves is given
up: the kernel tells how much it still holds back, and as long as that shrinks, however slowly, there is progress.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Iterable
from typing import Any

from agent.adapters.store.cancel_scope import used_line
from agent.adapters.store.part_body import PartPiece

_LOOK = 1.0  # seconds between looks at a line that takes nothing
_TAKEN = 256 * 1024  # bytes of a file that the kernel may take at once: then they count as gone
_OF_THE_WAY = frozenset(
    {errno.EBADF, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOBUFS}
)


def send_all(sock: socket.socket, blocks: Iterable[Any]) -> None:
    """Send all of these bytes, over TLS or not; raises TimeoutError when nothing moves for too long."""
    stall, before = StallDetector(sock.fileno()), sock.gettimeout()
    sock.settimeout(stall.look)
    try:
        for block in blocks:
            view = memoryview(block)
            while view:
                try:
                    view = view[sock.send(view) :]
                except TimeoutError:
                    stall.check()  # to be sent again as it is: TLS may have taken its first records
                else:
                    stall.over()
    finally:
        sock.settimeout(before)


def send_file(sock: socket.socket, piece: PartPiece) -> None:
    """Send what the kernel can without showing it to us, over plain TCP; what is left then must be read.

    Raises TimeoutError when nothing moves for too long.
    """
    stall, poll = StallDetector(sock.fileno()), select.poll()
    poll.register(sock, select.POLLOUT)
    while piece:
        try:
            count = os.sendfile(
                sock.fileno(), piece.descriptor, piece.offset, min(len(piece), _TAKEN)
            )
        except BlockingIOError:
            if not poll.poll(stall.look * 1000):
                stall.check()
            continue
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            if error.errno in _OF_THE_WAY:
                raise
            return  # of the file, or a file system that can't: reading tells
        if count == 0:
            return
        piece.take(count)
        stall.over()


class StallDetector:
    """Since when nothing has left on a socket."""

    def __init__(self, descriptor: int) -> None:
        """It is the line that is used which knows patience."""
        self._line = used_line()
        self._descriptor = descriptor
        self.look = min(_LOOK, self._line.patience / 4)
        self._since = 0.0
        self.over()

    def over(self) -> None:
        """Something was taken: the next check begins anew."""
        self._held = -1

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
