"""Reads what Axon writes about a recording into the MCAP itself.

Axon writes the same facts into metadata records of the file and into the sidecar. The records
serve for recordings without a sidecar. A record holds nothing but text, so numbers are read here as
the sidecar would have them. The names of the records and their members are those of Axon's own
source, ``metadata_injector.cpp``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Members of ``axon.recording`` that are numbers in the sidecar.
_NUMBERS = frozenset({"duration_sec", "message_count", "file_size_bytes"})

# A number of at most 20 digits before and after the point, which fits into int and float.
_WHOLE = re.compile(r"[0-9]{1,20}")
_DECIMAL = re.compile(r"[0-9]{1,20}\.[0-9]{1,20}")

# What the platform calls two members of ``axon.task``.
_RENAMED = {"order_id": "order_name", "data_collector_id": "data_collector_name"}


def axon_content(metadata: Mapping[str, Mapping[str, str]]) -> Mapping[str, Any]:
    """Return the content that the sidecar would have, as far as it gives tags.

    ``metadata`` are the records of an MCAP by name. The result is empty for other recorders.
    """
    task = {_RENAMED.get(name, name): value for name, value in _record(metadata, "axon.task")}
    content = {
        "task": task,
        "device": dict(_record(metadata, "axon.device")),
        "recording": {
            name: _number(value) if name in _NUMBERS else value
            for name, value in _record(metadata, "axon.recording")
            if not _is_placeholder(name, value)
        },
    }
    return {name: members for name, members in content.items() if members}


def _record(metadata: Mapping[str, Mapping[str, str]], name: str) -> list[tuple[str, str]]:
    """Return the members of a metadata record that have a name."""
    return [(key, value) for key, value in metadata.get(name, {}).items() if key]


def _is_placeholder(name: str, value: str) -> bool:
    """Return whether Axon was cut off before it wrote the size of the file over these zeros."""
    return name == "file_size_bytes" and not value.strip("0")


def _number(text: str) -> int | float | str:
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _DECIMAL.fullmatch(text) else text
