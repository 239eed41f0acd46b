"""Examines the file at one path: a recording, a damaged file, or nothing finished yet."""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from agent.discovery.file_names import COMPRESSED, DONE, sidecar_path
from agent.discovery.sidecar import SidecarRule, read_sidecar
from agent.files.below_root import open_regular_file, opened_folder, root_of
from agent.files.fingerprint import fingerprint
from agent.files.writers import has_writer, is_open_for_writing
from agent.model.errors import FileChangedError, RecordingError
from agent.model.mcap_tail import DamagedError, NoTailError, Tail, read_tail
from agent.model.values import Damaged, Fingerprint, Recording, Sidecar

# What a file still lacks. "unknown" is a file that discovery has not found yet.
Lack = Literal["recording", "writer", "sidecar", "done_marker", "compressing", "unknown"]

# The first bytes of each zstd frame (RFC 8878, section 3.1.1).
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"

# Of how many files the content is remembered. Each file is examined a few times within minutes.
_CACHED_FILES = 128


@dataclass(frozen=True, slots=True)
class NotYet:
    """A file that may become a recording, and what it still lacks.

    ``why`` is for decisions, ``message`` is for people.
    """

    path: Path
    why: Lack
    message: str


@dataclass(frozen=True, slots=True)
class _Content:
    """What the bytes of a file say. It holds as long as the bytes stay the same."""

    fingerprint: Fingerprint
    tail: Tail
    damage: str = ""


class Examiner:
    """Examines one path at a time and says what lies there.

    Discovery, uploads and the commands judge a file by this one class, so they come to the same
    answer. What the bytes of a file say is remembered for the last files, because each file is
    examined several times on its way into the bucket.

    May be used from any thread.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        sidecar: SidecarRule,
        *,
        follow_symlinks: bool = False,
        send_unfinished: bool = False,
    ) -> None:
        """Examine files below the watched folders ``roots``.

        Args:
            roots: The watched folders, as absolute paths.
            sidecar: The rule for the ``.json`` file beside a recording.
            follow_symlinks: Whether links below the roots are followed.
            send_unfinished: Whether a file that its recorder never finished is a recording, too.
        """
        self.send_unfinished = send_unfinished
        self.follow_symlinks = follow_symlinks
        self._roots = roots
        self._sidecar = sidecar
        self._contents: OrderedDict[tuple[int, int, int, int], _Content] = OrderedDict()
        self._lock = threading.Lock()

    def look(
        self,
        path: Path,
        *,
        sidecar_overdue: bool = False,
        writer_overdue: bool = False,
        done_overdue: bool = False,
        end_overdue: bool = False,
        compressor_overdue: bool = False,
        send_damaged: bool = False,
    ) -> Recording | Damaged | NotYet:
        """Return what lies at ``path``.

        Args:
            path: An absolute path.
            sidecar_overdue: A sidecar is not waited for any longer.
            writer_overdue: A program that has the file open for writing is not waited for any
                longer.
            done_overdue: Axon's last steps are not waited for any longer.
            end_overdue: The end of a file that has no writer is not waited for any longer.
            compressor_overdue: The compressed form of a plain file is not waited for any longer.
            send_damaged: A damaged file is a recording, too, because a person has asked for it.

        Raises:
            RecordingError: ``not_regular`` or ``not_in_root``, the file can't be a recording.
            FileChangedError: The file became shorter while it was read.
            OSError: The file can't be read now; FileNotFoundError when it is gone.
        """
        root = self._root_of(path)
        # The recording and all files that belong to it are opened in this one open folder. So they
        # lie together even if the path of the folder leads to another one by now.
        with (
            opened_folder(path.parent, root, follow_symlinks=self.follow_symlinks) as folder,
            self._opened(path, folder) as (descriptor, before),
        ):
            if reason := compressing(path, folder, plain_overdue=compressor_overdue):
                return reason
            content = self._content(path, descriptor, before)
            has_end = content is not None
            if content is None and end_overdue:
                content = self._content_without_end(descriptor, before.st_size)
            # The name is asked and not the descriptor: the name may belong to another file by now.
            after = os.stat(path.name, dir_fd=folder, follow_symlinks=self.follow_symlinks)
            if content is None or _key(before) != _key(after):
                return NotYet(path, "recording", "no end yet: it is still being recorded")
            reason = None if writer_overdue else _unfinished_by_writer(path, descriptor)
            if reason is None and not done_overdue:
                reason = self._unfinished_by_axon(path, folder, content.tail, before)
            if reason is not None:
                return reason
            if content.damage and not send_damaged:
                return Damaged(path, content.fingerprint, before.st_mtime_ns, content.damage)
            sidecar = self._read_sidecar(path, folder, overdue=sidecar_overdue)
        if isinstance(sidecar, NotYet):
            return sidecar
        return Recording(
            path=path,
            root=root,
            fingerprint=content.fingerprint,
            mtime_ns=before.st_mtime_ns,
            device=before.st_dev,
            inode=before.st_ino,
            tail=content.tail,
            sidecar=sidecar,
            own_tags=_own_tags(path, is_complete=has_end and not content.damage),
            owner=before.st_uid,
        )

    def look_now(
        self, path: Path, *, compressor_overdue: bool = True, send_damaged: bool = False
    ) -> Recording | Damaged | NotYet:
        """Return what lies at ``path``, and wait for nothing but perhaps a compressor.

        Arguments and errors are those of :meth:`look`.
        """
        return self.look(
            path,
            sidecar_overdue=True,
            writer_overdue=True,
            done_overdue=True,
            end_overdue=True,
            compressor_overdue=compressor_overdue,
            send_damaged=send_damaged,
        )

    def _root_of(self, path: Path) -> Path:
        root = root_of(path, self._roots)
        if root is None:
            raise RecordingError(
                f"{path} lies in none of the watched folders",
                code="not_in_root",
                hint="see watch.roots",
            )
        return root

    def _read_sidecar(self, path: Path, folder: int, *, overdue: bool) -> Sidecar | NotYet | None:
        """Return the recording's sidecar, or None where there is none or it does not matter.

        Returns NotYet while the sidecar is missing, unless it is ``overdue``.
        """
        if self._sidecar == "ignore":
            return None
        place = sidecar_path(path)
        sidecar = read_sidecar(place, folder, follow_symlinks=self.follow_symlinks)
        if sidecar is None and not overdue:
            return NotYet(path, "sidecar", f"waits for its sidecar {place.name}")
        return sidecar

    @contextmanager
    def _opened(self, path: Path, folder: int) -> Iterator[tuple[int, os.stat_result]]:
        """Open the file of this name in ``folder``, and give its descriptor and its state."""
        descriptor = open_regular_file(path, folder, follow_symlinks=self.follow_symlinks)
        try:
            yield descriptor, os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _content(self, path: Path, descriptor: int, state: os.stat_result) -> _Content | None:
        """Return what the bytes say, or None while they have no end.

        The bytes are read once as long as the file's state does not change.
        """
        key = _key(state)
        with self._lock:
            if content := self._contents.get(key):
                self._contents.move_to_end(key)
                return content
        try:
            content = _read_content(path, descriptor, state.st_size)
        except (NoTailError, FileChangedError):
            return None
        if _key(os.fstat(descriptor)) == key:
            with self._lock:
                self._contents[key] = content
                while len(self._contents) > _CACHED_FILES:
                    self._contents.popitem(last=False)
        return content

    def _content_without_end(self, descriptor: int, size: int) -> _Content | None:
        """Return the content of a file that was never finished, where such files are sent."""
        if not self.send_unfinished or size == 0:
            return None
        return _Content(fingerprint(descriptor, size), Tail())

    def _unfinished_by_axon(
        self, path: Path, folder: int, tail: Tail, state: os.stat_result
    ) -> NotYet | None:
        """Return that Axon has not finished the file, or None where nothing speaks for that.

        Axon patches its metadata into the closed file, then writes the sidecar, then the done
        marker. A sidecar or a done marker that is older than the file proves nothing.
        """
        if not any(name.startswith("axon.") for name in tail.metadata):
            return None
        for proof in (path.name + DONE, sidecar_path(path).name):
            try:
                proven = os.stat(proof, dir_fd=folder, follow_symlinks=self.follow_symlinks)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
                    continue
                raise
            if proven.st_mtime_ns >= state.st_mtime_ns:
                return None
        return NotYet(
            path,
            "done_marker",
            f"Axon has not finished it: neither {path.name}{DONE} nor a sidecar yet",
        )


def compressing(path: Path, folder: int, *, plain_overdue: bool = False) -> NotYet | None:
    """Return that the file is being compressed, or None where it is not.

    While a plain and a compressed file of one name are both there, rosbag2 compresses the one into
    the other. Afterwards it deletes the plain one.

    Args:
        path: The plain or the compressed file.
        folder: The folder of ``path``, open.
        plain_overdue: A plain file does not wait for its compressed form any longer. The compressed
            one still waits while the plain one is there.
    """
    plain = path.name.removesuffix(COMPRESSED)
    if plain_overdue and path.name == plain:
        return None
    other = plain + COMPRESSED if path.name == plain else plain
    try:
        os.stat(other, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        # A name that is too long for the file system can't be there either.
        if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
            return None
        raise
    return NotYet(path, "compressing", f"{plain} is being compressed into {plain}{COMPRESSED}")


def is_compressor_gone(path: Path, now: float, seconds: float) -> bool:
    """Return whether no program compresses the plain file at ``path`` any more.

    That is so if its compressed form has no writer that can be seen, and was last changed more than
    ``seconds`` before the wall time ``now``.
    """
    compressed = path.with_name(path.name + COMPRESSED)
    try:
        age = now - compressed.stat().st_mtime
        return age >= seconds and has_writer(compressed) is not True
    except OSError:
        # There is no compressed form. One that can't be read is not waited for either.
        return True


def _unfinished_by_writer(path: Path, descriptor: int) -> NotYet | None:
    """Return that a program has the file open for writing, or None where none is seen.

    A program that rewrites a file in place can leave the old end there for a long time.
    """
    if not is_open_for_writing(descriptor):
        return None
    return NotYet(path, "writer", "it has an end, but a program has it open for writing")


def _own_tags(path: Path, *, is_complete: bool) -> dict[str, str]:
    """Return the tags that tell what is special about the file itself."""
    if not is_complete:
        return {"mcap_complete": "false"}
    return {"compression": "zstd"} if path.name.endswith(COMPRESSED) else {}


def _key(state: os.stat_result) -> tuple[int, int, int, int]:
    """Return what differs when a file has other bytes, as far as its state tells."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _read_content(path: Path, descriptor: int, size: int) -> _Content:
    """Return what the first ``size`` bytes of the open file say.

    Raises:
        NoTailError: The bytes have no end yet.
        FileChangedError: The file became shorter than ``size``.
    """
    if path.name.endswith(COMPRESSED):
        magic = os.pread(descriptor, len(_ZSTD_MAGIC), 0)
        if len(magic) < len(_ZSTD_MAGIC):
            raise NoTailError("it has only begun")
        damage = "" if magic == _ZSTD_MAGIC else "it does not begin like a zstd file"
        return _Content(fingerprint(descriptor, size), Tail(), damage)
    try:
        tail, damage = read_tail(descriptor, size), ""
    except DamagedError as error:
        tail, damage = Tail(), str(error)
    return _Content(fingerprint(descriptor, size), tail, damage)
