"""What is remembered of the files below the watched folders, by folder and name. There may be 100,000 of them."""

from __future__ import annotations

import hashlib
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from agent.flow.survey import is_below

State = Literal["settling", "recording", "unfinished", "waiting", "unreadable", "skipped", "damaged", "complete"]

QUIET = frozenset({"unfinished", "skipped", "damaged", "complete"})
"""States in which a scan has nothing to do about a file that stayed as it was."""

_STAMP = (1 << 60) - 1


@dataclass(slots=True)
class File:
    """What is remembered of one path."""

    stamp: int  # of device, inode, size, mtime
    sidecar: int  # of its mtime and size; 0 = none
    since: float  # monotonic time of the first look that saw this stamp
    state: State = "settling"
    why: str = ""
    due: float = math.inf  # monotonic time of the next look
    mark: int = 0  # of its fingerprint; 0 = not examined


class Known:
    """Who uses it from several threads locks it."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._folders: dict[str, dict[str, File]] = {}

    def find(self, path: str) -> File | None:
        """What is remembered of this path."""
        folder, name = os.path.split(path)
        return self._folders.get(folder, {}).get(name)

    def within(self, folder: str) -> Mapping[str, File]:
        """What is remembered of this very folder, by name."""
        return self._folders.get(folder, {})

    def put(self, folder: str, name: str, file: File) -> None:
        """Remember it from now on."""
        self._folders.setdefault(folder, {})[name] = file

    def files(self) -> Iterator[tuple[str, str, File]]:
        """All, with folder and name: 100,000 paths would be made for nothing."""
        for folder, files in self._folders.items():
            for name, file in files.items():
                yield folder, name, file

    def marks(self) -> Callable[[int], bool]:
        """Tells of a mark whether it was that of a file just now. A set of 100,000 would take 4 MiB more."""
        marks = sorted(file.mark for _, _, file in self.files() if file.mark)

        def among(mark: int) -> bool:
            at = bisect_left(marks, mark)
            return at < len(marks) and marks[at] == mark

        return among

    def copies(self) -> Sequence[Sequence[str]]:
        """The names of each complete recording that has several."""
        marks = sorted(file.mark for _, _, file in self.files() if file.state == "complete")
        several: dict[int, list[str]] = {mark: [] for mark, same in pairwise(marks) if mark == same}
        if several:
            for folder, name, file in self.files():
                if file.state == "complete" and file.mark in several:
                    several[file.mark].append(f"{folder}/{name}")
        return [sorted(paths) for paths in several.values()]

    def below(self, top: str) -> Iterator[tuple[str, File]]:
        """Those in this folder and below."""
        for folder, files in self._folders.items():
            if is_below(folder, top):
                for name, file in files.items():
                    yield f"{folder}/{name}", file

    def forget(self, path: str) -> None:
        """Drop a file, or a folder and all below it."""
        folder, name = os.path.split(path)
        self._folders.get(folder, {}).pop(name, None)
        for known in [known for known in self._folders if is_below(known, path)]:
            del self._folders[known]

    def keep(self, folder: str, names: set[str]) -> None:
        """Drop what was in this very folder and has none of these names."""
        files = self._folders.get(folder, {})
        for name in files.keys() - names:
            del files[name]

    def keep_folders(self, listed: set[str], unreadable: Mapping[str, str]) -> None:
        """Drop the folders that were not listed, but not what may lie behind those that can't be read."""
        for folder in self._folders.keys() - listed:
            if not any(is_below(folder, closed) for closed in unreadable):
                del self._folders[folder]


def mark_of(fingerprint: str) -> int:
    """A number that stands for a fingerprint (its text), never 0: 100,000 texts would take 13 MiB."""
    return int.from_bytes(hashlib.sha256(fingerprint.encode()).digest()[:7], "big") | 1 << 56


def stamp_of(state: os.stat_result) -> int:
    """Another number when it is another file, or has other bytes as far as size and time tell.

    Of 60 bits: Python's number of one more takes 16 bytes more.
    """
    return hash((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)) & _STAMP
