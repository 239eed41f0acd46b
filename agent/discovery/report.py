"""Lists the files below the watched folders, by what they still lack, for the status document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.discovery.file_table import FileRow, FileTable, State
from agent.discovery.walk import WalkResult


@dataclass(frozen=True, slots=True)
class Held:
    """A file that is no recording yet.

    ``reason`` says why, for programs, and ``message`` says the same for people. ``quiet_seconds``
    tells how long the file has been seen unchanged.
    """

    path: Path
    state: State
    reason: str
    message: str
    quiet_seconds: float


@dataclass(frozen=True, slots=True)
class DiskReport:
    """What lies below the watched folders.

    Files of each kind are counted in full, but only the first ones are named: there may be 100,000.
    """

    # How many files there are of each kind: recording, unfinished, waiting, skipped, complete and
    # damaged.
    counts: Mapping[str, int] = field(default_factory=dict)

    recording: Sequence[Held] = ()
    unfinished: Sequence[Held] = ()

    # Files that wait for a sidecar, for Axon or for a compressor, that are still settling, or that
    # can't be read.
    waiting: Sequence[Held] = ()

    # Files that were older than watch.newer_than when they were first seen.
    skipped: Sequence[Path] = ()

    # The paths of each recording that lies at several ones.
    copies: Sequence[Sequence[Path]] = ()

    # How many files that may be meant as recordings are ignored, by suffix.
    ignored: Mapping[str, int] = field(default_factory=dict)

    # How many symbolic links are skipped.
    links: int = 0

    # Files that say why a marker file was rejected.
    rejected: Sequence[Path] = ()

    missing_roots: Sequence[Path] = ()
    unreadable_folders: Mapping[Path, str] = field(default_factory=dict)
    scan_seconds: float = 0.0


def report_of(known: FileTable, survey: WalkResult, now: float, most: int) -> DiskReport:
    """Return the report of all files that are known.

    Args:
        known: The files. The caller holds the lock.
        survey: What the last scan saw.
        now: The monotonic time, in seconds.
        most: How many files of each kind are named at most.
    """
    held: dict[str, list[Held]] = {"recording": [], "unfinished": [], "waiting": [], "skipped": []}
    counts = Counter({**dict.fromkeys(held, 0), "complete": 0, "damaged": 0})
    for folder, name, file in known.files():
        kind = "waiting" if file.state in ("settling", "unreadable") else file.state
        counts[kind] += 1
        if kind in held and len(held[kind]) < most:
            held[kind].append(_held(Path(folder, name), file, now))
    return DiskReport(
        counts=counts,
        recording=held["recording"],
        unfinished=held["unfinished"],
        waiting=held["waiting"],
        skipped=[item.path for item in held["skipped"]],
        copies=[[Path(path) for path in paths] for paths in known.copies()[:most]],
        ignored=dict(survey.ignored),
        links=survey.links,
        rejected=[Path(path) for path in survey.rejected],
        missing_roots=[Path(root) for root in survey.missing],
        unreadable_folders={Path(folder): why for folder, why in survey.unreadable.items()},
        scan_seconds=survey.seconds,
    )


def _held(path: Path, file: FileRow, now: float) -> Held:
    state = file.state
    return Held(path, state, file.reason or state, file.why or state, now - file.since)
