"""What a whole configuration says, for the comparison of configurations across versions of the agent."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any


def merged(documents: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the TOML ``documents`` as one, with the keys that no version knows, too.

    A later document wins over an earlier one, key by key. A table that is the value of a key, such
    as ``assets.map``, is joined in the same way.
    """
    result: dict[str, Any] = {}
    for document in documents:
        for name, table in document.items():
            if not isinstance(table, dict):
                result[name] = table
                continue
            old = result.get(name)
            section = dict(old) if isinstance(old, dict) else {}
            for key, value in table.items():
                before = section.get(key)
                if isinstance(before, dict) and isinstance(value, dict):
                    section[key] = {**before, **value}
                else:
                    section[key] = value
            result[name] = section
    return result


def canonical(document: Mapping[str, Any], variables: Mapping[str, str]) -> bytes:
    """Return a text that is the same whenever the configuration says the same.

    The text is made of what the files say once they are merged, and not of their bytes: whoever
    writes the files anew, with other comments, in another order or in another drop-in, has not
    changed the configuration. Variables go in as their raw text, because only a version that knows
    a key can tell of what type its value is.

    Every version of the agent must make the same text of the same configuration. A change here
    makes the versions before it and after it strangers to each other.

    Args:
        document: What :func:`merged` gives.
        variables: The environment variables that are settings, by name.

    Raises:
        RecursionError: Tables or lists are nested too deeply.
    """
    return f"{_text(document)}\n{_text(variables)}\n".encode()


def _text(value: Any) -> str:
    """Return ``value`` as JSON has it, but for what JSON can't carry."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_text(key)}:{_text(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_text(item) for item in value) + "]"
    return _scalar_text(value)


def _scalar_text(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        # Decimal digits would take Python too long for a number of some thousand digits.
        return hex(value)
    if isinstance(value, float):
        return repr(value)
    # The only other values of TOML are dates and times.
    return f"{type(value).__name__}({value.isoformat()})"


def unknown_keys(
    document: Mapping[str, Any],
    sections: Collection[str],
    keys: Collection[str],
) -> Iterable[str]:
    """Yield the dotted keys of a merged document that are not among ``keys``.

    A section of which nothing is known and that has no key is named itself.
    """
    for name, table in document.items():
        within = [f"{name}.{key}" for key in table] if isinstance(table, dict) else []
        if name in sections:
            yield from (key for key in within if key not in keys)
        else:
            yield from within or [name]
