"""Is this file a complete MCAP? Answered from its head and tail alone (https://mcap.dev/spec)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Tail:
    """What the end of a complete MCAP says about it. Times are nanoseconds of the recording's own clock."""

    start_time: int | None = None  # None without Statistics
    end_time: int | None = None
    message_count: int | None = None
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # only names that are asked for
