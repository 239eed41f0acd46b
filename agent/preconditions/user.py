"""The user whose rights count for the checks: the owner of the state folder."""

from __future__ import annotations

import os
import pwd
from collections.abc import MutableMapping
from pathlib import Path


def become_owner(folder: Path, environ: MutableMapping[str, str]) -> None:
    """Turn this process into one of the user to whom ``folder`` belongs.

    The process gets the user's groups, and ``environ`` the user's home folder. There is no way
    back. Nothing happens where this process is not root's, or where there is no such folder.
    """
    try:
        owner = folder.stat().st_uid
    except OSError:
        return
    if os.geteuid() != 0 or owner == 0:
        return
    # Python loads this codec at its first use. The other user can't load it where Python is
    # installed in root's home folder.
    "localhost".encode("idna")
    try:
        entry = pwd.getpwuid(owner)
    except KeyError:
        # The user has no name, as in many containers, and so is in no group.
        os.setgroups([])
        os.setgid(folder.stat().st_gid)
    else:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        environ["HOME"] = entry.pw_dir
    os.setuid(owner)


def user_name(user: int) -> str:
    """Return the name of the user with this number, or the number where there is no name."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def current_user() -> str:
    """Return the name of the user who runs this process."""
    return user_name(os.geteuid())
