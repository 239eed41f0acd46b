"""What lies on the disk, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Held:
    """A file that is no recording yet. ``quiet_seconds``: how long it has been seen unchanged."""

    path: Path
    why: str
    quiet_seconds: float


@dataclass(frozen=True, slots=True)
class DiskReport:
    """What lies on the disk, for people. Files are counted all, and of each kind the first are named."""

    counts: Mapping[str, int] = field(default_factory=dict)  # by kind: the four below, complete and damaged
    recording: Sequence[Held] = ()
    unfinished: Sequence[Held] = ()
    waiting: Sequence[Held] = ()  # for a sidecar, for Axon, for a compressor; still settling; unreadable
    skipped: Sequence[Path] = ()  # older than watch.newer_than when first seen
    copies: Sequence[Sequence[Path]] = ()  # names of one recording, where it has several
    ignored: Mapping[str, int] = field(default_factory=dict)  # by suffix
    links: int = 0  # skipped symbolic links
    rejected: Sequence[Path] = ()  # reasons why touch files were not served
    missing_roots: Sequence[Path] = ()
    unreadable_folders: Mapping[Path, str] = field(default_factory=dict)
    scan_seconds: float = 0.0
