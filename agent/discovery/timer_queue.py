"""Which files are to be looked at, and when: what is due first comes first, of that the oldest file."""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterator

Look = tuple[float, int, str, str]  # due, mtime, folder, name

_MANY = 1000

# A column of 8 bytes holds the years 1677 to 2262. Files may have dates before or after them. They
# come first or last, whatever their dates are.
_FIRST_NS, _LAST_NS = -(2**63), 2**63 - 1


class Batch:
    """Files of one walk, to be looked at at one time: 24 bytes for each. As tuples 100,000 would take 12 MiB."""

    def __init__(self) -> None:
        """None yet."""
        self.due = math.inf
        self._mtimes = array("q")
        self._folders: list[str] = []
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        return zip(self._mtimes, self._folders, self._names, strict=True)

    def add(self, mtime_ns: int, folder: str, name: str) -> None:
        """One more."""
        self._mtimes.append(min(max(mtime_ns, _FIRST_NS), _LAST_NS))
        self._folders.append(folder)
        self._names.append(name)

    def sort(self) -> None:
        """The oldest last, where :meth:`pop` takes it."""
        order = sorted(range(len(self)), key=self._mtimes.__getitem__, reverse=True)
        self._mtimes = array("q", map(self._mtimes.__getitem__, order))
        self._folders = list(map(self._folders.__getitem__, order))
        self._names = list(map(self._names.__getitem__, order))

    @property
    def first(self) -> tuple[float, int]:
        """Due and mtime of the oldest, once it is sorted."""
        return self.due, self._mtimes[-1]

    def pop(self) -> Look:
        """Take the oldest."""
        return self.due, self._mtimes.pop(), self._folders.pop(), self._names.pop()


class TimerQueue:
    """Who uses it from several threads locks it."""

    def __init__(self) -> None:
        """Nothing is to be looked at."""
        self._heap: list[Look] = []
        self._batches: list[Batch] = []  # few, and none of them empty

    def first(self) -> tuple[float, int]:
        """Due and mtime of the first one; infinite when there is none."""
        firsts = [batch.first for batch in self._batches]
        return min([*firsts, self._heap[0][:2]] if self._heap else firsts, default=(math.inf, 0))

    def push(self, look: Look) -> None:
        """One more."""
        heapq.heappush(self._heap, look)

    def push_all(self, batch: Batch, due: float) -> None:
        """Many more of one time; the caller may read the batch until the first one is taken."""
        if len(batch) < _MANY:
            for mtime_ns, folder, name in batch:
                self.push((due, mtime_ns, folder, name))
        else:
            batch.due = due
            batch.sort()
            self._batches.append(batch)

    def pop(self) -> Look:
        """Take the first one, which is there."""
        batch = min(self._batches, key=lambda batch: batch.first, default=None)
        if batch is None or (self._heap and self._heap[0][:2] < batch.first):
            return heapq.heappop(self._heap)
        look = batch.pop()
        if not batch:
            self._batches.remove(batch)
        return look
