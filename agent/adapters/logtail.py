"""The agent's log, read back: across the files it was rotated into, and on and on while the agent writes it."""

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
    """One line as it stands in the file, and the object that it is."""

    text: str
    values: dict[str, Any]


Wanted = Callable[[LogLine], bool]


class LogTail:
    """Each line once and in order; what is no JSON object is passed over. For one thread. Methods raise OSError.

    A file that is open can't lose its inode to another one, so the file that was read last is kept open: what it is
    called by now, and what came after it, can always be told.
    """

    def __init__(self, file: Path) -> None:
        """``file`` is the one being written; it need not be there yet."""
        self._file = file
        self._stream: BinaryIO | None = None
        self._begun = b""  # a line whose end is not written yet

    def last(self, count: int, wanted: Wanted) -> Sequence[LogLine]:
        """The newest ``count`` lines that are wanted, oldest first; :meth:`news` then goes on from here.

        Older files are opened only where they are needed.
        """
        self._stream = _opened(self._file)
        inode = _state(self._stream).st_ino if self._stream else 0
        older = [
            path for path, state in self._rotated() if state.st_ino != inode
        ]  # else it was rotated just now
        if self._stream is None and older:  # between two files
            self._stream = _opened(older.pop())
        found = list(deque(filter(wanted, self._rest()), maxlen=count))
        for path in reversed(older):
            if len(found) == count:
                break
            found = [*deque(filter(wanted, _lines(path)), maxlen=count - len(found)), *found]
        return found

    def news(self) -> Iterator[LogLine]:
        """What was written since it was read last; the first time everything, oldest first."""
        yield from self._rest()
        while following := self._following():
            yield from self._rest()  # what came before it was renamed
            self.close()
            self._stream = following
            yield from self._rest()

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            self._stream.close()
        self._stream, self._begun = None, b""

    def _rest(self) -> Iterator[LogLine]:
        """What is left of the file that is open, whole lines only."""
        if self._stream is None:
            return
        if _state(self._stream).st_size < self._stream.tell():  # somebody cut it short
            self._stream.seek(0)
            self._begun = b""
        for raw in self._stream:
            self._begun += raw
            if raw.endswith(b"\n"):
                whole, self._begun = self._begun, b""
                yield from _parsed(whole)

    def _following(self) -> BinaryIO | None:
        """The file that came after the one that is open."""
        try:
            current = self._file.stat()
        except FileNotFoundError:
            current = None
        ours = _state(self._stream) if self._stream else None
        if ours and current and (ours.st_dev, ours.st_ino) == (current.st_dev, current.st_ino):
            return None
        for path in self._after(ours):
            return _opened(path)
        stream = _opened(self._file) if current else None
        if (
            stream and current and _state(stream).st_ino != current.st_ino
        ):  # rotated this moment: seen the next time
            stream.close()
            return None
        return stream

    def _after(self, ours: os.stat_result | None) -> Sequence[Path]:
        """Rotated files that came after ``ours``, oldest first; it may have been deleted itself."""
        rotated = self._rotated()
        paths, inodes = [path for path, _ in rotated], [state.st_ino for _, state in rotated]
        if ours is None:
            return paths
        if ours.st_ino in inodes:
            return paths[inodes.index(ours.st_ino) + 1 :]
        return [path for path, state in rotated if state.st_mtime_ns > ours.st_mtime_ns]

    def _rotated(self) -> Sequence[tuple[Path, os.stat_result]]:
        """The files that are full, oldest first. The log names them STEM.TIME.SUFFIX."""
        found = []
        for path in self._file.parent.glob(f"{self._file.stem}.*{self._file.suffix}"):
            with suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return sorted(found, key=lambda item: (item[1].st_mtime_ns, item[0]))


def _opened(path: Path) -> BinaryIO | None:
    """The file, None where it is not there (any more)."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _state(stream: BinaryIO) -> os.stat_result:
    return os.fstat(stream.fileno())


def _lines(path: Path) -> Iterator[LogLine]:
    if stream := _opened(path):
        with stream:
            for raw in stream:
                yield from _parsed(raw)


def _parsed(raw: bytes) -> Iterator[LogLine]:
    """The line, if it is what the agent writes."""
    with suppress(ValueError, RecursionError):
        text = raw.decode().rstrip("\n")
        values = json.loads(text)
        if isinstance(values, dict):
            yield LogLine(text, values)
