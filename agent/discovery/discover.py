"""Finds complete recordings below the watched folders.

Hints of the file system and scans come in, recordings that have settled come out. A hint only has
one place looked at sooner; a scan is the truth. A file must look the same at two times,
``settle_seconds`` apart on the monotonic clock, before it is examined.

This module puts the parts together: `scan_schedule` says when to scan, `scanner` sees what lies on
the disk, `file_tracker` notes what has changed, `file_check` checks files that have settled, and
`file_queries` answers the rest of the agent. The rules are in `name_rules` and `state_rules`.
"""

# Paths are plain text here: a scan goes over 100,000 files, and a Path for each would cost most.
# ruff: noqa: PTH100

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.discovery.error_log import Mistakes
from agent.discovery.examine import Examiner
from agent.discovery.file_check import FileChecker
from agent.discovery.file_queries import FileQueries
from agent.discovery.file_table import State
from agent.discovery.file_tracker import FileTracker
from agent.discovery.name_rules import NameFilter
from agent.discovery.report import DiskReport, report_of
from agent.discovery.scan_schedule import FullScanTicket, ScanSchedule
from agent.discovery.scanner import Scanner
from agent.discovery.sidecar import SidecarRule
from agent.discovery.state_rules import StateRules, WaitingRules
from agent.model.ports import Clock
from agent.model.values import Damaged, Recording, Sighting


class Discover:
    """The entrance to discovery: one object that the rest of the agent holds.

    It takes hints and requests, does the next step of the search, and passes questions on to the
    parts that know the answer.

    One thread, the finder's, calls :meth:`step`. Every other method may be called from any thread.
    """

    def __init__(
        self,
        examiner: Examiner,
        clock: Clock,
        *,
        roots: Sequence[Path],
        include: Sequence[str],
        exclude: Sequence[str],
        sidecar: SidecarRule,
        waits: WaitingRules,
        newer_than: float | Callable[[], float | None] | None = None,
        follow_symlinks: bool = False,
        boot_time: float = -math.inf,
    ) -> None:
        """Build the parts. The first :meth:`step` begins with a scan.

        Args:
            examiner: Says what lies at a path.
            clock: Its monotonic time is used.
            roots: The watched folders.
            include: Shell patterns for the names of recordings.
            exclude: Shell patterns for names of files and folders that are passed over.
            sidecar: The rule for sidecars.
            waits: How long is waited for what.
            newer_than: A file that was last changed before this time, in seconds since 1970, is
                skipped when it is first seen. A function is called for each such file. None, here
                or from the function, skips no file.
            follow_symlinks: Whether links are followed.
            boot_time: When this robot started, in seconds since 1970.
        """
        self._clock = clock
        self._roots = [os.path.abspath(root) for root in roots]
        # One lock guards all parts, so there is no order of locks to keep within discovery.
        self._lock = threading.RLock()
        self._hints: set[str] = set()
        self._mistakes = Mistakes()
        names = NameFilter(
            include, exclude, follow_symlinks=follow_symlinks, sidecars=sidecar != "ignore"
        )
        self._schedule = ScanSchedule(
            clock,
            self._lock,
            settle_seconds=waits.settle_seconds,
            rescan_seconds=waits.rescan_seconds,
        )
        self._tracker = FileTracker(
            clock,
            self._lock,
            names,
            waits,
            newer_than=newer_than if callable(newer_than) else lambda: newer_than,
            mistakes=self._mistakes,
        )
        self._scanner = Scanner(
            self._tracker,
            self._schedule,
            clock,
            self._lock,
            self._mistakes,
            roots=self._roots,
            names=names,
        )
        self._checker = FileChecker(
            self._tracker,
            StateRules(examiner, waits, clock, boot_time),
            clock,
            self._mistakes,
            follow_symlinks=follow_symlinks,
        )
        self._queries = FileQueries(
            self._tracker, waits, self._add_hint, follow_symlinks=follow_symlinks
        )

    # -- the finder's thread

    def step(self) -> list[Recording | Damaged]:
        """Do what is due. Return what has become complete or is damaged, the oldest first."""
        with self._lock:
            hints, self._hints = self._hints, set()
        if self._clock.monotonic() >= self._schedule.due:
            with self._mistakes.contained(", ".join(self._roots)):
                self._scanner.scan()
        for path in hints:
            with self._mistakes.contained(path):
                self._scanner.follow_hint(path)
        found: list[Recording | Damaged] = []
        for folder, name, file in self._tracker.due_files():
            result = self._checker.check(folder, name, file)
            if result is not None:
                found.append(result)
        return sorted(found, key=lambda item: (item.mtime_ns, str(item.path)))

    def next_step(self) -> float:
        """Return the monotonic time at which :meth:`step` has something to do."""
        with self._lock:
            if self._hints:
                return self._clock.monotonic()
            return min(self._schedule.due, self._tracker.next_check())

    # -- hints and requests

    def sight(self, sighting: Sighting) -> None:
        """Have the next step look where something happened."""
        self._add_hint(os.path.abspath(sighting.path))

    def rescan(self) -> None:
        """Have a full scan begin soon.

        However often this is called, two scans lie at least ``settle_seconds`` apart.
        """
        self._schedule.request()

    def next_full_scan(self) -> FullScanTicket:
        """Return a ticket that answers when the next full scan has begun and ended.

        Does not request a scan: :meth:`rescan` does.
        """
        return self._schedule.next_full_scan()

    def again(self, path: Path) -> None:
        """Give ``path`` once more after it has settled again.

        For a recording that :meth:`step` gave and that could not be taken.
        """
        self._tracker.settle_again(path)

    # -- answers

    @property
    def scans(self) -> int:
        """How many scans have ended."""
        return self._schedule.completed

    @property
    def changes(self) -> int:
        """Another number whenever the state of a file may have changed."""
        return self._tracker.changes

    @property
    def scan_seconds(self) -> float:
        """How long the last scan took."""
        with self._lock:
            return self._scanner.survey.seconds

    def markers(self) -> Sequence[Path]:
        """Return the marker files that were seen since the last call."""
        return [Path(path) for path in self._scanner.take_markers()]

    def report(self, most: int = 20) -> DiskReport:
        """Return what lies below the watched folders.

        At most ``most`` files of each kind are named: 100,000 files may settle at one time.
        """
        with self._lock:
            now = self._clock.monotonic()
            return report_of(self._tracker.table, self._scanner.survey, now, most)

    def state(self, path: Path) -> tuple[State, str] | None:
        """See :meth:`FileQueries.state`."""
        return self._queries.state(path)

    def stands(self, path: Path) -> tuple[State, str] | None:
        """See :meth:`FileQueries.state_now`."""
        return self._queries.state_now(path)

    def below(self, folder: Path) -> Sequence[Path]:
        """See :meth:`FileQueries.below`."""
        return self._queries.below(folder)

    def unsettled(self, folder: Path, since: float) -> bool:
        """See :meth:`FileQueries.unsettled`."""
        return self._queries.unsettled(folder, since)

    def names(self, fingerprint: str) -> Sequence[Path]:
        """See :meth:`FileQueries.names`."""
        return self._queries.names(fingerprint)

    def there(self) -> Callable[[str], bool]:
        """See :meth:`FileQueries.there`."""
        return self._queries.there()

    def may_lie(self) -> Callable[[str], bool] | None:
        """See :meth:`FileQueries.may_lie`. None before the first scan has ended."""
        return self._queries.may_lie() if self._schedule.completed else None

    def _add_hint(self, path: str) -> None:
        with self._lock:
            self._hints.add(path)
