"""May a file that holds secrets be used? Not when others could have read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def exposure(path: Path, status: os.stat_result) -> str:
    """Why the file at ``path`` is no place for secrets, in words with the remedy; "" when it is one.

    Files in $CREDENTIALS_DIRECTORY are: systemd guards that folder with an ACL, which shows as group permissions.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory and path.resolve().is_relative_to(Path(directory).resolve()):
        return ""
    if status.st_mode & stat.S_IROTH:
        return "can be read by everybody: chmod o-r"
    if status.st_mode & stat.S_IRGRP and status.st_gid not in (os.getegid(), *os.getgroups()):
        return "can be read by a group that is not the agent's: chmod g-r"
    return ""
