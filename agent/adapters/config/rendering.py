"""Writes settings as TOML text, with what is secret hidden."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from agent.adapters.config.kinds import USER_IN_URL
from agent.adapters.config.sections import Settings

# A longer value is cut off where people read it.
_SHOWN_CHARACTERS = 80

# Names of keys whose values are never shown, also when the agent does not know the key.
_SECRET = re.compile(r"secret|token|passw|credential|(api|access|private)_?key", re.IGNORECASE)


def to_toml(settings: Settings, origin: Mapping[str, str] | None = None) -> str:
    """Return ``settings`` as a TOML file that loads to the same value.

    Only passwords are left out: they are hidden. ``origin`` says by dotted key where each value
    comes from, and goes into the comments of the file.
    """
    sections = []
    for name, section in settings:
        lines = [f"[{name}]"]
        for key, value in section:
            comment = f"  # {origin[f'{name}.{key}']}" if origin else ""
            lines.append(f"{key} = {toml_text(value)}{comment}")
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def shown_value(key: str, value: Any) -> str:
    """Return ``value`` as people may see it in a terminal and in a log, without secrets.

    ``key`` is the name of the setting. The value may be of any type, because it may be wrong.
    """
    if _SECRET.search(key):
        return '"***"'
    try:
        text = toml_text(value)
    except (ValueError, RecursionError):
        text = f"(a {type(value).__name__})"
    text = USER_IN_URL.sub("://***@", text)
    # In a proxy address that is wrong the password may stand anywhere before the last @.
    if key == "proxy" and "@" in text:
        text = f'"***@{text.rpartition("@")[2]}'
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return text[: _SHOWN_CHARACTERS - 3] + "..."


def toml_text(value: Any) -> str:
    """Return ``value`` as TOML has it.

    Raises:
        ValueError: The value is a number with too many digits.
        RecursionError: Lists or tables are nested too deeply.
    """
    if isinstance(value, (int, float)):
        # TOML writes True as true, and the lower case changes no number.
        return repr(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = ", ".join(
            f"{toml_text(str(key))} = {toml_text(item)}" for key, item in value.items()
        )
        return f"{{ {pairs} }}" if pairs else "{}"
    text = "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")
    # JSON's escapes are those of TOML, except for characters beyond 16 bits.
    return "".join(
        letter if letter.isprintable() else f"\\U{ord(letter):08x}"
        for letter in json.dumps(text, ensure_ascii=False)
    )
