"""A part on its way: its bytes as the file has them, in pieces that may go, so that memory depends on no size."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import cast

from isal.isal_zlib import crc32

from agent.model.digests import Crc32, Hasher, hasher
from agent.model.errors import FileChangedError, GateClosedError
from agent.model.values import Part, Transfer

PIECE = 1024 * 1024  # may go at once, at most
_BLOCK = 128 * 1024  # read from the disk at once
_BUFFER = threading.local()  # one block per thread that reads


class PartPiece:
    """Bytes of a file that may go now; its length is what has not gone yet."""

    def __init__(
        self, descriptor: int, offset: int, size: int, gone: Callable[[int], None]
    ) -> None:
        """``gone`` is told of bytes that went, as soon as they did."""
        self.descriptor = descriptor
        self.offset = offset
        self._size = size
        self._gone = gone

    def __len__(self) -> int:
        return self._size

    def take(self, count: int) -> None:
        """Its next ``count`` bytes have gone."""
        self.offset += count
        self._size -= count
        self._gone(count)

    def blocks(self) -> Iterator[memoryview]:
        """What is left, read block by block: each holds until the next, which says that it has gone.

        Raises FileChangedError where the file has no such bytes.
        """
        buffer = _buffer()
        while self._size:
            block = buffer[: self._size]
            self._read_into(block)
            yield block
            self.take(len(block))

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
    """A part as an HTTP body."""

    def __init__(self, part: Part, descriptor: int, transfer: Transfer) -> None:
        """Read nothing yet; ``descriptor`` stays the caller's."""
        self.sha256 = ""  # hex, where the signature covers the payload
        self._part = part
        self._descriptor = descriptor
        self._transfer = transfer
        self._position = 0

    def __len__(self) -> int:
        return self._part.size

    def tell(self) -> int:
        """Where the next piece begins."""
        return self._position

    def seek(self, position: int) -> None:
        """Go there, and count the bytes in between as not sent, or as sent."""
        self._move(position - self._position)

    def read(self, size: int) -> PartPiece:
        """The next bytes that may go, at most ``size``, once those before have gone; raises GateClosedError."""
        granted = self._transfer.grant(min(size, self._part.size - self._position))
        self._check()
        return PartPiece(self._descriptor, self._part.offset + self._position, granted, self._move)

    def digest(self, *algorithms: str) -> list[bytes]:
        """The digests of all its bytes, in one pass; raises GateClosedError and FileChangedError."""
        hashers = [_hasher(algorithm) for algorithm in algorithms]
        self._check()
        for block in PartPiece(
            self._descriptor, self._part.offset, self._part.size, lambda _: self._check()
        ).blocks():
            for each in hashers:
                each.update(block)
        return [each.digest() for each in hashers]

    def _move(self, count: int) -> None:
        self._position += count
        self._transfer.advance(count)

    def _check(self) -> None:
        if self._transfer.stopped:
            raise GateClosedError("the upload was told to stop")


def _buffer() -> memoryview:
    """This thread's only one."""
    if not hasattr(_BUFFER, "block"):
        _BUFFER.block = memoryview(bytearray(_BLOCK))
    return cast("memoryview", _BUFFER.block)


def _hasher(algorithm: str) -> Hasher:
    """Intel's CRC-32 costs a tenth of the standard library's, which would be a sixth of all that an upload costs."""
    return Crc32(crc32=crc32) if algorithm == "CRC32" else hasher(algorithm)
