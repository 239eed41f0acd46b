"""Sizes, rates and spans of time as people read them."""

from __future__ import annotations


def size_text(count: float) -> str:
    """Bytes in decimal units, as links and disks are sold: ``512 B``, ``3.4 GB``."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        if count < 999.95 or unit == "TB":
            break
    return f"{count:.1f} {unit}"


def rate_text(bytes_per_second: float) -> str:
    """``12.3 MB/s``."""
    return f"{size_text(bytes_per_second)}/s"


def span_text(seconds: float) -> str:
    """The two largest units: ``45 s``, ``3 min 5 s``, ``2 h 10 min``, ``4 d 3 h``."""
    left = max(0, round(seconds))
    parts: list[tuple[int, str]] = []
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, length)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count) or "0 s"
