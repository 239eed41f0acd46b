"""Names of the files by which an operator asks for something with ``touch`` alone."""

from __future__ import annotations

from pathlib import Path

RESYNC, FIRST, REJECTED = ".resync", ".first", ".rejected"
REQUEST = ".request"  # what a command leaves in the markers' folder while no agent runs
PAUSE, RESCAN = "pause", "rescan"  # in the markers' folder, too


def is_marker(name: str) -> bool:
    """Whether a file of this base name, below a watched folder, asks for something."""
    return name.endswith((RESYNC, FIRST))


def target_of(name: str) -> str | None:
    """The base name that a marker of this base name is for, "" for its folder; None where it is no marker."""
    return name[: -len(RESYNC if name.endswith(RESYNC) else FIRST)] if is_marker(name) else None


def is_rejected(name: str) -> bool:
    """Whether a file of this base name says why a marker was not served."""
    return name.endswith((RESYNC + REJECTED, FIRST + REJECTED))


def rejected(marker: Path) -> Path:
    """Where the reason stands why ``marker`` was not served."""
    return marker.with_name(marker.name + REJECTED)
