"""Remembers the files below the watched folders, by folder and name.

There may be 100,000 files. As one object for each they would take 8 MiB more than the columns that
this module keeps, on robots where the whole agent must stay below 80 MiB. All that is unusual here
(columns, rows that are used again, one byte for a state) serves that one purpose, and is hidden
behind :class:`FileTable` and :class:`FileRow`.
"""

from __future__ import annotations

import hashlib
import math
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, Generic, Literal, TypeVar, cast, get_args

from agent.discovery.file_names import is_below
from agent.discovery.walk import Memory

State = Literal[
    "settling", "recording", "unfinished", "waiting", "unreadable", "skipped", "damaged", "complete"
]

# States in which a scan has nothing to do for a file that has not changed.
QUIET = frozenset({"unfinished", "skipped", "damaged", "complete"})

# Each spared file is asked for its state once in so many scans.
_SPARED_SCANS = 5

# In how many parts the marks are sorted. To sort 100,000 numbers at once would take 4 MiB.
_SORT_PARTS = 4

_STATES: tuple[State, ...] = get_args(State)
_CODES: dict[str, int] = {state: code for code, state in enumerate(_STATES)}
_QUIET = frozenset(_CODES[state] for state in QUIET)

# The states in which a scan may spare a file. Files in other quiet states may be mended, and an
# operator waits for that.
_SPARED = frozenset({_CODES["skipped"], _CODES["complete"]})

_Value = TypeVar("_Value")


class _Column(Generic[_Value]):
    """An attribute of :class:`FileRow` whose value stands in a column of the table."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, file: FileRow, owner: type) -> _Value:
        return cast("_Value", file.columns[self._name][file.row])

    def __set__(self, file: FileRow, value: _Value) -> None:
        file.columns[self._name][file.row] = value


class FileRow:
    """What is remembered of one path: a view on one row of a :class:`FileTable`.

    Once the path is forgotten, the row may belong to the next file that is added. So without the
    lock of the table only the thread that adds files may keep a row. What that thread writes to the
    row of a forgotten file has no effect.
    """

    __slots__ = ("columns", "row")

    # Stands for device, inode, size and time of the last change; see stamp_of().
    stamp = _Column[int]()

    # Stands for the sidecar's size and time of the last change. 0 means that there is none.
    sidecar = _Column[int]()

    # The monotonic time at which this stamp was first seen.
    since = _Column[float]()

    # The monotonic time of the next check.
    due = _Column[float]()

    # Stands for the fingerprint; see mark_of(). 0 means that the file was not examined.
    mark = _Column[int]()

    state = _Column[State]()

    # Why the file is in this state, for people.
    why = _Column[str]()

    # The same for programs, or "" where the state alone says it.
    reason = _Column[str]()

    def __init__(self, columns: Mapping[str, Any], row: int) -> None:
        """View the row of this number in ``columns``."""
        self.columns = columns
        self.row = row

    def set_state(self, state: State, why: str = "", reason: str = "") -> None:
        """Set the state, and why the file is in this state: for people, and for programs."""
        self.state, self.why, self.reason = state, why, reason


class _States:
    """A column of states with one byte for each."""

    def __init__(self) -> None:
        self.codes = bytearray()

    def append(self, state: State) -> None:
        self.codes.append(_CODES[state])

    def __getitem__(self, row: int) -> State:
        return _STATES[self.codes[row]]

    def __setitem__(self, row: int, state: State) -> None:
        self.codes[row] = _CODES[state]


class _Texts(dict[int, str]):
    """A column of texts, nearly all of them empty. Only the others are stored."""

    def __missing__(self, row: int) -> str:
        return ""

    def __setitem__(self, row: int, why: str) -> None:
        if why:
            super().__setitem__(row, why)
        else:
            self.pop(row, None)


class FileTable:
    """All files that discovery knows, in columns with a row for each file.

    Not thread-safe: threads that share a table must hold a lock, and only one of them may add
    files.
    """

    def __init__(self) -> None:
        """Begin with an empty table."""
        # The row of each file, by folder and name.
        self._folders: dict[str, dict[str, int]] = {}

        # Rows that belong to no file now.
        self._free: list[int] = []

        self._stamps = array("q")
        self._sidecars = array("q")
        self._marks = array("Q")
        self._sinces = array("d")
        self._dues = array("d")
        self._states = _States()
        self._whys = _Texts()
        self._reasons = _Texts()
        self._columns = {
            "stamp": self._stamps,
            "sidecar": self._sidecars,
            "since": self._sinces,
            "due": self._dues,
            "mark": self._marks,
            "state": self._states,
            "why": self._whys,
            "reason": self._reasons,
        }

    def find(self, folder: str, name: str) -> FileRow | None:
        """Return what is remembered of this file, or None where it is not known."""
        row = self._folders.get(folder, {}).get(name)
        return None if row is None else FileRow(self._columns, row)

    def settled(self, folder: str) -> Callable[[str, int, int], bool]:
        """Return a function that tells whether a scan has nothing to do for a file in ``folder``.

        The function takes the name, the stamp and the sidecar's stamp of the file.
        """
        row_of = self._folders.get(folder, {}).get
        stamps, sidecars, states = self._stamps, self._sidecars, self._states

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
        """Return what a walk need not ask again about the files in this very folder.

        To ask for the state of files is most of what a scan costs. So a scan spares most of the
        files that are complete or skipped, and each of them has its turn in every fifth scan. A
        notification of the file system tells about a change sooner.

        Args:
            folder: An absolute path.
            scan: The number of the scan, or None for a full scan, which spares no file.
        """
        rows = self._folders.get(folder, {})
        if scan is None:
            return rows, None
        row_of, sidecars, codes = rows.get, self._sidecars, self._states.codes

        def is_spared(name: str, beside: bool) -> bool:
            row = row_of(name)
            if row is None or (row + scan) % _SPARED_SCANS == 0:
                return False
            return codes[row] in _SPARED and (sidecars[row] != 0) == beside

        return rows, is_spared

    def add(self, folder: str, name: str, stamp: int, sidecar: int, since: float) -> FileRow:
        """Remember a file in the state ``settling``, and forget what was known of this path."""
        rows = self._folders.setdefault(folder, {})
        row = rows.get(name)
        if row is None:
            row = rows[name] = self._free.pop() if self._free else self._new_row()
        file = FileRow(self._columns, row)
        file.stamp, file.sidecar, file.since = stamp, sidecar, since
        file.due, file.mark = math.inf, 0
        file.set_state("settling")
        return file

    def files(self) -> Iterator[tuple[str, str, FileRow]]:
        """Yield each file with its folder and its name.

        Folder and name stay apart because most callers need no path, and there are 100,000 files.
        """
        for folder, rows in self._folders.items():
            for name, row in rows.items():
                yield folder, name, FileRow(self._columns, row)

    def marks(self) -> Callable[[int], bool]:
        """Return a function that tells whether a mark is that of a file as of now.

        The function searches a sorted list. A set of 100,000 marks would take 4 MiB more.
        """
        marks = sorted(filter(None, map(self._marks.__getitem__, self._rows())))

        def among(mark: int) -> bool:
            at = bisect_left(marks, mark)
            return at < len(marks) and marks[at] == mark

        return among

    def copies(self) -> Sequence[Sequence[str]]:
        """Return the paths of each complete recording that lies at several paths."""
        marks = array(
            "Q", (self._marks[row] for row in self._rows() if self._states[row] == "complete")
        )
        parts = (
            sorted(mark for mark in marks if mark % _SORT_PARTS == part)
            for part in range(_SORT_PARTS)
        )
        several: dict[int, list[str]] = {
            mark: [] for part in parts for mark, same in pairwise(part) if mark == same
        }
        if several:
            for folder, name, file in self.files():
                if file.state == "complete" and file.mark in several:
                    several[file.mark].append(f"{folder}/{name}")
        return [sorted(paths) for paths in several.values()]

    def below(self, top: str) -> Iterator[tuple[str, FileRow]]:
        """Yield the files in the folder ``top`` and below it, with their paths."""
        for folder, rows in self._folders.items():
            if is_below(folder, top):
                for name, row in rows.items():
                    yield f"{folder}/{name}", FileRow(self._columns, row)

    def forget(self, path: str) -> bool:
        """Forget a file, or a folder and all files below it. Return whether any was known."""
        folder, name = os.path.split(path)
        before = len(self._free)
        self._free_rows(folder, {name})
        for known in [known for known in self._folders if is_below(known, path)]:
            self._drop(known)
        return len(self._free) > before

    def keep(self, folder: str, names: set[str]) -> bool:
        """Forget the files in this very folder that have none of these names.

        Returns whether there was any such file.
        """
        before = len(self._free)
        self._free_rows(folder, self._folders.get(folder, {}).keys() - names)
        return len(self._free) > before

    def keep_folders(self, listed: set[str], unreadable: Mapping[str, str]) -> bool:
        """Forget the files in folders that a scan did not list. Return whether there was any.

        Files below a folder that could not be read are kept: they may still be there.

        Args:
            listed: The folders that the scan listed.
            unreadable: Why a folder could not be read, by its path.
        """
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
    """Return a number that stands for a fingerprint, given as text. It is never 0.

    Numbers are kept because 100,000 texts would take 13 MiB.
    """
    return int.from_bytes(hashlib.sha256(fingerprint.encode()).digest()[:7], "big") | 1 << 56


def stamp_of(state: os.stat_result) -> int:
    """Return a number that differs for another file, and for a file that has other bytes.

    Other bytes are noticed as far as size and time of the last change tell.
    """
    return hash((state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns))
