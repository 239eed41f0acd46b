"""Reads many entries of the journal one after the other with few calls to the system."""

from __future__ import annotations

import os

_WINDOW_BYTES = 256 * 1024

# Two reads that are closer than this are taken for a walk through the file. Only then does
# reading more than was asked for pay.
_NEAR_BYTES = _WINDOW_BYTES // 4


class ReadAhead:
    """A window of bytes that moves over the journal with its reader, forward or backward.

    Documents that are read in the order of their ids mostly lie next to each other. One call
    then fetches some hundred of them.

    Belongs to one walk through the documents. The bytes in the window are old once the journal
    was compacted; then a new window is needed.
    """

    def __init__(self, descriptor: int) -> None:
        """Begin with an empty window on the open file ``descriptor``."""
        self._descriptor = descriptor
        self._start = 0
        self._data = b""
        # So far before the file that no first read is taken for the next step of a walk.
        self._last_offset = -_WINDOW_BYTES

    def read(self, offset: int, length: int, end: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on.

        ``end`` is where the valid bytes of the file end: nothing behind it is kept in the window.

        Raises:
            OSError: The file can't be read.
        """
        position = offset - self._start
        if not 0 <= position <= len(self._data) - length:
            self._move(offset, length, end)
            position = offset - self._start
        self._last_offset = offset
        return self._data[position : position + length]

    def _move(self, offset: int, length: int, end: int) -> None:
        """Read a window that holds the wanted bytes and those that are probably wanted next."""
        near = abs(offset - self._last_offset) < _NEAR_BYTES
        forward = offset > self._last_offset
        start = offset if forward or not near else max(0, offset + length - _WINDOW_BYTES)
        size = min(_WINDOW_BYTES, end - start) if near else 0
        data = os.pread(self._descriptor, max(size, offset + length - start), start)
        self._start = start
        self._data = data
