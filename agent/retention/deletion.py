"""Takes one recording off the disk, and what belongs to it: the only code in the agent that deletes recordings.

A name is looked at through open descriptors, folder by folder from its root, so that nothing that is swapped meanwhile
leads to other bytes. The recording goes before its companions: what a power cut leaves behind is a small file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from agent.discovery.examine import compressing
from agent.discovery.file_names import DONE, sidecar_name
from agent.files.fingerprint import fingerprint
from agent.files.writers import keep_writers_out
from agent.model.errors import FileChangedError
from agent.model.touch_files import RESYNC
from agent.model.values import utc_text

_METADATA = "metadata.yaml"  # what rosbag2 calls it
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


class NotDeletableError(Exception):
    """This name may not be deleted; its text says why."""


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """One name of a recording, open and looked at. No program can begin to write to it where the kernel helps."""

    path: Path
    folder: int
    descriptor: int
    state: os.stat_result
    leased: bool

    @property
    def key(self) -> tuple[int, ...]:
        """Another one for another file, and after any change of this file, its times included."""
        return _key(self.state)

    def refuse_waiting_writer(self) -> None:
        """Raise StaysError where a program began to open the file for writing since it was looked at.

        The kernel lets that program wait while the lease is held. What it would write into a file
        without a name would be lost.
        """
        if self.leased and fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            raise NotDeletableError("a program wants to write to it")

    def unlink(self) -> None:
        """Delete the name if it still is what was looked at. Raises StaysError, and OSError where nobody may."""
        self.refuse_waiting_writer()
        there = os.stat(self.path.name, dir_fd=self.folder, follow_symlinks=False)
        if not _key(there) == _key(os.fstat(self.descriptor)) == _key(self.state):
            raise NotDeletableError("it changed while it was looked at")
        os.unlink(self.path.name, dir_fd=self.folder)

    @property
    def freed(self) -> int:
        """Bytes that the disk gets back: none while the recording has another name."""
        now = os.fstat(self.descriptor)
        return now.st_blocks * 512 if now.st_nlink == 0 else 0


class Deletion:
    """Holds no state; may be used by several threads."""

    def __init__(self, roots: Sequence[Path], *, with_sidecar: bool) -> None:
        """``roots`` are the watched folders. Without sidecars a ``.json`` is somebody else's, and stays."""
        absolute = {Path(os.path.abspath(root)) for root in roots}  # noqa: PTH100 - a root may be a link, and stays one
        self._roots = sorted(absolute, key=lambda root: len(root.parts), reverse=True)
        self._with_sidecar = with_sidecar

    @contextmanager
    def checked(self, path: Path, wanted: str, mtime: str) -> Iterator[VerifiedFile]:
        """The name ``path``, if the bytes of fingerprint ``wanted`` lie there and nothing speaks for them.

        A fingerprint sees three windows only, so a file that was written to since ``mtime`` (utc_text) stays, too.
        Whether all of its bytes were uploaded is for ``agent.retention.verify`` to say.

        Raises StaysError, and OSError when it can't be read; FileNotFoundError when it is gone.
        """
        with self._opened_folder(path) as folder:
            if _exists(path.name + RESYNC, folder):
                raise NotDeletableError("a marker asks for its resync")
            if reason := compressing(path, folder):
                raise NotDeletableError(reason.message)
            if not stat.S_ISREG(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise NotDeletableError("it is no regular file")
            descriptor = os.open(path.name, _FILE, dir_fd=folder)
            try:
                state = os.fstat(descriptor)
                if not stat.S_ISREG(state.st_mode):
                    raise NotDeletableError("it is no regular file")
                if utc_text(state.st_mtime_ns / 1e9) != mtime:
                    raise NotDeletableError("it was written to or copied since it was uploaded")
                kept_out = keep_writers_out(descriptor)
                if kept_out is False:
                    raise NotDeletableError("a program writes to it")
                if _fingerprint(descriptor, state.st_size) != wanted:
                    raise NotDeletableError("it has other bytes now")
                yield VerifiedFile(path, folder, descriptor, state, leased=kept_out is True)
            finally:
                os.close(descriptor)

    def tidy(self, path: Path) -> None:
        """Delete what the recording that was at ``path`` leaves behind: sidecar, done marker, an empty bag's folder.

        Links are not touched, nor what another file of the same stem may still need. Raises OSError and StaysError.
        """
        with self._opened_folder(path) as folder:
            names = os.listdir(folder)  # noqa: PTH208 - a descriptor has no iterdir
            if path.name in names:
                return  # a new recording took the name: it needs them
            _unlink_file(path.name + DONE, folder)
            sidecar = sidecar_name(path.name)
            needed = any(name != sidecar and sidecar_name(name) == sidecar for name in names)
            if self._with_sidecar and not needed:
                _unlink_file(sidecar, folder)
        if path.parent not in self._roots:
            self._tidy_bag(path.parent)

    def _tidy_bag(self, bag: Path) -> None:
        """Delete a folder in which nothing but a bag's metadata is left; never a watched one, nor a mounted one."""
        with self._opened_folder(bag) as above:
            below = os.open(bag.name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
            try:
                state = os.fstat(below)
                if (
                    _identity(state) in self._root_identities()
                    or state.st_dev != os.fstat(above).st_dev
                ):
                    return
                left = os.listdir(below)  # noqa: PTH208 - likewise
                if left == [_METADATA] and _unlink_file(_METADATA, below):
                    os.rmdir(bag.name, dir_fd=above)
            finally:
                os.close(below)

    @contextmanager
    def _opened_folder(self, path: Path) -> Iterator[int]:
        """The folder that ``path`` lies in, reached from its root by real folders only, none with a resync marker."""
        root = next(
            (root for root in self._roots if path != root and path.is_relative_to(root)), None
        )
        if root is None or os.pardir in path.parts:
            raise NotDeletableError("it lies in none of the watched folders")
        folder = os.open(root, _FOLDER)
        try:
            for part in path.parent.relative_to(root).parts:
                _refuse_resync(folder)
                try:
                    below = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
                except OSError as error:
                    if error.errno in (errno.ENOTDIR, errno.ELOOP):
                        raise NotDeletableError("it is reached through a link") from error
                    raise
                os.close(folder)
                folder = below
            _refuse_resync(folder)
            yield folder
        finally:
            os.close(folder)

    def _root_identities(self) -> set[tuple[int, int]]:
        found = set()
        for root in self._roots:
            with suppress(OSError):
                found.add(_identity(root.stat()))
        return found


def _refuse_resync(folder: int) -> None:
    if _exists(RESYNC, folder):
        raise NotDeletableError("a marker asks for the resync of its folder")


def _exists(name: str, folder: int) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _unlink_file(name: str, folder: int) -> bool:
    """Delete a regular file; tells whether there was one."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return False
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _fingerprint(descriptor: int, size: int) -> str:
    try:
        return str(fingerprint(descriptor, size))
    except FileChangedError:
        return ""


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _key(state: os.stat_result) -> tuple[int, ...]:
    """Another one also after bytes were written and the time of that put back."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
