"""Sends bytes over a connection for as long as it makes progress.

urllib3's timeout limits how long one block may take as a whole, which cuts off a slow uplink that
is healthy. The functions here give a connection up only when nothing at all was sent for too long.
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

from agent.adapters.store.cancel_scope import current_scope
from agent.adapters.store.part_body import PartPiece

# How often a connection that accepts no more bytes is checked for progress.
_STALL_CHECK_SECONDS = 1.0

# The most that one sendfile() call may hand to the kernel. Bytes handed over count as sent, so a
# larger value would make a dead connection look alive for longer.
_SENDFILE_MAX_BYTES = 256 * 1024

# What sendfile() raises when the connection has failed. Its other errors are the file's.
_CONNECTION_ERRNOS = frozenset(
    {errno.EBADF, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOBUFS}
)


def send_all(sock: socket.socket, blocks: Iterable[Any]) -> None:
    """Send all these bytes, over TLS or not.

    Args:
        sock: A connected socket.
        blocks: Objects that support the buffer protocol.

    Raises:
        TimeoutError: Nothing was sent for the scope's ``stall_timeout``.
        OSError: The connection failed.
    """
    stall = StallDetector(sock.fileno())
    timeout_before = sock.gettimeout()
    sock.settimeout(stall.check_seconds)
    try:
        for block in blocks:
            view = memoryview(block)
            while view:
                try:
                    view = view[sock.send(view) :]
                except TimeoutError:
                    # The same bytes must be sent again: TLS may have encrypted some of them.
                    stall.check()
                else:
                    stall.reset()
    finally:
        sock.settimeout(timeout_before)


def send_file(sock: socket.socket, piece: PartPiece) -> None:
    """Send as much of ``piece`` as the kernel can copy from the file by itself, over plain TCP.

    Some file systems do not support this. What is left of ``piece`` afterwards must be read and
    sent by ``send_all``.

    Raises:
        TimeoutError: Nothing was sent for the scope's ``stall_timeout``.
        OSError: The connection failed.
    """
    stall = StallDetector(sock.fileno())
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    while piece:
        try:
            count = os.sendfile(
                sock.fileno(), piece.descriptor, piece.offset, min(len(piece), _SENDFILE_MAX_BYTES)
            )
        except BlockingIOError:
            if not poll.poll(stall.check_seconds * 1000):
                stall.check()
            continue
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            if error.errno in _CONNECTION_ERRNOS:
                raise
            # The error is about the file, or its file system does not support sendfile(). Reading
            # the file tells which.
            return
        if count == 0:
            return
        piece.mark_sent(count)
        stall.reset()


class StallDetector:
    """Detects that a connection makes no progress.

    A socket timeout limits one send call as a whole, which cuts off a slow uplink that is healthy.
    This class asks the kernel how many bytes are still waiting to be acknowledged. As long as that
    number changes, there is progress.

    Used only by the thread that sends on the socket, inside a ``CancelScope``.
    """

    def __init__(self, descriptor: int) -> None:
        """Watch a socket; the current scope says how long it may stall.

        Args:
            descriptor: The socket's file descriptor.
        """
        self._scope = current_scope()
        self._descriptor = descriptor
        # How long the sender may wait between two checks, in seconds.
        self.check_seconds = min(_STALL_CHECK_SECONDS, self._scope.stall_timeout / 4)
        self._unchanged_since = 0.0
        self.reset()

    def reset(self) -> None:
        """Say that bytes were accepted: the stall, if there was one, is over."""
        self._unacknowledged = -1

    def check(self) -> None:
        """Raise TimeoutError when the other side has acknowledged nothing for too long."""
        unacknowledged, now = unacknowledged_bytes(self._descriptor), self._scope.monotonic()
        if unacknowledged != self._unacknowledged:
            self._unacknowledged, self._unchanged_since = unacknowledged, now
        elif now - self._unchanged_since >= self._scope.stall_timeout:
            raise TimeoutError(f"nothing was sent for {self._scope.stall_timeout:.0f} s")


def unacknowledged_bytes(descriptor: int) -> int:
    """Return how many bytes the kernel holds that the other side has not acknowledged.

    This is SIOCOUTQ of tcp(7).
    """
    answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
