"""Makes the key of a recording in a bucket from the template ``bucket.key``."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from string import Formatter

from agent.model.percent_encoding import percent_encoded
from agent.model.sync_log import SyncLog

PLACEHOLDERS = (
    "device_id", "date", "relpath", "name", "stem", "episode_id", "asset_id", "fingerprint",
)  # fmt: skip

# The suffix of the manifest. It follows the key of the object that the manifest announces.
MANIFEST = ".manifest.json"

# S3 allows 1024 bytes. The names of the manifest and of a spare key must fit, too.
KEY_MAX_BYTES = 1024 - len(MANIFEST) - len("-01234567")

# Stores that keep objects as files allow 255 bytes for each segment.
_SEGMENT_MAX_BYTES = 255
_LAST_SEGMENT_MAX_BYTES = _SEGMENT_MAX_BYTES - len(MANIFEST) - len("-01234567")

# How many digits of a SHA-256 stand for what was cut off.
_DIGEST_DIGITS = 16

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
    stores refuse both kinds of segments. What a file name has of control characters and of bytes
    that are no UTF-8 is percent-encoded.

    A segment or a key that would be too long is cut. A digest of what it was takes the place of
    the rest, so two of them stay different.
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
        "name": percent_encoded(path.name),
        # The stem of NAME.mcap.zstd is NAME, too.
        "stem": percent_encoded(path.stem.removesuffix(".mcap")),
        "episode_id": log.episode_id,
        "asset_id": log.asset_id,
        "fingerprint": log.fingerprint,
    }
    segments = {name: _UNFIT.sub("_", value) for name, value in values.items()}
    relpath = "/".join(percent_encoded(part) for part in below.parts)
    key = template.format_map({**segments, "relpath": relpath})
    return _bounded([_without_dots(segment) for segment in key.split("/") if segment])


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


def _bounded(segments: Sequence[str]) -> str:
    """Return the key of these segments, with those cut that are too long.

    Where the whole key is still too long, the folders are cut, because the name says most. All
    recordings of one folder then still lie in one folder.
    """
    *folders, last = segments or [""]
    suffix = _SUFFIX.search(last)
    last = _cut(last, _LAST_SEGMENT_MAX_BYTES, suffix[0] if suffix else "")
    above = "/".join(_cut(folder, _SEGMENT_MAX_BYTES) for folder in folders)
    above = _cut(above, KEY_MAX_BYTES - len(last.encode()) - 1)
    return f"{above}/{last}" if above else last


def _cut(text: str, most: int, suffix: str = "") -> str:
    """Return ``text`` if it has at most ``most`` bytes, else its beginning with a digest of it.

    A ``suffix`` of the text stays behind the digest, unless it is too long itself.
    """
    if len(text.encode()) <= most:
        return text
    end = "-" + hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_DIGITS]
    if len(suffix.encode()) <= most // 2:
        end += suffix
    # The cut may fall into the middle of a character, or behind a slash.
    kept = text.encode()[: most - len(end.encode())].decode("utf-8", "ignore")
    return kept.rstrip("/") + end
