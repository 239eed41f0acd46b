"""Reads the values of a sidecar, and writes them as text.

A sidecar is JSON that other programs write, so nothing in it is trusted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from decimal import Decimal
from math import isfinite
from typing import Any

from agent.model.errors import RecordingError
from agent.model.values import Recording

# How deep a sidecar may be nested. Deeper names fit into no key, and the interpreter's stack allows
# much more.
_MAX_DEPTH = 64

# What an operator can do about a sidecar that can't be used.
MEND_SIDECAR = "mend the sidecar; the agent then tries again by itself"


def content_of(recording: Recording) -> Mapping[str, Any]:
    """Return the content of the sidecar, empty without one.

    Raises RecordingError when the sidecar is no JSON object, or can't be read.
    """
    sidecar = recording.sidecar
    if sidecar is None:
        return {}
    if sidecar.content is not None:
        return sidecar.content
    if not sidecar.readable:
        raise RecordingError(
            f"the sidecar {sidecar.path} can't be read: {sidecar.fault}",
            code="sidecar_unreadable",
            hint="give the agent's user the right to read the sidecar; "
            "the agent then tries again by itself",
        )
    raise invalid_sidecar(sidecar.fault)


def invalid_sidecar(why: str) -> RecordingError:
    """Return the error of a sidecar that can't be used; ``why`` goes into its text."""
    return RecordingError(
        f"the sidecar is no JSON object: {why}", code="sidecar_invalid", hint=MEND_SIDECAR
    )


def inner_member(content: Mapping[str, Any], outer: str, inner: str) -> Any:
    """Return ``content[outer][inner]``; None where there is no such member."""
    value = content.get(outer)
    return value.get(inner) if isinstance(value, Mapping) else None


def is_scalar(value: Any) -> bool:
    """Return whether a JSON value is no object and no array."""
    return not isinstance(value, (Mapping, list, tuple))


def scalar_text(value: Any) -> str:
    """Return a value that is no object and no array as text.

    Raises RecordingError("sidecar_invalid") for an infinite number.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not isfinite(value):
            raise invalid_sidecar("it holds a number that JSON does not know")
        # repr gives the shortest decimal, which may have an exponent.
        plain = format(Decimal(repr(value)), "f")
        return plain.removesuffix(".0")
    return utf8_text(str(value))


def compact_json(value: Any, depth: int, max_characters: int) -> str:
    """Return compact JSON with sorted keys; numbers are written as outside of arrays.

    A short sidecar can become a very long text, because 1e308 has 309 digits. So a text that is
    longer than ``max_characters`` is cut off somewhere after them.

    ``depth`` is how deep ``value`` is nested. Raises RecordingError("sidecar_invalid").
    """
    pieces = []
    length = 0
    # The rest is read too, because it may be invalid.
    for piece in _json_pieces(value, depth):
        if length <= max_characters:
            pieces.append(piece)
            length += len(piece)
    return "".join(pieces)


def _json_pieces(value: Any, depth: int) -> Iterator[str]:
    """Yield the text of :func:`compact_json` in pieces."""
    check_depth(depth)
    if isinstance(value, Mapping):
        names = {key_text(name): item for name, item in value.items()}
        before = "{"
        for name in sorted(names):
            yield f"{before}{json.dumps(name, ensure_ascii=False)}:"
            yield from _json_pieces(names[name], depth + 1)
            before = ","
        yield "}" if names else "{}"
    elif isinstance(value, (list, tuple)):
        before = "["
        for item in value:
            yield before
            yield from _json_pieces(item, depth + 1)
            before = ","
        yield "]" if value else "[]"
    elif value is None:
        yield "null"
    elif isinstance(value, str):
        yield json.dumps(utf8_text(value), ensure_ascii=False)
    else:
        yield scalar_text(value)


def check_depth(depth: int) -> None:
    """Raise RecordingError("sidecar_invalid") where JSON is nested too deep."""
    if depth > _MAX_DEPTH:
        raise invalid_sidecar(f"it is nested more than {_MAX_DEPTH} deep")


def key_text(name: str) -> str:
    """Return a member's name as UTF-8 can hold it. Raises RecordingError where it is empty."""
    if not name:
        raise invalid_sidecar("it has an empty key")
    return utf8_text(name)


def utf8_text(text: str) -> str:
    """Return ``text`` as UTF-8 can hold it: JSON may escape half of a pair of surrogates."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def file_name_text(name: str) -> str:
    """Return a file name as UTF-8 can hold it: on Linux a name may be any bytes."""
    return os.fsencode(name).decode("utf-8", "replace")
