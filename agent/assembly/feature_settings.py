"""Turns settings into the values that the features take."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from agent.adapters.config import Settings, WatchSettings
from agent.adapters.config.kinds import newer_than
from agent.discovery.examine import Examiner
from agent.discovery.state_rules import WaitingRules
from agent.gate.gate import Delays, Gate
from agent.gate.upload_policy import UploadPolicy
from agent.model.hours import Hours
from agent.model.ports import Clock

_BYTES_PER_MBIT = 125_000
_SECONDS_PER_MINUTE = 60


def oldest_wanted(settings: Settings, clock: Clock) -> Callable[[], float] | None:
    """Return a function that returns the oldest modification time that ``watch.newer_than`` allows.

    The time is in seconds since 1970. With an age in the setting it moves on with the clock.
    Return None if recordings of any age are wanted.
    """
    limit = newer_than(settings.watch.newer_than)
    if limit is None:
        return None
    if isinstance(limit, datetime):
        return limit.timestamp
    max_age_seconds = limit.total_seconds()
    return lambda: clock.now() - max_age_seconds


def examiner_of(watch: WatchSettings) -> Examiner:
    """Return the examiner of files for the settings' section ``watch``."""
    return Examiner(
        watch.roots,
        watch.sidecar,
        follow_symlinks=watch.follow_symlinks,
        send_unfinished=watch.unfinished == "upload",
    )


def waiting_rules(watch: WatchSettings) -> WaitingRules:
    """Return how long is waited for what by the settings' section ``watch``."""
    return WaitingRules(
        settle_seconds=watch.settle_seconds,
        rescan_seconds=watch.rescan_seconds,
        sidecar_wait_seconds=watch.sidecar_wait_seconds,
        unfinished_seconds=watch.unfinished_minutes * _SECONDS_PER_MINUTE,
    )


def upload_policy(settings: Settings, gate: Gate, clock: Clock, built: float) -> UploadPolicy:
    """Return the rules of ``upload.*`` about hours and links.

    The constructor of the policy already holds ``gate`` if a link is required. ``built`` is in
    seconds since 1970. A clock that is earlier is wrong.
    """
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
    """Return the waiting times of ``retry.*``."""
    retry = settings.retry
    return Delays(retry.base_seconds, retry.max_seconds, retry.jitter_seconds)


def bytes_per_second(settings: Settings) -> float:
    """Return the bandwidth that all uploads share, in bytes a second, or 0 for no limit."""
    return settings.upload.bandwidth_mbit * _BYTES_PER_MBIT
