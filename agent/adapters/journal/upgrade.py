"""The copy of the journal that is kept before its format changes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from agent.adapters.journal.disk import allocate, write
from agent.model.atomic_file import sync_folder
from agent.model.errors import HistoryFullError

_CHUNK = 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def keep_copy(journal: int, end: int, copy: Path) -> None:
    """Keep the first ``end`` bytes of the open ``journal`` as ``copy``; on the disk, and read back, on return.

    It takes the place of an older copy in one step. Raises HistoryFullError when there is no room for it, and OSError;
    nothing has changed then.
    """
    if copy.exists() and _holds(copy, journal, end):
        return
    aside = copy.with_name(copy.name + ".new")
    try:
        _write(aside, journal, end)
        aside.rename(copy)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno not in _FULL:
            raise
        raise HistoryFullError(
            f"no room for {copy}, the copy kept before the history's format changes: it needs {end} bytes",
            hint=f"free {end} bytes on its file system and start the agent again; nothing was changed",
        ) from error
    sync_folder(copy.parent)


def _write(copy: Path, journal: int, end: int) -> None:
    new = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.fchmod(new, 0o640)
        allocate(new, 0, end)
        for start in range(0, end, _CHUNK):
            write(new, os.pread(journal, min(_CHUNK, end - start), start), start)
        os.fsync(new)
    finally:
        os.close(new)
    if not _holds(copy, journal, end):
        raise OSError(errno.EIO, "what was written of it is not what is read")


def _holds(copy: Path, journal: int, end: int) -> bool:
    """Whether ``copy``, as the disk has it, is the first ``end`` bytes of the open ``journal``."""
    descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != end:
            return False
        os.posix_fadvise(
            descriptor, 0, 0, os.POSIX_FADV_DONTNEED
        )  # what memory holds of it proves nothing
        chunks = ((start, min(_CHUNK, end - start)) for start in range(0, end, _CHUNK))
        return all(
            os.pread(descriptor, size, start) == os.pread(journal, size, start)
            for start, size in chunks
        )
    finally:
        os.close(descriptor)
