"""What is remembered of the markers that wait to be handled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.discovery.scan_schedule import FullScanTicket
from agent.model.sync_log import Marker


@dataclass(frozen=True, slots=True)
class RescanWanted:
    """The marker ``rescan``, and the first full scan that begins after it was seen."""

    marker: Marker
    full_scan: FullScanTicket


@dataclass(slots=True)
class WaitingMarker:
    """A marker that waits to be handled. There may be 10,000 of them."""

    # The monotonic time when the marker was first seen.
    since: float
    # The first full scan that begins after the marker was seen.
    full_scan: FullScanTicket
    # The monotonic time at which a scan had seen all files that were there before the marker.
    files_seen_at: float = math.inf
    # The state that the marked recording had when the marker was last tried; None for none.
    recording_state: object = None
    # Whether an error over this marker was logged.
    is_logged: bool = False


@dataclass(frozen=True, slots=True)
class DiskVersion:
    """Changes whenever discovery has learned something: its counts of changes and of scans."""

    changes: int
    scans: int


@dataclass(frozen=True, slots=True)
class FirstWaiting:
    """The first waiting markers by path, after so many changes of all waiting ones."""

    changes: int
    paths: Sequence[Path]
