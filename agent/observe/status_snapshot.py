"""The part of the status that only the running agent knows: gate, uploads, files on the disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent import __version__
from agent.cloud.credentials import Credentials
from agent.discovery.discover import Discover
from agent.dispatch.claim import Claim
from agent.dispatch.dispatch import Dispatch
from agent.gate.gate import Gate
from agent.model.ports import Clock, History
from agent.model.sync_log import Upgrade
from agent.observe.files_status import FilesStatus, failures_as_json, failures_in_words, utc_at
from agent.observe.history_summary import STATUS_SCHEMA, KeptSummary

# The largest number of markers that the status names.
_MAX_NAMED_MARKERS = 20

# The time over which the rate of an upload is measured.
_RATE_WINDOW_SECONDS = 10.0

# The shortest time between two points of this measurement.
_RATE_POINT_SECONDS = 0.5


class Rates:
    """Measures the bytes per second of each upload over the last seconds.

    The mean since the claim would not show that the link is faster or slower now.

    It must be used by one thread at a time.
    """

    def __init__(self, clock: Clock) -> None:
        """Begin without uploads."""
        self._clock = clock
        # For each claim the points of its measurement: a monotonic time and the bytes sent by then.
        self._points: dict[tuple[int, float], deque[tuple[float, int]]] = {}

    def of(self, claims: Sequence[Claim]) -> Sequence[float]:
        """Return one rate for each of the ``claims``, which must be all claims of this moment."""
        known = self._points
        self._points = {
            _key(claim): known.get(_key(claim)) or deque([(claim.began, 0)]) for claim in claims
        }
        return [self._rate(self._points[_key(claim)], claim.transfer.sent) for claim in claims]

    def _rate(self, points: deque[tuple[float, int]], sent: int) -> float:
        now = self._clock.monotonic()
        if now >= points[-1][0] + _RATE_POINT_SECONDS:
            points.append((now, sent))
        while len(points) > 1 and points[1][0] <= now - _RATE_WINDOW_SECONDS:
            points.popleft()
        then, before = points[0]
        return max(0, sent - before) / max(now - then, 0.001)


def _key(claim: Claim) -> tuple[int, float]:
    return claim.log.id, claim.began


class StatusSnapshot:
    """Makes the status document of the running agent.

    ``take`` may be called from any thread.
    """

    def __init__(
        self,
        *,
        device_id: str,
        history: History,
        gate: Gate,
        dispatch: Dispatch,
        discover: Discover,
        credentials: Credentials,
        watcher_up: Callable[[], bool],
        watch_failures: Callable[[], Mapping[Path, str]],
        unasked: Callable[[], int],
        waiting_markers: Callable[[int], Sequence[Path]],
        clock: Clock,
        settings: Callable[[], Mapping[str, Any]],
        fault: Callable[[], Mapping[str, str] | None],
        upgrade: Upgrade | None = None,
        not_deleted: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        """Keep the parts that are asked for each document.

        Args:
            device_id: The robot's own id.
            history: The documents of the recordings.
            gate: Knows why nothing is sent.
            dispatch: Knows what is in flight.
            discover: Knows the files.
            credentials: Knows the leases.
            watcher_up: Returns whether all watchers of folders work.
            watch_failures: Returns the folders that cannot be watched, and why.
            unasked: Returns how many recordings wait for an operator's request.
            waiting_markers: Returns at most so many marker files that wait.
            clock: The robot's clocks.
            settings: Returns the state of the configuration as JSON.
            fault: Returns what is wrong with the device profiles or the keys, or None.
            upgrade: The change of the agent's version that came with this start, or None.
            not_deleted: Returns the uploaded files that retention must leave as JSON: how many,
                some paths, why, and the remedy.
        """
        self._device_id = device_id
        self._summary = KeptSummary(history, clock)
        self._gate = gate
        self._dispatch = dispatch
        self._files = FilesStatus(discover, clock)
        self._credentials = credentials
        self._watcher_up = watcher_up
        self._watch_failures = watch_failures
        self._unasked = unasked
        self._waiting_markers = waiting_markers
        self._clock = clock
        self._settings = settings
        self._fault = fault
        self._upgrade = upgrade
        self._not_deleted = not_deleted
        self._rates = Rates(clock)
        self._lock = threading.Lock()

    def take(self) -> dict[str, Any]:
        """Return the status as JSON. Times are UTC."""
        with self._lock:
            claims = self._dispatch.in_flight()
            unasked = self._unasked()
            failures = self._watch_failures()
            report = self._files.take()
            return {
                "schema": STATUS_SCHEMA,
                "version": __version__,
                "device_id": self._device_id,
                "upgrade": self._upgraded(),
                "settings": self._settings(),
                "profiles": self._fault(),
                "gate": self._gate_now(),
                "uploads": [
                    self._upload(claim, rate)
                    for claim, rate in zip(claims, self._rates.of(claims), strict=True)
                ],
                "lease_remaining_seconds": self._credentials.shortest_lease(),
                "last_error": self._last_error(),
                "watcher_up": self._watcher_up(),
                "watch_failures": failures_in_words(failures),
                "unwatched_folders": failures_as_json(failures),
                "waiting_markers": [
                    str(path) for path in self._waiting_markers(_MAX_NAMED_MARKERS)
                ],
                "files": {
                    **report["files"],
                    "unasked": {"recordings": unasked} if unasked else {},
                },
                "held_files": report["held_files"],
                "copies": report["copies"],
                "unreadable_folders": report["unreadable_folders"],
                "not_deleted": [dict(kept) for kept in self._not_deleted()],
                "standing": self._summary.take(),
            }

    def _gate_now(self) -> dict[str, Any] | None:
        closed = self._gate.closed()
        if closed is None:
            return None
        return {
            "cause": closed.cause,
            "reason": closed.reason,
            "code": closed.code,
            "hint": closed.hint,
            "since": utc_at(self._clock, closed.since),
            "next_probe": None
            if closed.next_probe is None
            else utc_at(self._clock, closed.next_probe),
        }

    def _upgraded(self) -> dict[str, Any] | None:
        upgrade = self._upgrade
        if upgrade is None:
            return None
        return {"from": upgrade.before, "to": upgrade.version, "recordings": len(upgrade.again)}

    def _upload(self, claim: Claim, rate: float) -> dict[str, Any]:
        bytes_stored = claim.transfer.kept + claim.transfer.sent
        bytes_left = max(0, claim.log.file_size - bytes_stored)
        return {
            "id": claim.log.id,
            "episode_id": claim.log.episode_id,
            "path": claim.log.path,
            "file_size": claim.log.file_size,
            "bytes_sent": bytes_stored,
            "bytes_per_second": round(rate),
            "seconds_left": round(bytes_left / rate) if rate >= 1 else None,
            "probe": claim.probe,
        }

    def _last_error(self) -> dict[str, Any] | None:
        failure = self._dispatch.last_failure
        if failure is None:
            return None
        return {
            "at": utc_at(self._clock, failure.at),
            "path": failure.path,
            **asdict(failure.fault),
        }


def status_line(snapshot: Mapping[str, Any]) -> str:
    """Return the status in one line, for the service manager."""
    gate = snapshot["gate"]
    uploading = len(snapshot["uploads"])
    text = f"{uploading} uploading, {snapshot['standing']['queue_length']} in the queue"
    return f"{text}; gate closed: {gate['reason']}" if gate else text
