"""What only the running agent knows, as `status` shows it: the gate, what is in flight, what lies on the disk."""

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
from agent.discovery.report import DiskReport, Held
from agent.dispatch.dispatch import Claim, Dispatch
from agent.gate.gate import Gate
from agent.model.ports import Clock, History
from agent.model.sync_log import Upgrade
from agent.model.values import utc_text
from agent.observe.history_summary import NAMED, standing

_NAMED = 20  # files of a kind that are named
_WALK_EVERY = (
    1000  # files known per second between two walks over them: 100,000 are walked over every 100 s
)
_COUNT_EVERY = 10_000  # open documents per second between two counts of them
_WINDOW = 10.0  # seconds over which a rate is taken
_MARK_EVERY = 0.5


class Rates:
    """Bytes a second of each upload over the last seconds: the mean since its claim says nothing of a link by now."""

    def __init__(self, clock: Clock) -> None:
        """Nothing goes yet."""
        self._clock = clock
        self._marks: dict[
            tuple[int, float], deque[tuple[float, int]]
        ] = {}  # of a claim: when, and bytes sent by then

    def of(self, claims: Sequence[Claim]) -> Sequence[float]:
        """One rate for each of the ``claims``, which are all there are."""
        known = self._marks
        self._marks = {
            _key(claim): known.get(_key(claim)) or deque([(claim.began, 0)]) for claim in claims
        }
        return [self._rate(self._marks[_key(claim)], claim.transfer.sent) for claim in claims]

    def _rate(self, marks: deque[tuple[float, int]], sent: int) -> float:
        now = self._clock.monotonic()
        if now >= marks[-1][0] + _MARK_EVERY:
            marks.append((now, sent))
        while len(marks) > 1 and marks[1][0] <= now - _WINDOW:
            marks.popleft()
        then, before = marks[0]
        return max(0, sent - before) / max(now - then, 0.001)


def _key(claim: Claim) -> tuple[int, float]:
    return claim.log.id, claim.began


class StatusSnapshot:
    """Takes pictures; remembers what lies on the disk until that was looked at again."""

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
        """Every argument is asked at each picture, but the first and ``upgrade``: the one that came with this start.

        ``not_deleted`` gives the uploaded files that retention has to leave: how many, some paths, why, and the remedy.
        """
        self._device_id = device_id
        self._history = history
        self._gate = gate
        self._dispatch = dispatch
        self._discover = discover
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
        self._files: dict[str, Any] = {}
        self._described_at = (
            -1,
            0,
        )  # changes on the disk, and by how many minutes the clock was ahead of its start
        self._walk_due = 0.0
        self._standing: dict[str, Any] = {}
        self._changes = -1  # of the history, when it was counted
        self._count_due = 0.0

    def take(self) -> dict[str, Any]:
        """JSON; times are UTC. May be called from any thread."""
        with self._lock:
            claims = self._dispatch.in_flight()
            return {
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
                "watch_failures": [
                    f"{root} ({why})" for root, why in self._watch_failures().items()
                ],
                "waiting_markers": [str(path) for path in self._waiting_markers(_NAMED)],
                "files": {
                    **self._files_now(),
                    "unasked": {"recordings": unasked} if (unasked := self._unasked()) else {},
                },
                "not_deleted": [dict(kept) for kept in self._not_deleted()],
                "standing": self._standing_now(),
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
            "since": self._utc(closed.since),
            "next_probe": None if closed.next_probe is None else self._utc(closed.next_probe),
        }

    def _upgraded(self) -> dict[str, Any] | None:
        upgrade = self._upgrade
        if upgrade is None:
            return None
        return {"from": upgrade.before, "to": upgrade.version, "recordings": len(upgrade.again)}

    def _upload(self, claim: Claim, rate: float) -> dict[str, Any]:
        there = claim.transfer.kept + claim.transfer.sent
        return {
            "id": claim.log.id,
            "episode_id": claim.log.episode_id,
            "path": claim.log.path,
            "file_size": claim.log.file_size,
            "bytes_sent": there,
            "bytes_per_second": round(rate),
            "seconds_left": round(max(0, claim.log.file_size - there) / rate)
            if rate >= 1
            else None,
            "probe": claim.probe,
        }

    def _last_error(self) -> dict[str, Any] | None:
        failure = self._dispatch.last_failure
        if failure is None:
            return None
        return {"at": self._utc(failure.at), "path": failure.path, **asdict(failure.fault)}

    def _standing_now(self) -> dict[str, Any]:
        now, changes = self._clock.monotonic(), self._history.changes()
        if changes != self._changes and now >= self._count_due:
            self._changes = changes
            self._standing = standing(self._history, NAMED)
            self._count_due = now + self._standing["queue_length"] / _COUNT_EVERY
        return self._standing

    def _files_now(self) -> dict[str, Any]:
        now = self._clock.monotonic()
        at = (
            self._discover.changes,
            round((self._clock.now() - now) / 60),
        )  # a clock that is set alters all times
        if at != self._described_at and now >= self._walk_due:
            report = self._discover.report(_NAMED)
            known = sum(
                report.counts[kind] for kind in ("complete", "damaged", "skipped", "recording")
            )
            self._described_at, self._walk_due = at, now + known / _WALK_EVERY
            self._files = self._described(report)
        return self._files

    def _described(self, report: DiskReport) -> dict[str, Any]:
        """What is no recording, the first of each kind by name, and how many there are."""
        return {
            "recording": self._named(report.recording),
            "unfinished": self._named(report.unfinished),
            "waiting": self._named(report.waiting),
            "skipped": [str(path) for path in report.skipped],
            "copies": [" = ".join(map(str, paths)) for paths in report.copies],
            "missing": [str(root) for root in report.missing_roots],
            "unreadable": [
                f"{folder} ({why})" for folder, why in report.unreadable_folders.items()
            ],
            "rejected": [str(path) for path in report.rejected[:_NAMED]],
            "files": dict(report.counts),
            "ignored": {**report.ignored, **({"links": report.links} if report.links else {})},
        }

    def _named(self, held: Sequence[Held]) -> list[str]:
        now = self._clock.monotonic()
        return [
            f"{file.path} ({file.why}, no change since {self._utc(now - file.quiet_seconds)})"
            for file in held
        ]

    def _utc(self, monotonic: float) -> str:
        # Whole seconds: the two clocks are not read at the same instant.
        return utc_text(round(self._clock.now() + monotonic - self._clock.monotonic()))


def line(snapshot: Mapping[str, Any]) -> str:
    """A picture in one line, for whoever has no room for more."""
    gate = snapshot["gate"]
    told = (
        f"{len(snapshot['uploads'])} uploading, {snapshot['standing']['queue_length']} in the queue"
    )
    return f"{told}; gate closed: {gate['reason']}" if gate else told
