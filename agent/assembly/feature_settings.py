"""What the operator's settings allow, as the flow asks for it: which recordings, at what hours, how fast."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from agent.adapters.config import Settings
from agent.adapters.config.kinds import newer_than
from agent.gate.gate import Delays, Gate
from agent.gate.upload_policy import UploadPolicy
from agent.model.hours import Hours
from agent.model.ports import Clock

_MBIT = 125_000  # bytes


def oldest_wanted(settings: Settings, clock: Clock) -> Callable[[], float] | None:
    """watch.newer_than as the finder asks it: the oldest wanted mtime at this moment, or None."""
    limit = newer_than(settings.watch.newer_than)
    if limit is None:
        return None
    if isinstance(limit, datetime):
        return limit.timestamp
    return lambda: clock.now() - limit.total_seconds()


def limits(settings: Settings, gate: Gate, clock: Clock, built: float) -> UploadPolicy:
    """What the operator allows, as holds of ``gate``; a clock that says less than ``built`` is wrong."""
    upload = settings.upload
    return UploadPolicy(
        gate,
        clock,
        hours=Hours.parse(upload.windows),
        built=built,
        interfaces=upload.interfaces,
        pause_metered=upload.metered == "pause",
    )


def delays(settings: Settings) -> Delays:
    """How long to wait before trying again."""
    retry = settings.retry
    return Delays(retry.base_seconds, retry.max_seconds, retry.jitter_seconds)


def bytes_per_second(settings: Settings) -> float:
    """The cap that all uploads share, 0 for none."""
    return settings.upload.bandwidth_mbit * _MBIT
