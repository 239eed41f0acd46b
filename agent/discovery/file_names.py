"""Which file names belong to one recording: its compressed form, sidecar and done marker."""

# Names are plain text here: a scan judges 100,000 of them, and a Path for each would cost most.
# ruff: noqa: PTH122

from __future__ import annotations

import os
from pathlib import Path

# rosbag2 appends this to the name of a split that it compresses.
COMPRESSED = ".zstd"

# Axon creates a file with this appended to the recording's name when it has written everything.
DONE = ".done"

# The suffix of a sidecar, which has the stem of its recording.
SIDECAR = ".json"

_RECORDINGS = (".mcap", ".MCAP")


def sidecar_name(name: str) -> str:
    """Return the base name of the sidecar that belongs to the recording ``name``."""
    return os.path.splitext(name.removesuffix(COMPRESSED))[0] + SIDECAR


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of the recording at ``path`` lies: same stem, ``.json``."""
    return path.with_name(path.name.removesuffix(COMPRESSED)).with_suffix(SIDECAR)


def related(name: str) -> set[str]:
    """Return the base names of the recordings that a change of the file ``name`` may concern.

    A new sidecar or done marker, for example, may complete the recording of the same stem.
    """
    stem = name
    for suffix in (COMPRESSED, DONE, *_RECORDINGS, SIDECAR):
        stem = stem.removesuffix(suffix)
    recordings = {stem + suffix for suffix in _RECORDINGS}
    return {name, *recordings, *(recording + COMPRESSED for recording in recordings)}


def is_below(path: str, folder: str) -> bool:
    """Return whether ``path`` is ``folder`` or lies below it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
