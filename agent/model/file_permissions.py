"""Checks whether a file with secrets could have been read by other users."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def exposure(path: Path, status: os.stat_result) -> str:
    """Return why other users can read the file at ``path``, with the remedy, or "" if they cannot.

    Files in $CREDENTIALS_DIRECTORY are accepted. systemd protects that folder with an ACL, which
    looks like a permission of the group.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and path.resolve().is_relative_to(Path(directory).resolve()):
        return ""
    if status.st_mode & stat.S_IROTH:
        return "can be read by everybody: chmod o-r"
    if status.st_mode & stat.S_IRGRP and status.st_gid not in (os.getegid(), *os.getgroups()):
        return "can be read by a group that is not the agent's: chmod g-r"
    return ""
