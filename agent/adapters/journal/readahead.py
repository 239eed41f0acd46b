"""Reading many entries one after the other, with few calls where they lie near each other."""

from __future__ import annotations

import os

_WINDOW = 256 * 1024  # bytes


class ReadAhead:
    """A window on the journal that moves along with who reads, forward or backward."""

    def __init__(self, descriptor: int) -> None:
        """Nothing is read yet from the open file ``descriptor``."""
        self._descriptor = descriptor
        self._start, self._data = 0, b""
        self._last = -_WINDOW

    def read(self, offset: int, length: int, end: int) -> bytes:
        """The bytes there; nothing behind ``end`` is valid yet."""
        at = offset - self._start
        if not 0 <= at <= len(self._data) - length:
            near = abs(offset - self._last) < _WINDOW // 4
            ahead = offset > self._last
            start = offset if ahead or not near else max(0, offset + length - _WINDOW)
            size = min(_WINDOW, end - start) if near else 0
            self._start, self._data = (
                start,
                os.pread(self._descriptor, max(size, offset + length - start), start),
            )
            at = offset - start
        self._last = offset
        return self._data[at : at + length]
