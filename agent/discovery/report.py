"""What lies on the disk, for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.discovery.file_table import FileTable
from agent.discovery.walk import WalkResult


@dataclass(frozen=True, slots=True)
class Held:
    """A file that is no recording yet. ``quiet_seconds``: how long it has been seen unchanged."""

    path: Path
    why: str
    quiet_seconds: float


@dataclass(frozen=True, slots=True)
class DiskReport:
    """What lies on the disk, for people. Files are counted all, and of each kind the first are named."""

    counts: Mapping[str, int] = field(
        default_factory=dict
    )  # by kind: the four below, complete and damaged
    recording: Sequence[Held] = ()
    unfinished: Sequence[Held] = ()
    waiting: Sequence[
        Held
    ] = ()  # for a sidecar, for Axon, for a compressor; still settling; unreadable
    skipped: Sequence[Path] = ()  # older than watch.newer_than when first seen
    copies: Sequence[Sequence[Path]] = ()  # names of one recording, where it has several
    ignored: Mapping[str, int] = field(default_factory=dict)  # by suffix
    links: int = 0  # skipped symbolic links
    rejected: Sequence[Path] = ()  # reasons why touch files were not served
    missing_roots: Sequence[Path] = ()
    unreadable_folders: Mapping[Path, str] = field(default_factory=dict)
    scan_seconds: float = 0.0


def report_of(known: FileTable, survey: WalkResult, now: float, most: int) -> DiskReport:
    """Walk over all that is known, at that monotonic time; at most so many files of a kind are named."""
    held: dict[str, list[Held]] = {"recording": [], "unfinished": [], "waiting": [], "skipped": []}
    counts = Counter({**dict.fromkeys(held, 0), "complete": 0, "damaged": 0})
    for folder, name, file in known.files():
        kind = "waiting" if file.state in ("settling", "unreadable") else file.state
        counts[kind] += 1
        if kind in held and len(held[kind]) < most:
            held[kind].append(Held(Path(folder, name), file.why or file.state, now - file.since))
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
