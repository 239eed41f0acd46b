"""Collects the values of the metrics from the running agent.

Nothing is read from the disk but the free space: all other values are in memory.
"""

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
from agent.model.error_table import TABLE
from agent.model.metrics import HOLDS, MetricValues, Tally
from agent.model.ports import Clock, History
from agent.model.sync_log import SyncLog
from agent.model.values import utc_seconds, utc_text


class MetricsCollector:
    """Collects the values of the metrics.

    It also remembers what the other parts do not: the last success of an earlier start, and since
    when the oldest document has been seen in the queue.

    ``take`` may be called from any thread.
    """

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
        """Read the last success of an earlier start from the history.

        Args:
            history: The documents.
            dispatch: Counts the uploads of this start.
            gate: Knows why nothing is sent.
            credentials: Knows the leases.
            discover: Knows how long a scan takes.
            watcher_up: Returns whether all watchers of folders work.
            clock: The robot's clocks.
            built: The build date in seconds since 1970. Times before it come from a wrong clock.
            folders: Folders on the disks that may become full.
        """
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
        self._max_bytes_sent = 0
        # The id of the first document in the queue, and the monotonic time since which it is there.
        self._first_id = 0
        self._first_since = 0.0
        newest = next(iter(history.newest_first("completed")), None)
        # The last success of an earlier start in seconds since 1970, or 0.
        self._earlier_success = self._plausible(newest.completed_at if newest else None)

    def take(self) -> MetricValues:
        """Return the values of this moment."""
        waiting = self._history.open()
        tally = self._dispatch.tally()
        with self._lock:
            # A part that is sent again is first subtracted. A counter of a metric must not fall.
            self._max_bytes_sent = max(self._max_bytes_sent, tally.bytes_sent)
            uploaded = self._max_bytes_sent
            oldest = self._oldest([log for log in waiting if not log.resync])
        free = [known for folder in self._folders if (known := _free_bytes(folder)) is not None]
        return MetricValues(
            version=__version__,
            recordings=self._history.counts(),
            oldest_unsynced_seconds=oldest,
            backlog_bytes=sum(log.file_size for log in waiting),
            uploaded_bytes=uploaded,
            uploads=tally.uploads,
            errors={**tally.errors, "lease_lost": self._credentials.refused},
            gate_closed=self._gate_reasons(),
            last_success=self._last_success(tally),
            disk_free_bytes=min(free, default=None),
            lease_remaining_seconds=self._credentials.shortest_lease(),
            orphaned_uploads=len(self._history.orphans()),
            watcher_up=self._watcher_up(),
            scan_seconds=self._discover.scan_seconds,
        )

    def _oldest(self, waiting: Sequence[SyncLog]) -> float:
        """Return how many seconds the oldest document has waited, as far as that is known.

        A jump of the wall clock must not add to it. So where the wall clock was wrong, only the
        time counts for which the document was seen at the head of the queue.
        """
        if not waiting:
            return 0.0
        now = self._clock.monotonic()
        if self._first_id != waiting[0].id:
            self._first_id = waiting[0].id
            self._first_since = now
        seen_seconds = now - self._first_since
        earliest = utc_text(self._built)
        queued = min((log.queued_at for log in waiting if log.queued_at >= earliest), default=None)
        if queued is None or self._clock.now() < self._built:
            return seen_seconds
        return max(seen_seconds, self._clock.now() - utc_seconds(queued))

    def _last_success(self, tally: Tally) -> float:
        """Return when an upload last succeeded, in seconds since 1970, or 0."""
        now = self._clock.now()
        if tally.last_success is None or now < self._built:
            return self._earlier_success
        # The result has whole seconds, because the two clocks are not read at the same instant.
        return round(now - (self._clock.monotonic() - tally.last_success))

    def _plausible(self, at: str | None) -> float:
        """Return ``at`` in seconds since 1970, or 0 if it is missing or before the build date."""
        seconds = utc_seconds(at) if at else 0.0
        return seconds if seconds >= self._built else 0.0

    def _gate_reasons(self) -> dict[str, bool]:
        """Return for each code of the gate whether it closes the gate now."""
        reasons = dict.fromkeys(HOLDS, False)
        if closed := self._gate.closed():
            reasons[_reason_label(closed.code)] = True
        return reasons


def _reason_label(code: str) -> str:
    """Return the label for a ``code`` of the gate. Unknown codes of a store share one label."""
    return code if code in HOLDS or code in TABLE else "other"


def _free_bytes(folder: Path) -> int | None:
    """Return the bytes that the agent may still write where ``folder`` is.

    Return None if the folder is not there.
    """
    try:
        state = os.statvfs(folder)
    except OSError:
        return None
    return state.f_bavail * state.f_frsize
