"""Writes file names as text that tags and object keys can hold.

On Linux a name may be any bytes but a slash. Tags and keys are UTF-8 without control characters.
"""

from __future__ import annotations

import re

# Control characters, and halves of a surrogate pair. By the latter Python stands for bytes of a
# name that are no UTF-8.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

# The range by which Python stands for single bytes, and the character before byte 0.
_FIRST_BYTE = "\udc80"
_LAST_BYTE = "\udcff"
_BYTE_BASE = 0xDC00


def percent_encoded(name: str) -> str:
    """Return ``name`` with each byte that tags can't hold written as ``%`` and two digits."""
    return _UNFIT.sub(lambda unfit: _encoded(unfit[0]), name)


def _encoded(character: str) -> str:
    if _FIRST_BYTE <= character <= _LAST_BYTE:
        raw = bytes([ord(character) - _BYTE_BASE])
    else:
        raw = character.encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in raw)
