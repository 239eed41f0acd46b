"""File systems for tests: a small one of its own, and a folder that cannot be changed.

They are made by system calls, because unit tests start no process. Only root may make them.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# The request of the ioctl FS_IOC_SETFLAGS, and the flag of `chattr +i`.
_SET_FLAGS = 0x40086602
_IMMUTABLE = 0x10

_LIBRARY = ctypes.CDLL(None, use_errno=True)


@contextmanager
def mounted(folder: Path, mib: int = 64) -> Iterator[None]:
    """Mount an empty file system of ``mib`` MiB at ``folder``, which must exist, in the block.

    Skips the test where nothing can be mounted.
    """
    place = os.fsencode(folder)
    if _LIBRARY.mount(b"tmpfs", place, b"tmpfs", 0, f"size={mib}m".encode()):
        pytest.skip(f"can't mount here: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        if _LIBRARY.umount2(place, 0):
            raise OSError(ctypes.get_errno(), "umount", str(folder))


@contextmanager
def immutable(folder: Path) -> Iterator[None]:
    """Forbid all changes of the names in ``folder`` during the block, as ``chattr +i`` does.

    Skips the test where the file system has no such flag.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.ioctl(descriptor, _SET_FLAGS, array.array("l", [_IMMUTABLE]))
        except OSError as error:
            pytest.skip(f"can't make a folder immutable here: {error}")
        try:
            yield
        finally:
            fcntl.ioctl(descriptor, _SET_FLAGS, array.array("l", [0]))
    finally:
        os.close(descriptor)
