"""Deletes one recording from the disk, and the files that belong to it.

No other code in the agent deletes recordings. A name is opened folder by folder from its root,
through descriptors, so that a folder that is swapped at the same time can't lead to other bytes.
The recording is deleted before its companions, so a power cut leaves only a small file behind.
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
from agent.files.bag_metadata import BAG_METADATA, open_bag_metadata
from agent.files.fingerprint import fingerprint
from agent.files.writers import keep_writers_out
from agent.model.errors import FileChangedError, RecordingError
from agent.model.touch_files import RESYNC
from agent.model.values import utc_text

# The unit in which stat() counts the blocks of a file.
_BLOCK_BYTES = 512

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


class NotDeletableError(Exception):
    """A file must not be deleted; the text says why."""


@dataclass(frozen=True, slots=True)
class VerifiedFile:
    """One name of a recording, open and checked.

    Where the kernel can give a lease on the file, ``leased`` is true. Then no program can begin to
    write to the file. ``folder`` and ``descriptor`` are open descriptors of folder and file.

    Used by one thread.
    """

    path: Path
    folder: int
    descriptor: int
    state: os.stat_result
    leased: bool

    @property
    def key(self) -> tuple[int, ...]:
        """Identifies the file and its state: each change of the file or its times changes it."""
        return _key(self.state)

    def refuse_waiting_writer(self) -> None:
        """Raise NotDeletableError where a program has begun to open the file for writing.

        The kernel lets the program wait while the lease is held. If the file were deleted, all that
        the program writes would be lost.
        """
        if self.leased and fcntl.fcntl(self.descriptor, fcntl.F_GETLEASE) != fcntl.F_RDLCK:
            raise NotDeletableError("a program wants to write to it")

    def unlink(self) -> None:
        """Delete the name if it still belongs to the file that was checked.

        Raises NotDeletableError, and OSError where the agent's user may not delete it.
        """
        self.refuse_waiting_writer()
        named = os.stat(self.path.name, dir_fd=self.folder, follow_symlinks=False)
        if not _key(named) == _key(os.fstat(self.descriptor)) == _key(self.state):
            raise NotDeletableError("it changed while it was checked")
        os.unlink(self.path.name, dir_fd=self.folder)

    @property
    def freed(self) -> int:
        """Bytes that the deletion freed on the disk: 0 while the recording has another name."""
        now = os.fstat(self.descriptor)
        return now.st_blocks * _BLOCK_BYTES if now.st_nlink == 0 else 0


class Deletion:
    """Checks files below the watched folders, and deletes them with their companions.

    It holds no state, so any thread may use it.
    """

    def __init__(self, roots: Sequence[Path], *, with_sidecar: bool) -> None:
        """Delete below the watched folders ``roots`` only.

        ``with_sidecar`` says whether a ``.json`` beside a recording belongs to it, and is deleted.
        """
        # A root may be a link, and must stay one.
        absolute = {Path(os.path.abspath(root)) for root in roots}  # noqa: PTH100 - see above
        self._roots = sorted(absolute, key=lambda root: len(root.parts), reverse=True)
        self._with_sidecar = with_sidecar

    @contextmanager
    def verified_file(self, path: Path, wanted: str, mtime: str) -> Iterator[VerifiedFile]:
        """Open the file at ``path`` if nothing forbids to delete it.

        A fingerprint covers three windows of the file only. Whether all bytes were uploaded is the
        question of ``agent.retention.verify``.

        Args:
            path: An absolute path below a watched folder.
            wanted: The fingerprint that the file must have.
            mtime: The time of the last change that the file must have (utc_text).

        Raises:
            NotDeletableError: The file must stay.
            FileNotFoundError: There is no such file.
            OSError: The file can't be read.
        """
        with self._opened_folder(path) as folder:
            if _is_marker(path.name + RESYNC, folder):
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

    def delete_companions(self, path: Path) -> None:
        """Delete what a deleted recording leaves behind: sidecar, done marker, the folder of a bag.

        Links stay, and so does what another file with the same stem may still need. Raises OSError
        and NotDeletableError.
        """
        with self._opened_folder(path) as folder:
            names = os.listdir(folder)  # noqa: PTH208 - a descriptor has no iterdir
            # A new recording that has taken the name needs them.
            if path.name in names:
                return
            _unlink_file(path.name + DONE, folder)
            sidecar = sidecar_name(path.name)
            needed = any(name != sidecar and sidecar_name(name) == sidecar for name in names)
            if self._with_sidecar and not needed:
                _unlink_file(sidecar, folder)
        if path.parent not in self._roots:
            self._delete_bag(path.parent)

    def _delete_bag(self, bag: Path) -> None:
        """Delete a folder in which only the metadata of a bag are left.

        A watched folder and a mounted one stay. So do metadata that could not be sent.
        """
        with self._opened_folder(bag) as above:
            below = os.open(bag.name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
            try:
                state = os.fstat(below)
                if (
                    _identity(state) in self._root_identities()
                    or state.st_dev != os.fstat(above).st_dev
                ):
                    return
                left = os.listdir(below)  # noqa: PTH208 - a descriptor has no iterdir
                if left == [BAG_METADATA] and _is_sendable(bag / BAG_METADATA, below):
                    _unlink_file(BAG_METADATA, below)
                    os.rmdir(bag.name, dir_fd=above)
            finally:
                os.close(below)

    @contextmanager
    def _opened_folder(self, path: Path) -> Iterator[int]:
        """Open the folder of ``path``, from its root on and without following links.

        Raises NotDeletableError where that is impossible, or a folder has a resync marker.
        """
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
        """Return device and inode of each watched folder that is there."""
        found = set()
        for root in self._roots:
            with suppress(OSError):
                found.add(_identity(root.stat()))
        return found


def _refuse_resync(folder: int) -> None:
    """Raise NotDeletableError where a marker asks for the resync of an open folder."""
    if _is_marker(RESYNC, folder):
        raise NotDeletableError("a marker asks for the resync of its folder")


def _is_marker(name: str, folder: int) -> bool:
    """Return whether anything but a folder, a link included, has this name in an open folder."""
    try:
        return not stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _unlink_file(name: str, folder: int) -> bool:
    """Delete a regular file from an open folder; return whether there was one."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
            return False
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _fingerprint(descriptor: int, size: int) -> str:
    """Return the fingerprint of an open file; "" when the file becomes shorter."""
    try:
        return str(fingerprint(descriptor, size))
    except FileChangedError:
        return ""


def _is_sendable(metadata: Path, folder: int) -> bool:
    """Return whether the metadata of a bag is a file that bucket mode sends."""
    try:
        os.close(open_bag_metadata(metadata, folder, follow_symlinks=False))
    except RecordingError:
        return False
    return True


def _identity(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _key(state: os.stat_result) -> tuple[int, ...]:
    """Return what identifies a file and its state.

    The ctime shows a change even when a program sets the mtime back.
    """
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns
