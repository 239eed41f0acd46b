"""Opens files below a watched folder without following links.

A user who may write into a watched folder can replace a folder by a link between two calls that
use the same path. So a file is reached folder by folder, each one opened through the descriptor of
the folder above. Later changes to the path can't lead to another file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from agent.model.errors import RecordingError

# O_PATH needs no right to list the folder, only the right to pass through it.
_FOLDER_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

# O_NONBLOCK: to open a pipe, or a file on which another program holds a lease, must not wait.
# O_NOCTTY: a terminal that is opened must not become this process's own.
_FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@contextmanager
def opened_folder(folder: Path, root: Path, *, follow_symlinks: bool) -> Iterator[int]:
    """Open ``folder``, which is ``root`` or lies below it, for use as ``dir_fd``.

    Only the root itself may be a link, because its path comes from the configuration. With
    ``follow_symlinks`` links are followed everywhere.

    Raises:
        RecordingError: ``not_in_root``, a link leads to the folder.
        OSError: The folder can't be opened; FileNotFoundError where there is none.
    """
    start, names = (folder, ()) if follow_symlinks else (root, folder.relative_to(root).parts)
    descriptor = _descend(start, names)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def open_regular_file(path: Path, folder: int, *, follow_symlinks: bool) -> int:
    """Open the file that has the name of ``path`` in the open ``folder``, for reading.

    The call never waits, whatever lies at the path. Returns a descriptor, which the caller closes.

    Raises:
        RecordingError: ``not_regular``, the name belongs to a link, a pipe, a device or a folder.
        OSError: The file can't be opened; FileNotFoundError where there is none.
    """
    # A device is not even opened, because that alone can have an effect.
    _refuse_irregular(path, os.stat(path.name, dir_fd=folder, follow_symlinks=follow_symlinks))
    flags = _FILE_FLAGS | (0 if follow_symlinks else os.O_NOFOLLOW)
    descriptor = os.open(path.name, flags, dir_fd=folder)
    try:
        _refuse_irregular(path, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def root_of(path: Path, roots: Sequence[Path]) -> Path | None:
    """Return the innermost of ``roots`` that ``path`` lies below; None where there is none."""
    return max(
        (root for root in roots if root in path.parents),
        key=lambda root: len(root.parts),
        default=None,
    )


def _descend(root: Path, names: Sequence[str]) -> int:
    """Return a descriptor of the folder that these names lead to from ``root``, one by one."""
    descriptor = os.open(root, _FOLDER_FLAGS)
    for name in names:
        try:
            below = _open_folder(name, descriptor)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _open_folder(name: str, above: int) -> int:
    """Return a descriptor of the folder ``name`` in the open folder ``above``.

    Raises RecordingError (``not_in_root``) where the name is a link or leads upwards.
    """
    if name == os.pardir:
        raise RecordingError(
            "a path with .. in it may leave the watched folder", code="not_in_root"
        )
    try:
        return os.open(name, _FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=above)
    except NotADirectoryError:
        if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
            raise RecordingError(
                f"the folder {name} is a symbolic link",
                code="not_in_root",
                hint="set watch.follow_symlinks, or watch the folder that it leads to",
            ) from None
        raise


def _refuse_irregular(path: Path, state: os.stat_result) -> None:
    """Raise RecordingError (``not_regular``) unless ``state`` is that of a regular file."""
    if not stat.S_ISREG(state.st_mode):
        raise RecordingError(f"{path} is no regular file", code="not_regular")
