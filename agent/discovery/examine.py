"""What lies at one path right now: a recording, a damaged file, or nothing finished yet."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import signal
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.files.below_root import open_regular_file, opened_folder, root_of
from agent.model.errors import FileChangedError, RecordingError
from agent.model.mcap_tail import DamagedError, NoTailError, Tail, read_tail
from agent.model.values import Damaged, Fingerprint, Recording, Sidecar

Reason = Literal["recording", "writer", "sidecar", "done_marker", "compressing", "unknown"]
SidecarRule = Literal["optional", "required", "ignore"]

COMPRESSED = ".zstd"  # what rosbag2 appends to the name of a split that it compresses
DONE = ".done"  # what Axon appends when it has written everything

_WINDOW = 64 * 1024
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAX_SIDECAR = 1024 * 1024
_MAX_DEPTH = 100  # of a sidecar: whoever walks through it later may recurse
_MAX_DIGITS = 4300  # Python's own limit from 3.11 on
_CACHED = 128


@dataclass(frozen=True, slots=True)
class NotYet:
    """A file that may become a recording, and what it still lacks."""

    path: Path
    why: Reason
    message: str


@dataclass(frozen=True, slots=True)
class _Content:
    """What is found in a file's bytes, and stays true as long as they do."""

    fingerprint: Fingerprint
    tail: Tail
    damage: str = ""


class Examiner:
    """Looks at one path at a time; may be asked from several threads."""

    def __init__(
        self,
        roots: Sequence[Path],
        sidecar: SidecarRule,
        *,
        follow_symlinks: bool = False,
        send_unfinished: bool = False,
    ) -> None:
        """``roots`` are the watched folders; ``sidecar`` is the rule for the ``.json`` beside a recording.

        ``send_unfinished``: what its recorder never finished is a recording as it is.
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
    ) -> Recording | Damaged | NotYet:
        """Say what lies at ``path``.

        Nobody waits any longer for: ``sidecar_overdue``, a sidecar; ``writer_overdue``, a program that has the file
        open for writing; ``done_overdue``, Axon's last steps; ``end_overdue``, the end of a file that has no writer.

        Raises:
            RecordingError: ``not_regular`` or ``not_in_root``: this can't be a recording of ours.
            FileChangedError: it became shorter while it was looked at.
            OSError: it can't be read just now; FileNotFoundError when it is gone.
        """
        root = root_of(path, self._roots)
        if root is None:
            raise RecordingError(
                f"{path} lies in none of the watched folders",
                code="not_in_root",
                hint="see watch.roots",
            )
        # The recording and all that belongs to it are opened in this one folder, whatever becomes of its path.
        with (
            opened_folder(path.parent, root, follow_symlinks=self.follow_symlinks) as folder,
            self._opened(path, folder) as (descriptor, before),
        ):
            if reason := compressing(path, folder):
                return reason
            content = self._content(path, descriptor, before)
            own_tags = {"compression": "zstd"} if path.name.endswith(COMPRESSED) else {}
            if content is None and end_overdue and self.send_unfinished and before.st_size > 0:
                content = _Content(fingerprint(descriptor, before.st_size), Tail())
                own_tags = {"mcap_complete": "false"}
            # The name, not the descriptor: another file may have taken it.
            after = os.stat(path.name, dir_fd=folder, follow_symlinks=self.follow_symlinks)
            if content is None or _key(before) != _key(after):
                return NotYet(path, "recording", "no end yet: it is still being recorded")
            reason = None if writer_overdue else _unfinished_by_writer(path, descriptor)
            if reason is None and not done_overdue:
                reason = self._unfinished_by_axon(path, folder, content.tail, before)
            if reason is not None:
                return reason
            if content.damage:
                return Damaged(path, content.fingerprint, before.st_mtime_ns, content.damage)
            sidecar = (
                None
                if self._sidecar == "ignore"
                else self._read_sidecar(sidecar_path(path), folder)
            )
        if sidecar is None and self._sidecar != "ignore" and not sidecar_overdue:
            return NotYet(path, "sidecar", f"waits for its sidecar {sidecar_path(path).name}")
        return Recording(
            path=path,
            root=root,
            fingerprint=content.fingerprint,
            mtime_ns=before.st_mtime_ns,
            device=before.st_dev,
            inode=before.st_ino,
            tail=content.tail,
            sidecar=sidecar,
            own_tags=own_tags,
            owner=before.st_uid,
        )

    @contextmanager
    def _opened(self, path: Path, folder: int) -> Iterator[tuple[int, os.stat_result]]:
        """The file of this name in ``folder``, open for reading, and its state."""
        descriptor = open_regular_file(path, folder, follow_symlinks=self.follow_symlinks)
        try:
            yield descriptor, os.fstat(descriptor)
        finally:
            os.close(descriptor)

    def _content(self, path: Path, descriptor: int, state: os.stat_result) -> _Content | None:
        """What the bytes say, None while they have no end; read once as long as they don't change."""
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
                while len(self._contents) > _CACHED:
                    self._contents.popitem(last=False)
        return content

    def _unfinished_by_axon(
        self, path: Path, folder: int, tail: Tail, state: os.stat_result
    ) -> NotYet | None:
        """Axon patches its metadata into the closed file, then writes the sidecar, then the done marker."""
        if not any(name.startswith("axon.") for name in tail.metadata):
            return None
        for proof in (path.name + DONE, sidecar_path(path).name):
            try:
                proven = os.stat(proof, dir_fd=folder, follow_symlinks=self.follow_symlinks)
            except FileNotFoundError:
                continue
            if proven.st_mtime_ns >= state.st_mtime_ns:
                return None
        return NotYet(
            path,
            "done_marker",
            f"Axon has not finished it: neither {path.name}{DONE} nor a sidecar yet",
        )

    def _read_sidecar(self, path: Path, folder: int) -> Sidecar | None:
        """The sidecar ``path``; None when there is none, or only a link that is not to be followed."""
        try:
            with self._opened(path, folder) as (descriptor, _):
                raw = _read_up_to(descriptor, _MAX_SIDECAR + 1)
        except FileNotFoundError:
            return None
        except RecordingError:
            if _is_link(path.name, folder):
                return None
            return Sidecar(path, hashlib.sha256().hexdigest(), None, "it is no regular file")
        try:
            return Sidecar(path, hashlib.sha256(raw).hexdigest(), _parse(raw))
        except ValueError as error:
            return Sidecar(path, hashlib.sha256(raw).hexdigest(), None, str(error))


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of the recording at ``path`` lies: same stem, ``.json``."""
    return path.with_name(path.name.removesuffix(COMPRESSED)).with_suffix(".json")


def fingerprint(descriptor: int, size: int) -> Fingerprint:
    """The identity of the open file's first ``size`` bytes.

    SHA-256 over three windows of 64 KiB, one after the other: the first one, the one that begins at
    ``size // 2 - 32 KiB``, and the last one. A file of at most 192 KiB is hashed as a whole instead.

    Raises:
        FileChangedError: the file is shorter than ``size``.
        OSError: the disk does not answer.
    """
    if size <= 3 * _WINDOW:
        windows = [(0, size)]
    else:
        windows = [(start, _WINDOW) for start in (0, (size - _WINDOW) // 2, size - _WINDOW)]
    digest = hashlib.sha256()
    for start, length in windows:
        block = os.pread(descriptor, length, start)
        if len(block) != length:
            raise FileChangedError(f"the file is shorter than {size} bytes")
        digest.update(block)
    return Fingerprint(size, digest.hexdigest())


def has_writer(path: Path) -> bool | None:
    """Whether a program has the file open for writing; None where that can't be seen.

    The kernel grants a read lease only on a file without writers, and only to its owner or with CAP_LEASE.
    Raises FileNotFoundError when the file is gone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        kept_out = keep_writers_out(descriptor)
    finally:
        os.close(descriptor)
    return None if kept_out is None else not kept_out


def _unfinished_by_writer(path: Path, descriptor: int) -> NotYet | None:
    """A program that rewrites a file in place can leave its old end there for a long time."""
    if not is_open_for_writing(descriptor):
        return None
    return NotYet(path, "writer", "it has an end, but a program has it open for writing")


def is_open_for_writing(descriptor: int) -> bool:
    """Return whether the kernel shows that a program has the open file open for writing, too.

    Where that can't be seen the answer is False. Nobody is kept out of the file afterwards.
    """
    kept_out = keep_writers_out(descriptor)
    if kept_out:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return kept_out is False


def keep_writers_out(descriptor: int) -> bool | None:
    """Let whoever opens the file for writing wait until ``descriptor``, open for reading, is closed.

    False where a program has it open for writing already; None where that can't be seen.
    """
    try:
        # A writer that comes while the lease is held breaks it by a signal, and SIGIO would end this process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None
    return True


def _is_link(name: str, folder: int) -> bool:
    """Return whether a symbolic link has this name in the open folder, or nothing any more."""
    try:
        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return stat.S_ISLNK(state.st_mode)


def _key(state: os.stat_result) -> tuple[int, int, int, int]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def _read_content(path: Path, descriptor: int, size: int) -> _Content:
    """Raises NoTailError, and FileChangedError when it shrinks meanwhile."""
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


def compressing(path: Path, folder: int) -> NotYet | None:
    """While both are there, rosbag2 compresses the one into the other, and will then delete it.

    ``folder`` is the folder of ``path``, open.
    """
    plain = path.name.removesuffix(COMPRESSED)
    other = plain + COMPRESSED if path.name == plain else plain
    try:
        os.stat(other, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return NotYet(path, "compressing", f"{plain} is being compressed into {plain}{COMPRESSED}")


def _read_up_to(descriptor: int, limit: int) -> bytes:
    content = b""
    while len(content) < limit and (
        block := os.pread(descriptor, limit - len(content), len(content))
    ):
        content += block
    return content


def _parse(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``, whole numbers as int, others as float; raises ValueError saying what is wrong."""
    if len(raw) > _MAX_SIDECAR:
        raise ValueError(f"it is larger than {_MAX_SIDECAR >> 20} MiB")
    try:
        content = json.loads(
            raw.decode(),  # json would also take UTF-16, and json.loads refuses a BOM in text
            parse_constant=_no_number,
            parse_int=_whole_number,
            parse_float=_number,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - all that is wrong with a sidecar is one kind of error
    if not _shallow(content):
        raise ValueError("it is nested too deeply")
    json.dumps(
        content, ensure_ascii=False
    ).encode()  # half a surrogate pair can be written in JSON, but is no text
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if "" in content:
        raise ValueError("it has an empty key")
    if len(content) != len(pairs):
        raise ValueError("it has the same key twice in one object")
    return content


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _whole_number(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("it has a number with too many digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("it has a number that is too large")
    return number


def _shallow(content: dict[str, Any]) -> bool:
    level: list[Any] = [content]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for item in level
            for child in (
                item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
            )
        ]
        if not level:
            return True
    return False
