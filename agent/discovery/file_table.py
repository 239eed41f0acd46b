"""What is remembered of the files below the watched folders, by folder and name. There may be 100,000 of them."""

from __future__ import annotations

import hashlib
import math
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, Generic, Literal, TypeVar, cast, get_args

from agent.discovery.walk import Memory, is_below

State = Literal[
    "settling", "recording", "unfinished", "waiting", "unreadable", "skipped", "damaged", "complete"
]

QUIET = frozenset({"unfinished", "skipped", "damaged", "complete"})
"""States in which a scan has nothing to do about a file that stayed as it was."""

_TURNS = 5  # scans in which each file that is spared by the others is asked for its state once
_PARTS = 4  # that marks are sorted in: 100,000 numbers at once would take 4 MiB
_STATES: tuple[State, ...] = get_args(State)
_CODES: dict[str, int] = {state: code for code, state in enumerate(_STATES)}
_QUIET = frozenset(_CODES[state] for state in QUIET)
_SPARED = frozenset(
    {_CODES["skipped"], _CODES["complete"]}
)  # others may be mended, and somebody waits for that

_Value = TypeVar("_Value")


class _Column(Generic[_Value]):
    """An attribute of a file that stands in its row of a column."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, file: FileRow, owner: type) -> _Value:
        return cast("_Value", file.columns[self._name][file.row])

    def __set__(self, file: FileRow, value: _Value) -> None:
        file.columns[self._name][file.row] = value


class FileRow:
    """What is remembered of one path: a row, which is another file's once the path is forgotten and one is added.

    So without the lock only the thread that adds may hold it. What that writes to a forgotten one is seen by nobody.
    """

    __slots__ = ("columns", "row")

    stamp = _Column[int]()  # of device, inode, size, mtime
    sidecar = _Column[int]()  # of its mtime and size; 0 = none
    since = _Column[float]()  # monotonic time of the first look that saw this stamp
    due = _Column[float]()  # monotonic time of the next look
    mark = _Column[int]()  # of its fingerprint; 0 = not examined
    state = _Column[State]()
    why = _Column[str]()

    def __init__(self, columns: Mapping[str, Any], row: int) -> None:
        """A view; it holds nothing itself."""
        self.columns = columns
        self.row = row


class _States:
    """A column of states, a byte for each."""

    def __init__(self) -> None:
        self.codes = bytearray()

    def append(self, state: State) -> None:
        self.codes.append(_CODES[state])

    def __getitem__(self, row: int) -> State:
        return _STATES[self.codes[row]]

    def __setitem__(self, row: int, state: State) -> None:
        self.codes[row] = _CODES[state]


class _Reasons(dict[int, str]):
    """A column of texts, nearly all of them empty."""

    def __missing__(self, row: int) -> str:
        return ""

    def __setitem__(self, row: int, why: str) -> None:
        if why:
            super().__setitem__(row, why)
        else:
            self.pop(row, None)


class FileTable:
    """Who uses it from several threads locks it, and only one of them adds.

    In columns, with a row for each file: as objects 100,000 would take 8 MiB more.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._folders: dict[str, dict[str, int]] = {}  # rows by name
        self._free: list[int] = []  # rows without a name
        self._stamps, self._sidecars, self._marks = array("q"), array("q"), array("Q")
        self._sinces, self._dues, self._states, self._reasons = (
            array("d"),
            array("d"),
            _States(),
            _Reasons(),
        )
        self._columns = {
            "stamp": self._stamps,
            "sidecar": self._sidecars,
            "since": self._sinces,
            "due": self._dues,
            "mark": self._marks,
            "state": self._states,
            "why": self._reasons,
        }

    def find(self, folder: str, name: str) -> FileRow | None:
        """What is remembered of this file."""
        row = self._folders.get(folder, {}).get(name)
        return None if row is None else FileRow(self._columns, row)

    def settled(self, folder: str) -> Callable[[str, int, int], bool]:
        """Tells by name, stamp and sidecar of a file in this very folder whether a scan has nothing to do about it."""
        row_of, stamps, sidecars, states = (
            self._folders.get(folder, {}).get,
            self._stamps,
            self._sidecars,
            self._states,
        )

        def is_settled(name: str, stamp: int, sidecar: int) -> bool:
            row = row_of(name)
            return (
                row is not None
                and stamps[row] == stamp
                and sidecars[row] == sidecar
                and states.codes[row] in _QUIET
            )

        return is_settled

    def memory(self, folder: str, scan: int | None) -> Memory:
        """The files of this very folder. The scan of this number spares most that are done with; None: it spares none.

        To ask for a file's state is most of what it costs a scan. Each has its turn; notifications tell sooner.
        """
        rows = self._folders.get(folder, {})
        if scan is None:
            return rows, None
        row_of, sidecars, codes = rows.get, self._sidecars, self._states.codes

        def is_spared(name: str, beside: bool) -> bool:
            row = row_of(name)
            if row is None or (row + scan) % _TURNS == 0:
                return False
            return codes[row] in _SPARED and (sidecars[row] != 0) == beside

        return rows, is_spared

    def add(self, folder: str, name: str, stamp: int, sidecar: int, since: float) -> FileRow:
        """Remember a file from now on, and nothing else of that name; it is settling."""
        rows = self._folders.setdefault(folder, {})
        row = rows.get(name)
        if row is None:
            row = rows[name] = self._free.pop() if self._free else self._new_row()
        file = FileRow(self._columns, row)
        file.stamp, file.sidecar, file.since = stamp, sidecar, since
        file.due, file.mark, file.state, file.why = math.inf, 0, "settling", ""
        return file

    def files(self) -> Iterator[tuple[str, str, FileRow]]:
        """All, with folder and name: 100,000 paths would be made for nothing."""
        for folder, rows in self._folders.items():
            for name, row in rows.items():
                yield folder, name, FileRow(self._columns, row)

    def marks(self) -> Callable[[int], bool]:
        """Tells of a mark whether it was that of a file just now. A set of 100,000 would take 4 MiB more."""
        marks = sorted(filter(None, map(self._marks.__getitem__, self._rows())))

        def among(mark: int) -> bool:
            at = bisect_left(marks, mark)
            return at < len(marks) and marks[at] == mark

        return among

    def copies(self) -> Sequence[Sequence[str]]:
        """The names of each complete recording that has several."""
        marks = array(
            "Q", (self._marks[row] for row in self._rows() if self._states[row] == "complete")
        )
        parts = (sorted(mark for mark in marks if mark % _PARTS == part) for part in range(_PARTS))
        several: dict[int, list[str]] = {
            mark: [] for part in parts for mark, same in pairwise(part) if mark == same
        }
        if several:
            for folder, name, file in self.files():
                if file.state == "complete" and file.mark in several:
                    several[file.mark].append(f"{folder}/{name}")
        return [sorted(paths) for paths in several.values()]

    def below(self, top: str) -> Iterator[tuple[str, FileRow]]:
        """Those in this folder and below."""
        for folder, rows in self._folders.items():
            if is_below(folder, top):
                for name, row in rows.items():
                    yield f"{folder}/{name}", FileRow(self._columns, row)

    def forget(self, path: str) -> bool:
        """Drop a file, or a folder and all below it; tells whether there was any."""
        folder, name = os.path.split(path)
        before = len(self._free)
        self._free_rows(folder, {name})
        for known in [known for known in self._folders if is_below(known, path)]:
            self._drop(known)
        return len(self._free) > before

    def keep(self, folder: str, names: set[str]) -> bool:
        """Drop what was in this very folder and has none of these names; tells whether there was any."""
        before = len(self._free)
        self._free_rows(folder, self._folders.get(folder, {}).keys() - names)
        return len(self._free) > before

    def keep_folders(self, listed: set[str], unreadable: Mapping[str, str]) -> bool:
        """Drop folders that were not listed, but not what may lie behind those that can't be read; tells as above."""
        before = len(self._free)
        for folder in self._folders.keys() - listed:
            if not any(is_below(folder, closed) for closed in unreadable):
                self._drop(folder)
        return len(self._free) > before

    def _drop(self, folder: str) -> None:
        self._free += self._folders.pop(folder).values()

    def _free_rows(self, folder: str, names: Iterable[str]) -> None:
        rows = self._folders.get(folder, {})
        self._free += [row for name in names if (row := rows.pop(name, None)) is not None]

    def _new_row(self) -> int:
        for column in (self._stamps, self._sidecars, self._marks, self._sinces, self._dues):
            column.append(0)
        self._states.append("settling")
        return len(self._stamps) - 1

    def _rows(self) -> Iterator[int]:
        return chain.from_iterable(rows.values() for rows in self._folders.values())


def mark_of(fingerprint: str) -> int:
    """A number that stands for a fingerprint (its text), never 0: 100,000 texts would take 13 MiB."""
    return int.from_bytes(hashlib.sha256(fingerprint.encode()).digest()[:7], "big") | 1 << 56


def stamp_of(state: os.stat_result) -> int:
    """Another number when it is another file, or has other bytes as far as size and time tell."""
    return hash((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))
