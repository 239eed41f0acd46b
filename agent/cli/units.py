"""Formats sizes, rates and durations for people."""

from __future__ import annotations

_SECONDS_PER_UNIT = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def size_text(count: float) -> str:
    """Return a number of bytes in decimal units, as in ``512 B`` or ``3.4 GB``.

    Links and disks are sold in decimal units, too.
    """
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB", "TB"):
        count /= 1000
        # From 999.95 on, one decimal place would show as 1000.0.
        if count < 999.95 or unit == "TB":
            break
    return f"{count:.1f} {unit}"


def rate_text(bytes_per_second: float) -> str:
    """Return a rate in decimal units, as in ``12.3 MB/s``."""
    return f"{size_text(bytes_per_second)}/s"


def span_text(seconds: float) -> str:
    """Return a duration in its two largest units, as in ``45 s``, ``3 min 5 s`` or ``4 d 3 h``."""
    left = max(0, round(seconds))
    parts: list[tuple[int, str]] = []
    for length, unit in _SECONDS_PER_UNIT:
        count, left = divmod(left, length)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count) or "0 s"
