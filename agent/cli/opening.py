"""Opens the paths that a command is given: only regular files and folders, and no links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.adapters.config import WatchSettings
from agent.files.below_root import open_regular_file, root_of

_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# A folder above the wanted file only has to be passed, which needs no right to list the folder.
_PASS_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Opener:
    """Opens files and folders for the commands that read recordings.

    Operators run these commands as root in folders where other users may write. Opening a device
    can do harm by itself, a pipe can make the command wait, and a link can lead to a private file.
    The rules for links are those of the agent: a watched folder may be a link or lie behind links,
    and below a watched folder no link is followed. Elsewhere the last part of a path is never
    followed. Where ``watch.follow_symlinks`` is true, all links are followed.

    The agent's own parts use ``agent.files.below_root``, which knows only paths below a watched
    folder. A command may be given any path, also one that leads into a watched folder by a link.

    An opener holds no state between calls. Any thread may use it.
    """

    def __init__(self, watch: WatchSettings) -> None:
        """Create an opener for the settings' section ``watch``."""
        self._follow = watch.follow_symlinks
        self._roots = watch.roots
        self._real_roots = [Path(os.path.realpath(root)) for root in watch.roots]

    @contextmanager
    def file(self, path: Path) -> Iterator[int]:
        """Open the regular file at the absolute ``path`` for reading and yield its descriptor.

        Raises:
            RecordingError: ``not_regular``, something else than a regular file lies there.
            OSError: The file can't be opened.
        """
        with self._parent_folder(path) as folder:
            descriptor = open_regular_file(path, folder, follow_symlinks=self._follow)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def folder(self, path: Path) -> Iterator[int]:
        """Open the folder at the absolute ``path`` for listing and yield its descriptor.

        Raises:
            OSError: The folder can't be opened. The number of the error is ENOTDIR or ELOOP where
                a link leads to the folder and is not followed.
        """
        with self._parent_folder(path) as parent:
            follow = self._follow or path in self._roots or self._leads_to_root(path, parent)
            flags = _LIST_FLAGS if follow else _LIST_FLAGS | os.O_NOFOLLOW
            descriptor = os.open(path.name or os.sep, flags, dir_fd=parent)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def _parent_folder(self, path: Path) -> Iterator[int]:
        """Yield a descriptor of the folder that ``path`` lies in."""
        # Where links are followed, the kernel resolves the whole path in one call, because the
        # kernel detects loops of links.
        start = path.parent
        if not self._follow:
            start = root_of(path.parent, self._roots) or Path(os.sep)
        descriptor = os.open(start, _PASS_FLAGS)
        try:
            for name in path.relative_to(start).parts[:-1]:
                watched = self._is_watched(descriptor)
                flags = _PASS_FLAGS | os.O_NOFOLLOW if watched else _PASS_FLAGS
                below = os.open(name, flags, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = below
            yield descriptor
        finally:
            os.close(descriptor)

    def _is_watched(self, folder: int) -> bool:
        """Return whether an open folder is a watched folder or lies below one.

        The kernel is asked where the folder really lies, because links may have led to it.
        """
        real_path = Path(f"/proc/self/fd/{folder}").readlink()
        return any(real_path.is_relative_to(root) for root in self._real_roots)

    def _leads_to_root(self, path: Path, parent: int) -> bool:
        """Return whether ``path`` is another name of a watched folder, or of a folder above one."""
        real_path = Path(os.path.realpath(path))
        holds_root = any(root.is_relative_to(real_path) for root in self._real_roots)
        return holds_root and not self._is_watched(parent)
