"""The platform's rules for the raw tags of a completed upload."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from agent.devcloud.platform_errors import refusal

DEVICE_TAG = "778a6d83c9ec49108537542a570966ee.device_id"
RAW_FILE_TAG = "a206e337ecdf70a93bb611cf6a30c346.raw_file"

_MAX_TAGS = 256

# Keys and values are measured in bytes of UTF-8.
_MAX_KEY_BYTES = 64
_MAX_VALUE_BYTES = 2048


def check_tags(tags: Mapping[str, str], device_id: str) -> None:
    """Raise PlatformError when the raw tags of a session of ``device_id`` break a rule."""
    if len(tags) > _MAX_TAGS:
        raise refusal("INVALID_ARGUMENT", f"{len(tags)} raw tags, at most {_MAX_TAGS}")
    for key, value in tags.items():
        if not 1 <= len(key.encode()) <= _MAX_KEY_BYTES:
            raise refusal(
                "INVALID_ARGUMENT", f"raw tag key {key!r} has not 1 to {_MAX_KEY_BYTES} bytes"
            )
        if len(value.encode()) > _MAX_VALUE_BYTES:
            raise refusal(
                "INVALID_ARGUMENT", f"the value of raw tag {key!r} is over {_MAX_VALUE_BYTES} bytes"
            )
        if any(unicodedata.category(letter) == "Cc" for letter in key + value):
            raise refusal("INVALID_ARGUMENT", f"raw tag {key!r} has control characters")
    if tags.get(DEVICE_TAG) != device_id:
        raise refusal("INVALID_ARGUMENT", f"raw tag {DEVICE_TAG} must be {device_id!r}")
    raw_file = tags.get(RAW_FILE_TAG, "")
    if not raw_file or "/" in raw_file:
        raise refusal(
            "INVALID_ARGUMENT", f"raw tag {RAW_FILE_TAG} must be the recording's base name"
        )
