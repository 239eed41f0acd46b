"""Reads and deletes one marker, which is a touch file of an operator.

Every user of the agent's group may have put the file there, so its content is checked and no link
is followed.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.files.writers import has_writer
from agent.model.atomic_file import put, sync_folder
from agent.model.printable import printable_lines
from agent.model.sync_log import Marker, Trigger
from agent.model.touch_files import rejected
from agent.model.values import Ask

_REASON_MAX_CHARACTERS = 1000

# The most that is read of a marker.
_READ_MAX_BYTES = 64 * 1024


class MarkerRejectedError(Exception):
    """A marker can't be handled now or later; the text says why."""


@dataclass(frozen=True, slots=True)
class MarkerRequest:
    """What is asked for, by whom and why.

    ``target`` is an absolute path or an episode id; "" is the folder that the marker lies in.
    """

    ask: Ask
    trigger: Trigger
    reason: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Binding:
    """The request to bind a robot to an asset, or to none."""

    robot: str
    asset: str | None


def marker_at(path: Path) -> Marker | None:
    """Return the marker at ``path``; None where there is none, or no regular file."""
    try:
        state = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(state.st_mode):
        return None
    return Marker(str(path), state.st_ino, state.st_mtime_ns)


def is_written(path: Path) -> bool:
    """Return whether a program has the marker open, and may still write a reason into it."""
    try:
        return has_writer(path) is True
    except FileNotFoundError:
        return False


def reason_in(path: Path) -> str:
    """Return the reason in a marker, in one line.

    Raises MarkerRejectedError where the marker can't be read, and FileNotFoundError.
    """
    return _reason(_text(path))


def request_in(path: Path) -> MarkerRequest | Binding:
    """Return the request that a command left in a marker.

    Raises MarkerRejectedError where the content is no such request, and FileNotFoundError.
    """
    content = _object(_text(path))
    ask, target, robot, asset = (content.get(name) for name in ("ask", "target", "robot", "asset"))
    if ask == "asset" and isinstance(robot, str) and (asset is None or isinstance(asset, str)):
        return Binding(robot, asset)
    if ask in ("resync", "first") and isinstance(target, str) and _is_name(target):
        kind: Ask = "first" if ask == "first" else "resync"
        return MarkerRequest(
            kind,
            "cli",
            _reason(str(content.get("reason") or "")),
            target,
        )
    raise MarkerRejectedError("it is no request of keystone-agent")


def unlink(marker: Marker) -> None:
    """Delete a marker, but no other one that was dropped at the same path since. Raises OSError."""
    path = Path(marker.path)
    with suppress(FileNotFoundError):
        state = path.lstat()
        if (state.st_ino, state.st_mtime_ns) == (marker.inode, marker.mtime_ns):
            path.unlink()


def is_synced(folder: Path) -> bool:
    """Make deletions in a folder durable; False where a power cut may bring markers back."""
    try:
        sync_folder(folder)
    except FileNotFoundError:
        # The markers are gone together with their folder.
        return True
    except OSError:
        return False
    return True


def leave_reason(path: Path, why: str) -> None:
    """Write beside a marker why it was rejected; durable on return. Raises OSError."""
    # An operator shows the file on a terminal, and the reason may quote another file.
    put(rejected(path), f"{printable_lines(why)}\n".encode(), owner=path.parent, mode=0o644)


def _text(path: Path) -> str:
    try:
        # An empty marker needs no right to read it.
        if path.lstat().st_size == 0:
            return ""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_READ_MAX_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        # The operator took the marker back.
        raise
    except OSError as error:
        raise MarkerRejectedError(f"it can't be read: {error.strerror}") from error


def _reason(text: str) -> str:
    """Return ``text`` as one printable line of limited length."""
    line = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return line[:_REASON_MAX_CHARACTERS]


def _object(text: str) -> Mapping[str, Any]:
    """Return the JSON object in ``text``; an empty one where there is none."""
    with suppress(ValueError, RecursionError):
        content = json.loads(text)
        if isinstance(content, dict):
            return content
    return {}


def _is_name(text: str) -> bool:
    """Return whether a path may have this name."""
    try:
        return bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
