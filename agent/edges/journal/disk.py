"""What the journal asks of the operating system beyond plain reading."""

from __future__ import annotations

import errno
import os
from pathlib import Path

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


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
