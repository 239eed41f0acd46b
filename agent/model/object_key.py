"""Makes the key of a recording in a bucket from the template ``bucket.key``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from agent.model.sync_log import SyncLog

PLACEHOLDERS = (
    "device_id", "date", "relpath", "name", "stem", "episode_id", "asset_id", "fingerprint",
)  # fmt: skip

# The suffix of the manifest. It follows the key of the object that the manifest announces.
MANIFEST = ".manifest.json"

# Characters that a value must not have. A slash would begin another segment. Control characters and
# halves of a surrogate pair cannot be written in XML.
_UNFIT = re.compile(r"[/\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# The suffix of a key. The name of a compressed recording, NAME.mcap.zstd, keeps both suffixes.
_SUFFIX = re.compile(r"(\.mcap\.[^./]+|\.[^./]*)?\Z")


def placeholders(template: str) -> set[str]:
    """Return the names in braces.

    Raises ValueError if the template is malformed or gives a format for a value.
    """
    found = set()
    for _, name, format_spec, conversion in Formatter().parse(template):
        if format_spec or conversion:
            raise ValueError(template)
        if name is not None:
            found.add(name)
    return found


def object_key(template: str, log: SyncLog, roots: Sequence[Path]) -> str:
    """Return the key of the recording that ``log`` describes. ``roots`` are the watched folders.

    Empty segments are left out. The dots of a segment "." or ".." become underscores. Several
    stores refuse both kinds of segments.
    """
    path = Path(log.path)
    root = max(
        (root for root in roots if path.is_relative_to(root)),
        key=lambda root: len(root.parts),
        default=path.parent,
    )
    below = path.relative_to(root)
    if len(set(roots)) > 1:
        below = Path(root.name) / below
    values = {
        "device_id": log.device_id,
        "date": log.mtime[:10],
        "name": path.name,
        # The stem of NAME.mcap.zstd is NAME, too.
        "stem": path.stem.removesuffix(".mcap"),
        "episode_id": log.episode_id,
        "asset_id": log.asset_id,
        "fingerprint": log.fingerprint,
    }
    segments = {name: _UNFIT.sub("_", value) for name, value in values.items()}
    relpath = "/".join(_UNFIT.sub("_", part) for part in below.parts)
    key = template.format_map({**segments, "relpath": relpath})
    return "/".join(_without_dots(segment) for segment in key.split("/") if segment)


def spare_key(key: str, fingerprint8: str) -> str:
    """Return the key to use if ``key`` holds other bytes.

    It has the first 8 digits of a fingerprint before its suffix.
    """
    return _SUFFIX.sub(lambda suffix: f"-{fingerprint8}{suffix[0]}", key, count=1)


def is_spare(key: str, fingerprint8: str) -> bool:
    """Return whether ``key`` is a spare key of the bytes with this fingerprint."""
    return _SUFFIX.sub("", key, count=1).endswith(f"-{fingerprint8}")


def _without_dots(segment: str) -> str:
    return "_" * len(segment) if segment in {".", ".."} else segment
