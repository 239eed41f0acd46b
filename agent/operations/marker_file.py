"""One touch file on the disk: seen, read, removed. Anybody of the group may have laid it there; nothing is followed."""

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
from agent.model.sync_log import Marker, Trigger
from agent.model.touch_files import rejected
from agent.model.values import Ask

_LONGEST_REASON = 1000  # characters
_LARGEST = 64 * 1024  # bytes that are read


class MarkerRejectedError(Exception):
    """A touch file can't be served, whenever it is tried."""


@dataclass(frozen=True, slots=True)
class MarkerRequest:
    """What is asked for. ``target`` is an absolute path or an episode id; "": where the touch file lies."""

    ask: Ask
    trigger: Trigger
    reason: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Binding:
    """A robot that is to be bound to an asset, or to none."""

    robot: str
    asset: str | None


def seen(path: Path) -> Marker | None:
    """What lies at ``path``; None where it is gone, or no regular file."""
    try:
        state = path.lstat()
    except OSError:
        return None
    return (
        Marker(str(path), state.st_ino, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None
    )


def is_written(path: Path) -> bool:
    """Whether a program has it open, and may still write its reason."""
    try:
        return has_writer(path) is True
    except FileNotFoundError:
        return False


def reason_in(path: Path) -> str:
    """What somebody wrote into it, in one line. Raises UnservedError where that can't be read."""
    return _reason(_text(path))


def request_in(path: Path) -> MarkerRequest | Binding:
    """What a command left there. Raises UnservedError where that is nothing that a command leaves."""
    asked = _object(_text(path))
    ask, target, robot, asset = (asked.get(name) for name in ("ask", "target", "robot", "asset"))
    if ask == "asset" and isinstance(robot, str) and (asset is None or isinstance(asset, str)):
        return Binding(robot, asset)
    if ask in ("resync", "first") and isinstance(target, str) and _is_name(target):
        return MarkerRequest(
            "first" if ask == "first" else "resync",
            "cli",
            _reason(str(asked.get("reason") or "")),
            target,
        )
    raise MarkerRejectedError("it is no request of keystone-agent")


def unlink(marker: Marker) -> None:
    """Remove the marker, but none that was dropped there since. Raises OSError."""
    path = Path(marker.path)
    with suppress(FileNotFoundError):
        state = path.lstat()
        if (state.st_ino, state.st_mtime_ns) == (marker.inode, marker.mtime_ns):
            path.unlink()


def is_synced(folder: Path) -> bool:
    """Make it durable that markers are gone; False where they may come back with a power cut."""
    try:
        sync_folder(folder)
    except FileNotFoundError:
        return True  # they went with their folder
    except OSError:
        return False
    return True


def leave_reason(path: Path, why: str) -> None:
    """Put beside a marker why it is not served; durable on return. Raises OSError."""
    put(rejected(path), f"{why}\n".encode("utf-8", "replace"), owner=path.parent, mode=0o644)


def _text(path: Path) -> str:
    try:
        if path.lstat().st_size == 0:
            return ""  # needs no right to read
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(_LARGEST).decode("utf-8", "replace")
    except FileNotFoundError:
        raise  # somebody took it back
    except OSError as error:
        raise MarkerRejectedError(f"it can't be read: {error.strerror}") from error


def _reason(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[
        :_LONGEST_REASON
    ]


def _object(text: str) -> Mapping[str, Any]:
    with suppress(ValueError, RecursionError):
        content = json.loads(text)
        if isinstance(content, dict):
            return content
    return {}


def _is_name(text: str) -> bool:
    """Whether a path may be called so."""
    try:
        return bool(text) and b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False
