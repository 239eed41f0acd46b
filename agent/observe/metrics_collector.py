"""Measures the running agent, for whoever shows it. Costs no scan: what is asked is in memory."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import __version__
from agent.cloud.credentials import Credentials
from agent.discovery.discover import Discover
from agent.dispatch.dispatch import Dispatch
from agent.gate.gate import Gate
from agent.model.errors import TABLE
from agent.model.metrics import HOLDS, MetricValues, Tally
from agent.model.ports import Clock, History
from agent.model.sync_log import SyncLog
from agent.model.values import utc_seconds, utc_text


class MetricsCollector:
    """Takes measures; any thread may ask."""

    def __init__(
        self,
        *,
        history: History,
        dispatch: Dispatch,
        gate: Gate,
        credentials: Credentials,
        discover: Discover,
        watcher_up: Callable[[], bool],
        clock: Clock,
        built: float,
        folders: Sequence[Path],
    ) -> None:
        """Times before ``built`` (seconds since 1970) are unknown; ``folders`` lie on the disks that may fill up."""
        self._history = history
        self._dispatch = dispatch
        self._gate = gate
        self._credentials = credentials
        self._discover = discover
        self._watcher_up = watcher_up
        self._clock = clock
        self._built = built
        self._folders = tuple(folders)
        self._lock = threading.Lock()
        self._sent = 0
        self._first = (
            0,
            0.0,
        )  # the first document in the queue, and the monotonic time at which it was seen there
        newest = next(iter(history.newest_first("completed")), None)
        self._before = self._known(
            newest.completed_at if newest else None
        )  # the last success before this start

    def take(self) -> MetricValues:
        """What holds now."""
        waiting = self._history.open()
        tally = self._dispatch.tally()
        with self._lock:
            self._sent = max(
                self._sent, tally.bytes_sent
            )  # a part that is sent again is taken back first
            uploaded = self._sent
            oldest = self._oldest([log for log in waiting if not log.resync])
        return MetricValues(
            version=__version__,
            recordings=self._history.counts(),
            oldest_unsynced_seconds=oldest,
            backlog_bytes=sum(log.file_size for log in waiting),
            uploaded_bytes=uploaded,
            uploads=tally.uploads,
            errors={**tally.errors, "lease_lost": self._credentials.refused},
            gate_closed=self._reasons(),
            last_success=self._last_success(tally),
            disk_free_bytes=min(
                (free for free in map(_free, self._folders) if free is not None), default=None
            ),
            lease_remaining_seconds=self._credentials.shortest_lease(),
            orphaned_uploads=len(self._history.debts()),
            watcher_up=self._watcher_up(),
            scan_seconds=self._discover.scan_seconds,
        )

    def _oldest(self, waiting: Sequence[SyncLog]) -> float:
        """Seconds that the oldest of them has waited, as far as that is known: no jump of the clock adds to it."""
        if not waiting:
            return 0.0
        now = self._clock.monotonic()
        if self._first[0] != waiting[0].id:
            self._first = waiting[0].id, now
        seen = now - self._first[1]
        known = utc_text(self._built)
        queued = min((log.queued_at for log in waiting if log.queued_at >= known), default=None)
        if queued is None or self._clock.now() < self._built:
            return seen
        return max(seen, self._clock.now() - utc_seconds(queued))

    def _last_success(self, tally: Tally) -> float:
        now = self._clock.now()
        if tally.last_success is None or now < self._built:
            return self._before
        # Whole seconds: the two clocks are not read at the same instant.
        return round(now - (self._clock.monotonic() - tally.last_success))

    def _known(self, at: str | None) -> float:
        seconds = utc_seconds(at) if at else 0.0
        return seconds if seconds >= self._built else 0.0

    def _reasons(self) -> dict[str, bool]:
        reasons = dict.fromkeys(HOLDS, False)
        if closed := self._gate.closed():
            reasons[closed.code if closed.code in reasons or closed.code in TABLE else "other"] = (
                True
            )
        return reasons


def _free(folder: Path) -> int | None:
    """Bytes that are left to the agent where ``folder`` lies; None where it is not there."""
    try:
        state = os.statvfs(folder)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize
