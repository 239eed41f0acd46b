"""How a command opens the paths it is given: regular files and folders only, and no links."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.adapters.config import WatchSettings

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A folder on the way to a file only has to be passed, which needs no right to list it.
_ON_THE_WAY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
# The open neither waits for the other end of a pipe nor makes a terminal the command's own.
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Opener:
    """Opens files and folders for the commands that look at recordings.

    Operators run these commands as root in folders where others may write. To open a device can
    do harm by itself, a pipe can keep the command waiting, and a link can lead to a file that is
    nobody's business. The rules for links are those of the agent: a watched folder may be named or
    reached by links, and below it none is followed. Elsewhere the last part of a path is never
    followed. Where ``watch.follow_symlinks`` is true, all links are followed.
    """

    def __init__(self, watch: WatchSettings) -> None:
        """``watch`` is the section of the settings."""
        self._follow = watch.follow_symlinks
        self._roots = sorted(watch.roots, key=lambda root: len(root.parts), reverse=True)
        self._real_roots = [Path(os.path.realpath(root)) for root in watch.roots]

    @contextmanager
    def file(self, path: Path) -> Iterator[int]:
        """Open the regular file at the absolute ``path`` for reading and yield its descriptor.

        Raises OSError if that cannot be done, also where something else than a regular file lies.
        """
        with self._folder_of(path) as folder:
            # Whatever is no regular file is not even opened. It is compared again once it is open,
            # because another file may have come to the name meanwhile.
            _need_regular(os.stat(path.name, dir_fd=folder, follow_symlinks=self._follow), path)
            flags = _FILE if self._follow else _FILE | os.O_NOFOLLOW
            descriptor = os.open(path.name, flags, dir_fd=folder)
            try:
                _need_regular(os.fstat(descriptor), path)
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def folder(self, path: Path) -> Iterator[int]:
        """Open the folder at the absolute ``path`` for listing and yield its descriptor.

        Raises OSError if that cannot be done: ENOTDIR or ELOOP where a link is not followed.
        """
        with self._folder_of(path) as above:
            follow = self._follow or path in self._roots or self._leads_to_root(path, above)
            flags = _FOLDER if follow else _FOLDER | os.O_NOFOLLOW
            descriptor = os.open(path.name or os.sep, flags, dir_fd=above)
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def _folder_of(self, path: Path) -> Iterator[int]:
        """Yield a descriptor of the folder that ``path`` lies in."""
        if self._follow:
            # The kernel goes the whole way at once, because it ends loops of links.
            above = path.parent
        else:
            above = next((root for root in self._roots if root in path.parents), Path(os.sep))
        here = os.open(above, _ON_THE_WAY)
        try:
            for part in path.relative_to(above).parts[:-1]:
                flags = _ON_THE_WAY | os.O_NOFOLLOW if self._is_watched(here) else _ON_THE_WAY
                below = os.open(part, flags, dir_fd=here)
                os.close(here)
                here = below
            yield here
        finally:
            os.close(here)

    def _is_watched(self, folder: int) -> bool:
        """Say whether an open folder is a watched one or lies below one, whatever led to it."""
        place = Path(f"/proc/self/fd/{folder}").readlink()
        return any(place.is_relative_to(root) for root in self._real_roots)

    def _leads_to_root(self, path: Path, above: int) -> bool:
        """Say whether ``path`` is how an operator may name a watched folder, or one above it."""
        place = Path(os.path.realpath(path))
        named = any(root.is_relative_to(place) for root in self._real_roots)
        return named and not self._is_watched(above)


def _need_regular(state: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
