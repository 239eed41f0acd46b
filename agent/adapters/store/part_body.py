"""A part of a recording as the body of an HTTP request.

The body is handed out in pieces as the upload's bandwidth allows. A piece is read from the file
only when it is sent, so the memory in use does not depend on the size of a part.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import cast

from isal.isal_zlib import crc32

from agent.model.digests import Crc32, Hasher, hasher
from agent.model.errors import FileChangedError, GateClosedError
from agent.model.transfer import Part, Transfer

# The most that one piece may have.
PIECE_BYTES = 1024 * 1024

# How much is read from the disk at once.
_BLOCK_BYTES = 128 * 1024

# One block for each thread that reads, so that no thread allocates one per piece.
_BUFFERS = threading.local()


class PartPiece:
    """Bytes of a file that may be sent now; its length is what has not been sent yet.

    The piece names bytes in a file and does not hold them, so that the kernel can send them without
    a copy in this process.

    Used only by the thread that sends the part.
    """

    def __init__(
        self, descriptor: int, offset: int, size: int, on_sent: Callable[[int], None]
    ) -> None:
        """Name ``size`` bytes at ``offset`` of an open file.

        Args:
            descriptor: The file's descriptor; it stays the caller's.
            offset: Where the piece begins in the file, in bytes.
            size: How many bytes it has.
            on_sent: Called with the number of bytes each time some were sent.
        """
        self.descriptor = descriptor
        self.offset = offset
        self._size = size
        self._on_sent = on_sent

    def __len__(self) -> int:
        return self._size

    def mark_sent(self, count: int) -> None:
        """Say that the next ``count`` bytes of the piece were sent."""
        self.offset += count
        self._size -= count
        self._on_sent(count)

    def blocks(self) -> Iterator[memoryview]:
        """Read what is left, and yield it block by block.

        A block is valid until the next one is asked for. Asking for the next one also says that
        the block was sent.

        Raises:
            FileChangedError: The file does not have these bytes.
        """
        buffer = _thread_buffer()
        while self._size:
            block = buffer[: self._size]
            self._read_into(block)
            yield block
            self.mark_sent(len(block))

    def _read_into(self, view: memoryview) -> None:
        filled = 0
        while filled < len(view):
            try:
                count = os.preadv(self.descriptor, [view[filled:]], self.offset + filled)
            except OSError as error:
                raise FileChangedError(f"the file can't be read: {error.strerror}") from error
            if count == 0:
                raise FileChangedError("the file is shorter than it was")
            filled += count


class PartBody:
    """A part as an HTTP body: urllib3 takes it for an open file.

    It counts what was sent in the upload's ``Transfer``, and asks the ``Transfer`` how much may be
    sent now.

    Used only by the thread that sends the part.
    """

    def __init__(self, part: Part, descriptor: int, transfer: Transfer) -> None:
        """Make the body of ``part``; the file is read when the body is sent.

        Args:
            part: The bytes of the file that are the body.
            descriptor: The recording's file descriptor; it stays the caller's.
            transfer: Progress and bandwidth of the whole upload.
        """
        # The payload's SHA-256 in hexadecimal, where the request's signature covers it.
        self.sha256 = ""
        self._part = part
        self._descriptor = descriptor
        self._transfer = transfer
        self._position = 0

    def __len__(self) -> int:
        return self._part.size

    def tell(self) -> int:
        """Return where the next piece begins, in bytes from the beginning of the part."""
        return self._position

    def seek(self, position: int) -> None:
        """Move to ``position``, and count the bytes in between as not sent, or as sent."""
        self._advance(position - self._position)

    def read(self, size: int) -> PartPiece:
        """Return the next piece, once the upload's bandwidth allows it.

        Args:
            size: The most bytes that the piece may have.

        Raises:
            GateClosedError: The upload was told to stop.
        """
        granted = self._transfer.grant(min(size, self._part.size - self._position))
        self._check_stopped()
        offset = self._part.offset + self._position
        return PartPiece(self._descriptor, offset, granted, self._advance)

    def digest(self, *algorithms: str) -> list[bytes]:
        """Read the whole part once, and return its digests in the order of ``algorithms``.

        Raises:
            FileChangedError: The file does not have these bytes.
            GateClosedError: The upload was told to stop.
        """
        hashers = [_hasher(algorithm) for algorithm in algorithms]
        self._check_stopped()
        whole = PartPiece(
            self._descriptor,
            self._part.offset,
            self._part.size,
            lambda _count: self._check_stopped(),
        )
        for block in whole.blocks():
            for each in hashers:
                each.update(block)
        return [each.digest() for each in hashers]

    def _advance(self, count: int) -> None:
        self._position += count
        self._transfer.advance(count)

    def _check_stopped(self) -> None:
        if self._transfer.stopped:
            raise GateClosedError("the upload was told to stop")


def _thread_buffer() -> memoryview:
    """Return the one block that belongs to this thread."""
    if not hasattr(_BUFFERS, "block"):
        _BUFFERS.block = memoryview(bytearray(_BLOCK_BYTES))
    return cast("memoryview", _BUFFERS.block)


def _hasher(algorithm: str) -> Hasher:
    """Return a new hasher for ``algorithm``.

    CRC-32 comes from Intel's library. It costs a tenth of the standard library's CRC-32, which
    would be a sixth of all CPU time of an upload.
    """
    return Crc32(crc32=crc32) if algorithm == "CRC32" else hasher(algorithm)
