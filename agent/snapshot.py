"""What only the running agent knows, as `status` shows it: the gate, what is in flight, what lies on the disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agent import __version__
from agent.flow.credentials import Credentials
from agent.flow.discover import Discover, DiskReport, Held
from agent.flow.dispatch import Claim, Dispatch
from agent.flow.finder import Finder
from agent.flow.gate import Gate
from agent.model.nouns import utc_text
from agent.model.ports import Clock

_NAMED = 20  # files of a kind that are named
_WALK_EVERY = 1000  # files known per second between two walks over them: 100,000 are walked over every 100 s


class Snapshot:
    """Takes pictures; remembers what lies on the disk until that was looked at again."""

    def __init__(
        self,
        *,
        device_id: str,
        gate: Gate,
        dispatch: Dispatch,
        discover: Discover,
        finder: Finder,
        credentials: Credentials,
        watcher_up: Callable[[], bool],
        clock: Clock,
    ) -> None:
        """Every argument but the first is asked at each picture."""
        self._device_id = device_id
        self._gate = gate
        self._dispatch = dispatch
        self._discover = discover
        self._finder = finder
        self._credentials = credentials
        self._watcher_up = watcher_up
        self._clock = clock
        self._files: dict[str, Any] = {}
        self._looks = -1
        self._walk_due = 0.0

    def take(self) -> dict[str, Any]:
        """JSON; times are UTC."""
        return {
            "version": __version__,
            "device_id": self._device_id,
            "gate": self._gate_now(),
            "uploads": [self._upload(claim) for claim in self._dispatch.in_flight()],
            "lease_remaining_seconds": self._credentials.shortest_lease(),
            "watcher_up": self._watcher_up(),
            "files": self._files_now(),
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

    def _upload(self, claim: Claim) -> dict[str, Any]:
        seconds = max(self._clock.monotonic() - claim.began, 0.001)
        return {
            "id": claim.log.id,
            "episode_id": claim.log.episode_id,
            "path": claim.log.path,
            "file_size": claim.log.file_size,
            "bytes_sent": claim.transfer.kept + claim.transfer.sent,
            "bytes_per_second": round(claim.transfer.sent / seconds),
            "probe": claim.probe,
        }

    def _files_now(self) -> dict[str, Any]:
        now = self._clock.monotonic()
        looks = self._finder.looks
        if looks != self._looks and now >= self._walk_due:
            report = self._discover.report()
            known = report.complete + report.damaged + len(report.skipped) + len(report.recording)
            self._looks, self._walk_due = looks, now + known / _WALK_EVERY
            self._files = self._described(report)
        return self._files

    def _described(self, report: DiskReport) -> dict[str, Any]:
        """What is no recording, the first of each kind by name, and how many there are."""
        return {
            "recording": self._named(report.recording),
            "unfinished": self._named(report.unfinished),
            "waiting": self._named(report.waiting),
            "skipped": [str(path) for path in report.skipped[:_NAMED]],
            "copies": [" = ".join(map(str, paths)) for paths in report.copies[:_NAMED]],
            "missing": [str(root) for root in report.missing_roots],
            "unreadable": [f"{folder} ({why})" for folder, why in report.unreadable_folders.items()],
            "files": {
                "recording": len(report.recording),
                "unfinished": len(report.unfinished),
                "waiting": len(report.waiting),
                "skipped": len(report.skipped),
                "complete": report.complete,
                "damaged": report.damaged,
            },
            "ignored": {**report.ignored, **({"links": report.links} if report.links else {})},
        }

    def _named(self, held: Sequence[Held]) -> list[str]:
        now = self._clock.monotonic()
        return [
            f"{file.path} ({file.why}, no change since {self._utc(now - file.quiet_seconds)})" for file in held[:_NAMED]
        ]

    def _utc(self, monotonic: float) -> str:
        # Whole seconds: the two clocks are not read at the same instant.
        return utc_text(round(self._clock.now() + monotonic - self._clock.monotonic()))
