"""Small files that the agent and its commands leave for each other: whole, and there after power loss."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def put(path: Path, data: bytes, *, owner: Path, mode: int = 0o640) -> None:
    """Put ``data`` in the place of what lies at ``path``; durable on return. Raises OSError.

    The file gets ``mode``, and the owner and group of ``owner``, as far as this user may give it away. It is first
    written aside, as ``.NAME.new``; who may be met by another writer there holds a lock.
    """
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    # Others may write to the folder, too: nothing that they laid there is followed or written to.
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
    """Give an open file to the owner and the group of ``owner``, as far as this user may."""
    state = owner.stat()
    for uid, gid in ((state.st_uid, state.st_gid), (-1, state.st_gid)):
        with suppress(PermissionError):
            os.fchown(descriptor, uid, gid)
            return


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
