"""Keeps which files must be checked at which time.

A file with an earlier time comes first. Of several files with the same time, the oldest comes
first.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections.abc import Iterator

# One check: its monotonic time, the file's time of last change in ns, its folder and its name.
Check = tuple[float, int, str, str]

# From how many files on a batch is kept as columns. Fewer files cost little as single entries.
_MANY_FILES = 1000

# A column of 8 bytes holds the years 1677 to 2262. Files may have dates before or after these.
# Such files come first or last, whatever their dates are.
_FIRST_NS = -(2**63)
_LAST_NS = 2**63 - 1


class Batch:
    """The files that one walk found and that are all checked at one time.

    Kept in columns of 24 bytes for each file. As tuples 100,000 files would take 12 MiB.

    Used only by the finder's thread until it is pushed to a :class:`TimerQueue`.
    """

    def __init__(self) -> None:
        """Begin without files; ``due``, the monotonic time of the checks, is set by the queue."""
        self.due = math.inf
        self._mtimes = array("q")
        self._folders: list[str] = []
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        return zip(self._mtimes, self._folders, self._names, strict=True)

    def add(self, mtime_ns: int, folder: str, name: str) -> None:
        """Add a file that was last changed at ``mtime_ns``."""
        self._mtimes.append(min(max(mtime_ns, _FIRST_NS), _LAST_NS))
        self._folders.append(folder)
        self._names.append(name)

    def sort(self) -> None:
        """Bring the oldest file to the end, from where :meth:`pop` takes it."""
        order = sorted(range(len(self)), key=self._mtimes.__getitem__, reverse=True)
        self._mtimes = array("q", map(self._mtimes.__getitem__, order))
        self._folders = list(map(self._folders.__getitem__, order))
        self._names = list(map(self._names.__getitem__, order))

    @property
    def first(self) -> tuple[float, int]:
        """The time of the check of the oldest file, and that file's time of last change.

        The batch must be sorted.
        """
        return self.due, self._mtimes[-1]

    def pop(self) -> Check:
        """Remove the oldest file and return its check. The batch must be sorted."""
        return self.due, self._mtimes.pop(), self._folders.pop(), self._names.pop()


class TimerQueue:
    """A priority queue of checks that stays small when one scan finds 100,000 files.

    Single checks are in a heap. The files of a large scan stay in their :class:`Batch`.

    Not thread-safe: threads that share a queue must hold a lock.
    """

    def __init__(self) -> None:
        """Begin with an empty queue."""
        self._heap: list[Check] = []
        # There are few batches, and none of them is empty.
        self._batches: list[Batch] = []

    def first(self) -> tuple[float, int]:
        """Return the time of the next check and its file's time of last change.

        The time is infinite where the queue is empty.
        """
        firsts = [batch.first for batch in self._batches]
        if self._heap:
            firsts.append(self._heap[0][:2])
        return min(firsts, default=(math.inf, 0))

    def push(self, check: Check) -> None:
        """Add one check."""
        heapq.heappush(self._heap, check)

    def push_all(self, batch: Batch, due: float) -> None:
        """Add a check at the monotonic time ``due`` for each file of ``batch``.

        The queue keeps the batch. The caller may read it until the first check is popped.
        """
        if len(batch) < _MANY_FILES:
            for mtime_ns, folder, name in batch:
                self.push((due, mtime_ns, folder, name))
        else:
            batch.due = due
            batch.sort()
            self._batches.append(batch)

    def pop(self) -> Check:
        """Remove and return the next check. The queue must not be empty."""
        batch = min(self._batches, key=lambda batch: batch.first, default=None)
        if batch is None or (self._heap and self._heap[0][:2] < batch.first):
            return heapq.heappop(self._heap)
        check = batch.pop()
        if not batch:
            self._batches.remove(batch)
        return check
