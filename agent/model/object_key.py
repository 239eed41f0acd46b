"""What a recording is called in a bucket of one's own: the key that bucket.key's template makes of its document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from agent.model.sync_log import SyncLog

PLACEHOLDERS = (
    "device_id", "date", "relpath", "name", "stem", "episode_id", "asset_id", "fingerprint",
)  # fmt: skip
MANIFEST = ".manifest.json"  # after the key of the object that it announces

# A value is one segment; control characters and halves of a surrogate pair are in no XML.
_UNFIT = re.compile(r"[/\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SUFFIX = re.compile(r"(\.mcap\.[^./]+|\.[^./]*)?\Z")  # NAME.mcap.zstd keeps both


def placeholders(template: str) -> set[str]:
    """The names in braces; raises ValueError where the template is malformed or says how to format a value."""
    found = set()
    for _, name, format_spec, conversion in Formatter().parse(template):
        if format_spec or conversion:
            raise ValueError(template)
        if name is not None:
            found.add(name)
    return found


def object_key(template: str, log: SyncLog, roots: Sequence[Path]) -> str:
    """The key of what ``log`` describes; ``roots`` are the watched folders.

    Empty segments vanish, and those of dots alone become underscores: several stores refuse both.
    """
    path = Path(log.path)
    root = max(
        (root for root in roots if path.is_relative_to(root)),
        key=lambda it: len(it.parts),
        default=path.parent,
    )
    below = path.relative_to(root)
    if len(set(roots)) > 1:
        below = Path(root.name) / below
    values = {
        "device_id": log.device_id,
        "date": log.mtime[:10],
        "name": path.name,
        "stem": path.stem.removesuffix(".mcap"),  # of NAME.mcap.zstd, too
        "episode_id": log.episode_id,
        "asset_id": log.asset_id,
        "fingerprint": log.fingerprint,
    }
    segments = {name: _UNFIT.sub("_", value) for name, value in values.items()}
    relpath = "/".join(_UNFIT.sub("_", part) for part in below.parts)
    key = template.format_map({**segments, "relpath": relpath})
    return "/".join(_undotted(segment) for segment in key.split("/") if segment)


def spare_key(key: str, fingerprint8: str) -> str:
    """``key`` with the first 8 digits of a fingerprint before its suffix, for when it holds other bytes."""
    return _SUFFIX.sub(lambda suffix: f"-{fingerprint8}{suffix[0]}", key, count=1)


def is_spare(key: str, fingerprint8: str) -> bool:
    """Whether ``key`` says already whose bytes it holds."""
    return _SUFFIX.sub("", key, count=1).endswith(f"-{fingerprint8}")


def _undotted(segment: str) -> str:
    return "_" * len(segment) if segment in {".", ".."} else segment
