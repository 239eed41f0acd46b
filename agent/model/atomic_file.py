"""Writes small files so that they are always whole, also after a power loss."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def put(path: Path, data: bytes, *, owner: Path, mode: int = 0o640) -> None:
    """Replace the file at ``path`` by one with the content ``data``. It is durable on return.

    The file gets ``mode``, and the owner and group of the file or folder ``owner`` if this user may
    set them. The content is first written to ``.NAME.new`` in the same folder. So a caller that may
    meet another writer of this path must hold a lock. Raises OSError.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    # Other users may write to the folder, too. With O_EXCL and O_NOFOLLOW no file or link of theirs
    # is opened.
    descriptor = os.open(
        aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            give(descriptor, owner)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def give(descriptor: int, owner: Path) -> None:
    """Give an open file the owner and the group of ``owner``, or the group alone.

    Nothing happens if this user may set neither.
    """
    state = owner.stat()
    for uid, gid in ((state.st_uid, state.st_gid), (-1, state.st_gid)):
        with suppress(PermissionError):
            os.fchown(descriptor, uid, gid)
            return


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
