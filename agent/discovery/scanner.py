"""Scans the watched folders, and looks where a hint says that something happened."""

# Paths are plain text here: a scan goes over 100,000 files, and a Path for each would cost most.
# ruff: noqa: PTH112, PTH116, PTH118

from __future__ import annotations

import os
import threading
from collections.abc import Sequence

from agent.discovery.error_log import Mistakes
from agent.discovery.file_names import is_below, related
from agent.discovery.file_tracker import FileTracker
from agent.discovery.name_rules import NameFilter
from agent.discovery.scan_schedule import ScanRun, ScanSchedule
from agent.discovery.timer_queue import Batch
from agent.discovery.walk import WalkResult, log_changes, tops, walk
from agent.model.ports import Clock


class Scanner:
    """Brings what lies on the disk to the notice of the :class:`FileTracker`.

    A scan sees everything and is the truth. A hint (a notification of the file system) only has one
    place looked at sooner.

    :meth:`scan` and :meth:`follow_hint` are for the finder's thread. The others may be called from
    any thread.
    """

    def __init__(
        self,
        tracker: FileTracker,
        schedule: ScanSchedule,
        clock: Clock,
        lock: threading.RLock,
        mistakes: Mistakes,
        *,
        roots: Sequence[str],
        names: NameFilter,
    ) -> None:
        """Scan the folders ``roots`` for files that ``names`` accepts.

        Args:
            tracker: Notes what is seen.
            schedule: Says whether a scan is a full one, and learns how the scan ended.
            clock: Its monotonic time is used.
            lock: The lock of the whole discovery.
            mistakes: Logs unexpected errors over single files and folders.
            roots: The watched folders, as absolute paths.
            names: Which names count.
        """
        self._tracker = tracker
        self._schedule = schedule
        self._clock = clock
        self._lock = lock
        self._mistakes = mistakes
        self._roots = roots
        self._names = names
        self._survey = WalkResult()
        # The roots that exist and that no other root covers, as of the last scan.
        self._tops: list[str] = []
        self._markers: set[str] = set()

    # -- for any thread

    @property
    def survey(self) -> WalkResult:
        """What the last scan saw. Not changed any more."""
        return self._survey

    def take_markers(self) -> set[str]:
        """Return the paths of the marker files that were seen since the last call."""
        with self._lock:
            markers, self._markers = self._markers, set()
        return markers

    # -- for the finder's thread

    def scan(self) -> None:
        """See everything there is, and forget the files that are gone.

        Even if an error ends the scan, the next one gets its time.
        """
        run = self._schedule.begin()
        failed = True
        try:
            self._scan_all(run)
            failed = False
        finally:
            self._schedule.end(run, failed=failed)
            self._mistakes.scan_ended()

    def follow_hint(self, path: str) -> None:
        """See what has happened at ``path``, which may be a file or a folder."""
        # The innermost one may lie in a folder that a walk from the others does not enter.
        top = max((top for top in self._tops if is_below(path, top)), key=len, default=None)
        if top is None or path == top:
            self._schedule.request()
            return
        folder, name = os.path.split(path)
        if not self._may_enter(top, folder):
            return
        is_folder = os.path.isdir(path)
        if self._names.is_marker(name) and not is_folder:
            with self._lock:
                self._markers.add(path)
            return
        if is_folder and self._may_enter(top, path):
            self._walk(path, WalkResult(), None)
        elif not os.path.lexists(path):
            self._tracker.forget(path)
        for base in filter(self._names.wanted, related(name)):
            self._see_file(folder, base)

    def _may_enter(self, top: str, folder: str) -> bool:
        """Return whether a walk from ``top`` comes to this folder."""
        return self._names.reaches(top, folder) and not self._names.first_link(top, folder)

    def _see_file(self, folder: str, name: str) -> None:
        path = os.path.join(folder, name)
        try:
            state = os.stat(path, follow_symlinks=self._names.follow)
            self._tracker.see(folder, name, state, self._tracker.sidecar_stamp(folder, name))
        except OSError:
            self._tracker.forget(path)

    def _scan_all(self, run: ScanRun) -> None:
        """Walk over all roots, and take over what was seen."""
        survey = WalkResult()
        found_tops = tops(self._roots, self._names, survey)
        for top in found_tops:
            try:
                self._walk(top, survey, run.number)
            except Exception as error:  # noqa: BLE001 - the other roots must be found
                survey.fail(top, error)
                self._mistakes.log(top, error)
        with self._lock:
            forgotten = self._tracker.table.keep_folders(survey.listed, survey.unreadable)
            previous, self._survey, self._tops = self._survey, survey, found_tops
            self._schedule.complete()
            survey.seconds = self._clock.monotonic() - run.started
        log_changes(previous, survey)
        if forgotten or survey != previous:
            self._tracker.changed()

    def _walk(self, top: str, survey: WalkResult, scan: int | None) -> None:
        """See the files below ``top``, and forget those that are gone.

        Args:
            top: The folder to begin with.
            survey: Filled with what the walk sees.
            scan: The number of the scan, which says which files are spared; None: no file is.
        """
        began = self._clock.monotonic()
        batch = Batch()
        found = walk(
            top, self._names, survey, lambda folder: self._tracker.table.memory(folder, scan)
        )
        for folder, entries, spared in found:
            try:
                self._tracker.see_folder(folder, entries, spared, batch)
            except Exception as error:  # noqa: BLE001 - the other folders must be found
                survey.fail(folder, error)
        for folder, mistake in survey.mistakes.items():
            self._mistakes.log(folder, mistake)
        with self._lock:
            self._markers.update(survey.markers)
        self._tracker.settle_batch(batch, began)
