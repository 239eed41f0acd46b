"""Keeps a copy of the journal before its format changes."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from agent.adapters.journal.disk import allocate, write_all
from agent.adapters.journal.errors import NO_SPACE_ERRNOS
from agent.model.atomic_file import sync_folder
from agent.model.errors import HistoryFullError

_CHUNK_BYTES = 1024 * 1024


def copy_path(journal: Path, format_: int) -> Path:
    """Return where the copy of the file ``journal`` is kept that has the format ``format_``."""
    return journal.with_name(f"{journal.name}.format-{format_}")


def keep_copy(journal: int, end: int, copy: Path) -> None:
    """Keep the first ``end`` bytes of the open ``journal`` as the file ``copy``.

    On return the copy is on the disk, and was read back and compared. It takes the place of an
    older copy in one step.

    Raises:
        HistoryFullError: There is no space for the copy. Nothing has changed.
        OSError: The copy can't be written or read. Nothing has changed.
    """
    if copy.exists() and _is_copy(copy, journal, end):
        return
    aside = copy.with_name(copy.name + ".new")
    try:
        _write_copy(aside, journal, end)
        aside.rename(copy)
    except OSError as error:
        aside.unlink(missing_ok=True)
        if error.errno not in NO_SPACE_ERRNOS:
            raise
        raise HistoryFullError(
            f"no space for {copy}, the copy of the history that is kept before its format "
            f"changes: it needs {end} bytes",
            hint=f"free {end} bytes on its file system and start the agent again. "
            "Nothing was changed",
        ) from error
    sync_folder(copy.parent)


def _write_copy(copy: Path, journal: int, end: int) -> None:
    new = os.open(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        os.fchmod(new, 0o640)
        allocate(new, 0, end)
        for start in range(0, end, _CHUNK_BYTES):
            write_all(new, os.pread(journal, min(_CHUNK_BYTES, end - start), start), start)
        os.fsync(new)
    finally:
        os.close(new)
    if not _is_copy(copy, journal, end):
        raise OSError(errno.EIO, "the copy that was read back is not what was written")


def _is_copy(copy: Path, journal: int, end: int) -> bool:
    """Return whether ``copy`` on the disk is the first ``end`` bytes of the open ``journal``."""
    descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_size != end:
            return False
        # The pages that the kernel still holds of the copy prove nothing about the disk.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        chunks = ((start, min(_CHUNK_BYTES, end - start)) for start in range(0, end, _CHUNK_BYTES))
        return all(
            os.pread(descriptor, size, start) == os.pread(journal, size, start)
            for start, size in chunks
        )
    finally:
        os.close(descriptor)
