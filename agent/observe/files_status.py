"""The part of the status that tells of the files on the disk that are no recordings yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.discovery.discover import Discover
from agent.discovery.report import DiskReport, Held
from agent.model.ports import Clock
from agent.model.values import utc_text

# The largest number of files of one kind that the status names.
_MAX_NAMED_FILES = 20

# The report on the files is made anew after one second for so many known files. So a report on
# 100,000 files is made at most every 100 seconds.
_REPORT_FILES_PER_SECOND = 1000


class FilesStatus:
    """Describes the files for the status document.

    It keeps the description until something has changed and some time has passed, because a report
    on many files takes long.

    It must be used by one thread at a time.
    """

    def __init__(self, discover: Discover, clock: Clock) -> None:
        """Begin without a description."""
        self._discover = discover
        self._clock = clock
        self._described: dict[str, Any] = {}
        # The state to which the description belongs: the number of changes on the disk, and the
        # difference of the two clocks in minutes.
        self._state = (-1, 0)
        self._due = 0.0

    def take(self) -> dict[str, Any]:
        """Return parts of the status document by their keys.

        The sentences in ``files`` stay until version 0.3. The other parts have the same as fields.
        """
        now = self._clock.monotonic()
        # If the wall clock is set, all times of the report are wrong.
        clock_difference_minutes = round((self._clock.now() - now) / 60)
        state = (self._discover.changes, clock_difference_minutes)
        if state != self._state and now >= self._due:
            report = self._discover.report(_MAX_NAMED_FILES)
            known = sum(
                report.counts[kind] for kind in ("complete", "damaged", "skipped", "recording")
            )
            self._state = state
            self._due = now + known / _REPORT_FILES_PER_SECOND
            self._described = {
                "files": self._describe(report),
                "held_files": [
                    self._held(file)
                    for files in (report.recording, report.unfinished, report.waiting)
                    for file in files
                ],
                "copies": [[str(path) for path in paths] for paths in report.copies],
                "unreadable_folders": failures_as_json(report.unreadable_folders),
            }
        return self._described

    def _describe(self, report: DiskReport) -> dict[str, Any]:
        """Return the files that are no recordings, the first of each kind by name, and counts."""
        ignored = dict(report.ignored)
        if report.links:
            ignored["links"] = report.links
        return {
            "recording": self._held_in_words(report.recording),
            "unfinished": self._held_in_words(report.unfinished),
            "waiting": self._held_in_words(report.waiting),
            "skipped": [str(path) for path in report.skipped],
            "copies": [" = ".join(map(str, paths)) for paths in report.copies],
            "missing": [str(root) for root in report.missing_roots],
            "unreadable": failures_in_words(report.unreadable_folders),
            "rejected": [str(path) for path in report.rejected[:_MAX_NAMED_FILES]],
            "files": dict(report.counts),
            "ignored": ignored,
        }

    def _held(self, file: Held) -> dict[str, Any]:
        return {
            "path": str(file.path),
            "state": file.state,
            "since": utc_at(self._clock, self._clock.monotonic() - file.quiet_seconds),
            "reason": file.reason,
            "message": file.message,
        }

    def _held_in_words(self, files: Sequence[Held]) -> list[str]:
        return [
            "{path} ({message}, no change since {since})".format(**self._held(file))
            for file in files
        ]


def failures_as_json(failures: Mapping[Path, str]) -> list[dict[str, str]]:
    """Return folders with which something is wrong, and what it is."""
    return [{"path": str(folder), "message": why} for folder, why in failures.items()]


def failures_in_words(failures: Mapping[Path, str]) -> list[str]:
    """Return the same as sentences, for the keys that stay until version 0.3."""
    return [f"{folder} ({why})" for folder, why in failures.items()]


def utc_at(clock: Clock, monotonic: float) -> str:
    """Return the UTC time at which the monotonic clock showed so many seconds."""
    # The text has whole seconds, because the two clocks are not read at the same instant.
    return utc_text(round(clock.now() + monotonic - clock.monotonic()))
