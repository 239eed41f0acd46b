"""What the journal needs from the operating system beyond plain reading and writing."""

from __future__ import annotations

import errno
import os

# Errors by which a file system says that it can't allocate space ahead of the data.
_ALLOCATION_UNSUPPORTED = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}

# The zeros that one call writes where the file system can't allocate.
_ZERO_BLOCK_BYTES = 64 * 1024


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Make sure that a file has space on the disk for ``length`` bytes from ``offset`` on.

    Bytes that the file did not have before read as zeros. Existing bytes stay as they are. Where
    the file system can't allocate space, zeros are written instead.

    Raises:
        OSError: The disk has no space for them, or does not work.
    """
    try:
        os.posix_fallocate(descriptor, offset, length)
    except OSError as error:
        if error.errno not in _ALLOCATION_UNSUPPORTED:
            raise
        position = max(offset, os.fstat(descriptor).st_size)
        while position < offset + length:
            zeros = bytes(min(_ZERO_BLOCK_BYTES, offset + length - position))
            position += os.pwrite(descriptor, zeros, position)


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of ``data`` at ``offset``, in as many calls as the system needs.

    Raises:
        OSError: The system can't write. Part of ``data`` may have been written by then.
    """
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written
