"""Computes the fingerprint of a file: the identity of its bytes, from a few parts of them.

A recording may be many gigabytes large. To hash all of it for each question would cost more disk
reads than the upload itself, so the fingerprint covers only the size and three windows.
"""

from __future__ import annotations

import hashlib
import os

from agent.model.errors import FileChangedError
from agent.model.values import Fingerprint

# The windows are part of the definition of a fingerprint. Histories on disk hold fingerprints, so
# this number must never change.
_WINDOW_BYTES = 64 * 1024


def fingerprint(descriptor: int, size: int) -> Fingerprint:
    """Return the identity of the first ``size`` bytes of an open file.

    The fingerprint is a SHA-256 over three windows of 64 KiB, one after the other: the first one,
    the one that begins at ``size // 2 - 32 KiB``, and the last one. A file of at most 192 KiB is
    hashed as a whole instead.

    Args:
        descriptor: The file, open for reading. Its position is neither used nor moved.
        size: How many bytes of the file count.

    Raises:
        FileChangedError: The file is shorter than ``size``.
        OSError: The disk does not answer.
    """
    if size <= 3 * _WINDOW_BYTES:
        windows = [(0, size)]
    else:
        starts = (0, (size - _WINDOW_BYTES) // 2, size - _WINDOW_BYTES)
        windows = [(start, _WINDOW_BYTES) for start in starts]
    digest = hashlib.sha256()
    for start, length in windows:
        block = os.pread(descriptor, length, start)
        if len(block) != length:
            raise FileChangedError(f"the file is shorter than {size} bytes")
        digest.update(block)
    return Fingerprint(size, digest.hexdigest())
