"""Notes how each file below the watched folders looks, and when it must be checked again."""

# Paths are plain text here: a scan goes over 100,000 files, and a Path for each would cost most.
# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.discovery.error_log import Mistakes
from agent.discovery.file_names import COMPRESSED, sidecar_name
from agent.discovery.file_table import QUIET, FileRow, FileTable, stamp_of
from agent.discovery.name_rules import NameFilter
from agent.discovery.state_rules import WaitingRules, is_too_old, may_be_recording
from agent.discovery.timer_queue import Batch, TimerQueue
from agent.discovery.walk import WalkEntry
from agent.model.ports import Clock

# How many files one step checks, so that the first of very many files are uploaded soon. Files with
# the same times stay together.
_CHECKS_PER_STEP = 256


class FileTracker:
    """Holds what is known of each file and the queue of files to check.

    A file must look the same at two times, ``settle_seconds`` apart on the monotonic clock, before
    it is examined. This class notes what a scan or a hint sees and schedules the second time.

    One thread, the finder's, notes and checks files. The others may read :attr:`table`, under
    :attr:`lock`, and may call :meth:`settle_again` and :meth:`forget`.
    """

    def __init__(
        self,
        clock: Clock,
        lock: threading.RLock,
        names: NameFilter,
        rules: WaitingRules,
        *,
        newer_than: Callable[[], float | None],
        mistakes: Mistakes,
    ) -> None:
        """Begin without files.

        Args:
            clock: Its monotonic time is used.
            lock: The lock of the whole discovery.
            names: Says whether sidecars count.
            rules: How long is waited for what.
            newer_than: Returns before which time of last change a new file is skipped, in seconds
                since 1970; None where no file is skipped.
            mistakes: Logs unexpected errors over single files.
        """
        self.lock = lock
        self.table = FileTable()
        self._clock = clock
        self._names = names
        self._rules = rules
        self._newer_than = newer_than
        self._mistakes = mistakes
        # An entry whose time differs from its file's ``due`` is void.
        self._queue = TimerQueue()
        self._changes = 0

    # -- for any thread

    @property
    def changes(self) -> int:
        """Another number whenever the state of a file may have changed."""
        return self._changes

    def changed(self) -> None:
        """Note that the state of a file may have changed."""
        with self.lock:
            self._changes += 1

    def next_check(self) -> float:
        """Return the monotonic time of the next check; infinite where there is none."""
        with self.lock:
            return self._queue.first()[0]

    def settle_again(self, path: Path) -> None:
        """Have a known file settle and examined once more."""
        with self.lock:
            if file := self.table.find(*os.path.split(path)):
                file.set_state("settling")
                due = self._clock.monotonic() + self._rules.settling_seconds(path.name)
                self.schedule(str(path.parent), path.name, file, due)
                self.changed()

    def forget(self, path: str) -> None:
        """Forget a file, or a folder and all files below it."""
        with self.lock:
            if self.table.forget(path):
                self.changed()

    # -- for the finder's thread

    def see_folder(
        self, folder: str, entries: Sequence[WalkEntry], spared: Sequence[str], batch: Batch
    ) -> None:
        """Note the files in this very folder, and forget those that are gone.

        Args:
            folder: An absolute path.
            entries: What the walk found there.
            spared: The names of files that the walk spared.
            batch: New and changed files are added to it, to be scheduled by :meth:`settle_batch`.
        """
        is_settled = self.table.settled(folder)
        for name, state, beside in entries:
            try:
                sidecar = self.sidecar_stamp(folder, name) if beside else 0
                if not is_settled(name, stamp_of(state), sidecar):
                    self._see_in_batch(folder, name, state, sidecar, batch)
            except Exception as error:  # noqa: BLE001 - the other files must be found
                self._mistakes.log(os.path.join(folder, name), error)
        with self.lock:
            if self.table.keep(folder, {entry.name for entry in entries}.union(spared)):
                self.changed()

    def settle_batch(self, batch: Batch, began: float) -> None:
        """Have all files that one walk found settle from the end of the walk on.

        So all these files have one time, and are checked in the order of their ages.

        Args:
            batch: The files.
            began: The monotonic time at which the walk began.
        """
        now = self._clock.monotonic()
        # One float object serves all files.
        due = now + self._rules.settle_seconds
        with self.lock:
            # A file that had a date without an entry in the queue would never be checked. So the
            # entries come first, and then the dates.
            self._queue.push_all(batch, due)
            for mtime_ns, folder, name in batch:
                file = self.table.find(folder, name)
                if file is None:
                    continue
                if file.since >= began:
                    file.since = now
                file.due = due
                if name.endswith(COMPRESSED):
                    due_compressed = now + self._rules.settling_seconds(name)
                    self.schedule(folder, name, file, due_compressed, mtime_ns)

    def see(
        self,
        folder: str,
        name: str,
        state: os.stat_result,
        sidecar: int,
        *,
        pause: float | None = None,
    ) -> None:
        """Note how a file looks, and schedule a check where it is new or has changed.

        Args:
            folder: The folder of the file.
            name: Its base name.
            state: Its state.
            sidecar: The stamp of its sidecar.
            pause: Seconds until the check. None: as long as the file must settle.
        """
        with self.lock:
            file = self._note(folder, name, state, sidecar)
            if file is not None:
                wait = self._rules.settling_seconds(name) if pause is None else pause
                due = self._clock.monotonic() + wait
                self.schedule(folder, name, file, due, state.st_mtime_ns)

    def sidecar_stamp(self, folder: str, name: str) -> int:
        """Return a number that differs when the sidecar of the file ``name`` has changed.

        0 means that there is no sidecar, or that sidecars do not count.
        """
        if not self._names.sidecars:
            return 0
        try:
            state = os.stat(os.path.join(folder, sidecar_name(name)))
        except OSError:
            return 0
        # The time of a change of rights is in it, too: then the sidecar may be readable at last.
        return hash((state.st_mtime_ns, state.st_ctime_ns, state.st_size))

    def schedule(
        self, folder: str, name: str, file: FileRow, due: float, mtime_ns: int = 0
    ) -> None:
        """Have a file checked at the monotonic time ``due``, and not at any time set before."""
        with self.lock:
            if due != file.due:
                # First the entry, then the date, for the reason given in settle_batch().
                self._queue.push((due, mtime_ns, folder, name))
                file.due = due

    def due_files(self) -> Iterator[tuple[str, str, FileRow]]:
        """Yield the files to check now, with folder and name: of one scan the oldest files first.

        Ends after some hundred files, but not between files that have the same times.
        """
        now = self._clock.monotonic()
        last = (0.0, 0)
        checks = 0
        while True:
            with self.lock:
                first = self._queue.first()
                if first[0] > now or (checks >= _CHECKS_PER_STEP and first != last):
                    return
                due, mtime_ns, folder, name = self._queue.pop()
                file = self.table.find(folder, name)
            last = (due, mtime_ns)
            checks += 1
            if file is not None and file.due == due:
                yield folder, name, file

    def _see_in_batch(
        self, folder: str, name: str, state: os.stat_result, sidecar: int, batch: Batch
    ) -> None:
        """Note how a file looks, and add it to ``batch`` where it is new or has changed."""
        with self.lock:
            if self._note(folder, name, state, sidecar) is not None:
                batch.add(state.st_mtime_ns, folder, name)

    def _note(self, folder: str, name: str, state: os.stat_result, sidecar: int) -> FileRow | None:
        """Note how a file looks. Return it where it must be checked because of that.

        The caller holds the lock.
        """
        if not may_be_recording(state):
            self.forget(os.path.join(folder, name))
            return None
        stamp = stamp_of(state)
        now = self._clock.monotonic()
        file = self.table.find(folder, name)
        if file is not None and (file.stamp, file.sidecar) == (stamp, sidecar):
            if file.state not in QUIET:
                soonest = max(now, file.since + self._rules.settling_seconds(name))
                self.schedule(folder, name, file, min(file.due, soonest), state.st_mtime_ns)
            return None
        self.changed()
        if file is not None and file.stamp == stamp:
            return self._note_sidecar(file, sidecar)
        before = "skipped" if file is None else file.state
        file = self.table.add(folder, name, stamp, sidecar, now)
        if before == "skipped" and is_too_old(state, self._newer_than()):
            file.set_state("skipped")
            return None
        if before in ("settling", "recording", "unfinished"):
            file.set_state("recording", "it is being written to", "changing")
        return file

    def _note_sidecar(self, file: FileRow, sidecar: int) -> FileRow | None:
        """Note that only the sidecar of a file has changed. Return the file where that matters."""
        file.sidecar = sidecar
        if file.state in ("skipped", "damaged"):
            return None
        file.set_state("settling")
        return file
