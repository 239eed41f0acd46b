"""Reads the sidecar of a recording: a JSON object in a file beside the recording.

A sidecar may be written by any user of the robot. So its size, its depth and its numbers are
bounded here, and a sidecar that breaks a rule becomes a value that says what is wrong with it.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import math
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from agent.files.below_root import open_regular_file
from agent.model.errors import RecordingError
from agent.model.values import Sidecar

SidecarRule = Literal["optional", "required", "ignore"]

_MAX_BYTES = 1024 * 1024

# How deeply objects and arrays may be nested. Code that walks through a sidecar later may recurse,
# and Python limits recursion.
_MAX_DEPTH = 100

# How many members, objects and arrays a sidecar may have. Each of them takes up to 350 bytes of
# memory, here and as a tag. So they are counted before the sidecar is parsed.
_MAX_MEMBERS = 20_000

# A string without escapes, or else what each member, object and array has once, as a group.
_STRING_OR_MARK = re.compile(r'"[^"]*"|(:)|({)|(\[)')

# The longest whole number that Python reads, from 3.11 on. The same limit holds on each version.
_MAX_DIGITS = 4300

# The error numbers by which the kernel says that this user has no right to read a file.
_FORBIDDEN = (errno.EACCES, errno.EPERM)


def read_sidecar(path: Path, folder: int, *, follow_symlinks: bool) -> Sidecar | None:
    """Return the sidecar at ``path``, or None where there is none.

    A link counts as none unless ``follow_symlinks`` is set. A sidecar that is no regular file, that
    holds no JSON object, or that this user may not read, is returned without content and with its
    fault.

    Args:
        path: Where the sidecar lies.
        folder: The folder of ``path``, open. The sidecar is opened in this folder by its name.
        follow_symlinks: Whether a link is followed.

    Raises:
        OSError: The disk does not answer. Its text names the sidecar.
    """
    try:
        raw = _read_raw(path, folder, follow_symlinks=follow_symlinks)
    except FileNotFoundError:
        return None
    except RecordingError:
        if _is_link(path.name, folder):
            return None
        return Sidecar(path, hashlib.sha256().hexdigest(), None, "it is no regular file")
    except OSError as error:
        if error.errno in _FORBIDDEN:
            return Sidecar(path, "", None, error.strerror or str(error), readable=False)
        # Without the name the recording itself would seem to be unreadable.
        why = f"its sidecar {path.name}: {error.strerror or error}"
        raise OSError(error.errno or errno.EIO, why) from error
    digest = hashlib.sha256(raw).hexdigest()
    try:
        return Sidecar(path, digest, _parse(raw))
    except ValueError as error:
        return Sidecar(path, digest, None, str(error))


def _read_raw(path: Path, folder: int, *, follow_symlinks: bool) -> bytes:
    """Return the bytes of the file, but no more than one above the limit."""
    descriptor = open_regular_file(path, folder, follow_symlinks=follow_symlinks)
    try:
        return _read_up_to(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)


def _read_up_to(descriptor: int, limit: int) -> bytes:
    """Return the first bytes of the open file, at most ``limit`` of them."""
    content = b""
    while len(content) < limit:
        block = os.pread(descriptor, limit - len(content), len(content))
        if not block:
            break
        content += block
    return content


def _is_link(name: str, folder: int) -> bool:
    """Return whether a symbolic link has this name in the open folder, or no file has it."""
    try:
        state = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return stat.S_ISLNK(state.st_mode)


def _parse(raw: bytes) -> dict[str, Any]:
    """Return the JSON object in ``raw``, whole numbers as int and all others as float.

    Raises ValueError with a text that says what is wrong.
    """
    if len(raw) > _MAX_BYTES:
        raise ValueError(f"it is larger than {_MAX_BYTES >> 20} MiB")
    if not raw:
        raise ValueError("it is empty")
    # From bytes json.loads would also guess at UTF-16 and UTF-32 without a mark.
    text = raw.decode(_encoding(raw))
    if not _has_few_members(text):
        raise ValueError(f"it has more than {_MAX_MEMBERS} members, objects or arrays")
    try:
        content = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_int=_whole_number,
            parse_float=_number,
            object_pairs_hook=_object,
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - all faults are one kind of error
    if not _is_shallow(content):
        raise ValueError("it is nested too deeply")
    # JSON can hold half a surrogate pair, which is no text. Encoding raises ValueError for it.
    json.dumps(content, ensure_ascii=False).encode()
    return content


def _encoding(raw: bytes) -> str:
    """Return the encoding of a text by its byte order mark, which some editors write."""
    is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return "utf-16" if is_utf16 else "utf-8-sig"


def _has_few_members(text: str) -> bool:
    """Return whether members, objects and arrays are within the limit. Takes little memory."""
    without_escapes = text.replace(r"\\", "").replace(r"\"", "")
    counts = Counter(match.lastindex for match in _STRING_OR_MARK.finditer(without_escapes))
    return all(counts[mark] <= _MAX_MEMBERS for mark in (1, 2, 3))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if "" in content:
        raise ValueError("it has an empty key")
    if len(content) != len(pairs):
        raise ValueError("it has the same key twice in one object")
    return content


def _refuse_constant(text: str) -> float:
    """Refuse NaN and Infinity, which Python would read though JSON does not have them."""
    raise ValueError(f"{text} is no JSON number")


def _whole_number(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError("it has a number with too many digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("it has a number that is too large")
    return number


def _is_shallow(content: dict[str, Any]) -> bool:
    """Return whether objects and arrays are nested within the limit. Does not recurse."""
    level: list[Any] = [content]
    for _ in range(_MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return True
    return False


def _children(item: Any) -> list[Any]:
    """Return the values of an object or an array; a plain value has none."""
    if isinstance(item, dict):
        return list(item.values())
    return item if isinstance(item, list) else []
