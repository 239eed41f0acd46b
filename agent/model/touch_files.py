"""The names of marker files, by which an operator asks for something with ``touch`` alone."""

from __future__ import annotations

from pathlib import Path

# The suffixes of marker files beside recordings: upload again, and upload before all others.
RESYNC = ".resync"
FIRST = ".first"

# The suffix of the file that says why a marker file was rejected.
REJECTED = ".rejected"

# The suffix of a request that a command leaves in the folder of marker files if no agent runs.
REQUEST = ".request"

# The marker files in the folder of marker files.
PAUSE = "pause"
RESCAN = "rescan"


def is_marker(name: str) -> bool:
    """Return whether a file with this base name, below a watched folder, is a marker file."""
    return name.endswith((RESYNC, FIRST))


def target_of(name: str) -> str | None:
    """Return the base name of the file for which a marker file of this base name is.

    Return "" if the marker file is for its folder, and None if ``name`` is no marker file.
    """
    for suffix in (RESYNC, FIRST):
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return None


def is_rejected(name: str) -> bool:
    """Return whether a file with this base name says why a marker file was rejected."""
    return name.endswith((RESYNC + REJECTED, FIRST + REJECTED))


def rejected(marker: Path) -> Path:
    """Return the path of the file that says why ``marker`` was rejected."""
    return marker.with_name(marker.name + REJECTED)
