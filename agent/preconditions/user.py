"""As whom the agent works: preconditions are judged as the owner of its state folder."""

from __future__ import annotations

import os
import pwd
from collections.abc import MutableMapping
from pathlib import Path


def become_owner(folder: Path, environ: MutableMapping[str, str]) -> None:
    """Let this process be the user to whom ``folder`` belongs, groups and home too; for good, and for root only."""
    try:
        owner = folder.stat().st_uid
    except OSError:
        return
    if os.geteuid() != 0 or owner == 0:
        return
    "localhost".encode(
        "idna"
    )  # loaded at its first use, and a Python in root's home can't be read afterwards
    try:
        entry = pwd.getpwuid(owner)
    except KeyError:  # a user without a name
        os.setgroups([])
        os.setgid(folder.stat().st_gid)
    else:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        environ["HOME"] = entry.pw_dir
    os.setuid(owner)


def name_of(user: int) -> str:
    """What the user is called, else the number."""
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)


def me() -> str:
    """As whom this process works."""
    return name_of(os.geteuid())
