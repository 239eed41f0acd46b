"""What the journal asks of the operating system beyond plain reading."""

from __future__ import annotations

import errno
import os

_NO_FALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Make sure that ``length`` bytes from ``offset`` on can be written later; what is new reads as zeros."""
    try:
        os.posix_fallocate(descriptor, offset, length)
    except OSError as error:
        if error.errno not in _NO_FALLOCATE:
            raise
        start = max(offset, os.fstat(descriptor).st_size)
        while start < offset + length:
            start += os.pwrite(descriptor, bytes(min(65536, offset + length - start)), start)


def write(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
