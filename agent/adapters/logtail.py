"""Reads the log of the agent back, across its rotated files, and follows it while it grows."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of the log: its text as it stands in the file, and the JSON object that it is."""

    text: str
    values: dict[str, Any]


Wanted = Callable[[LogLine], bool]


class LogTail:
    """Yields each line of the log once and in order, across all rotations.

    A line that is no JSON object is left out.

    The file that was read last stays open. The system gives the inode of an open file to no other
    file, so it can always be told which of the rotated files it is, and which files came after it.

    For one thread. All methods may raise OSError.
    """

    def __init__(self, file: Path) -> None:
        """Read the log whose current file is ``file``. It need not exist yet."""
        self._file = file
        self._stream: BinaryIO | None = None
        # The bytes of a line whose end is not written yet.
        self._unfinished = b""

    def last(self, count: int, wanted: Wanted) -> Sequence[LogLine]:
        """Return the newest ``count`` lines that are wanted, oldest first.

        Only as many of the older files are opened as are needed. Then :meth:`news` continues
        after the newest line.
        """
        self._stream = _opened(self._file)
        inode = _state(self._stream).st_ino if self._stream else 0
        # The file that was just opened may have been rotated since.
        older = [path for path, state in self._rotated() if state.st_ino != inode]
        if self._stream is None and older:
            # The log was rotated, and its new file is not there yet.
            self._stream = _opened(older.pop())
        found = list(deque(filter(wanted, self._unread()), maxlen=count))
        for path in reversed(older):
            if len(found) == count:
                break
            found = [*deque(filter(wanted, _lines(path)), maxlen=count - len(found)), *found]
        return found

    def news(self) -> Iterator[LogLine]:
        """Yield the lines that were written since the last call, oldest first.

        The first call yields all lines, unless :meth:`last` was called before.
        """
        yield from self._unread()
        while following := self._open_following():
            # Lines may have been added to the old file until it was renamed.
            yield from self._unread()
            self.close()
            self._stream = following
            yield from self._unread()

    def close(self) -> None:
        """Close the file. May be called more than once."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._unfinished = b""

    def _unread(self) -> Iterator[LogLine]:
        """Yield the whole lines that are left in the open file."""
        if self._stream is None:
            return
        if _state(self._stream).st_size < self._stream.tell():
            # Another program has truncated the file.
            self._stream.seek(0)
            self._unfinished = b""
        for raw in self._stream:
            self._unfinished += raw
            if raw.endswith(b"\n"):
                whole = self._unfinished
                self._unfinished = b""
                yield from _parsed(whole)

    def _open_following(self) -> BinaryIO | None:
        """Open the file that came after the open one; None when there is none."""
        try:
            current = self._file.stat()
        except FileNotFoundError:
            current = None
        ours = _state(self._stream) if self._stream else None
        if ours and current and (ours.st_dev, ours.st_ino) == (current.st_dev, current.st_ino):
            return None
        for path in self._rotated_after(ours):
            return _opened(path)
        stream = _opened(self._file) if current else None
        if stream and current and _state(stream).st_ino != current.st_ino:
            # The log was rotated at this moment. The next call finds the rotated file.
            stream.close()
            return None
        return stream

    def _rotated_after(self, ours: os.stat_result | None) -> Sequence[Path]:
        """Return the rotated files that came after the file ``ours``, oldest first.

        The file itself may have been deleted.
        """
        rotated = self._rotated()
        paths = [path for path, _ in rotated]
        inodes = [state.st_ino for _, state in rotated]
        if ours is None:
            return paths
        if ours.st_ino in inodes:
            return paths[inodes.index(ours.st_ino) + 1 :]
        return [path for path, state in rotated if state.st_mtime_ns > ours.st_mtime_ns]

    def _rotated(self) -> Sequence[tuple[Path, os.stat_result]]:
        """Return the rotated files, oldest first. The log names them STEM.TIME.SUFFIX."""
        found = []
        for path in self._file.parent.glob(f"{self._file.stem}.*{self._file.suffix}"):
            with suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return sorted(found, key=lambda item: (item[1].st_mtime_ns, item[0]))


def _opened(path: Path) -> BinaryIO | None:
    """Open a file; None when it does not exist, or no longer."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _state(stream: BinaryIO) -> os.stat_result:
    return os.fstat(stream.fileno())


def _lines(path: Path) -> Iterator[LogLine]:
    """Yield the lines of a file; none when it does not exist."""
    if stream := _opened(path):
        with stream:
            for raw in stream:
                yield from _parsed(raw)


def _parsed(raw: bytes) -> Iterator[LogLine]:
    """Yield the line ``raw``, if it is a JSON object."""
    with suppress(ValueError, RecursionError):
        text = raw.decode().rstrip("\n")
        values = json.loads(text)
        if isinstance(values, dict):
            yield LogLine(text, values)
