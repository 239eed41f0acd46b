"""Makes one text of a whole configuration, to compare configurations across versions."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any


def merged(documents: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the TOML ``documents`` as one document. Keys that no version knows are kept.

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

    The text is made of the merged content of the files, and not of their bytes. Other comments,
    another order of the keys or another drop-in do not change the configuration. Variables go in
    as their raw text, because only a version that knows a key can tell the type of its value.

    Every version of the agent must make the same text of the same configuration. After a change
    here, a version from before the change no longer recognises what a later version accepted.

    Args:
        document: The result of :func:`merged`.
        variables: The environment variables that are settings, by name.

    Raises:
        RecursionError: Tables or lists are nested too deeply.
    """
    return f"{_text(document)}\n{_text(variables)}\n".encode()


def _text(value: Any) -> str:
    """Return ``value`` as JSON text. Values that JSON does not have get a text of their own."""
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

    An unknown section that has no keys is named itself.
    """
    for name, table in document.items():
        dotted = [f"{name}.{key}" for key in table] if isinstance(table, dict) else []
        if name in sections:
            yield from (key for key in dotted if key not in keys)
        else:
            yield from dotted or [name]
