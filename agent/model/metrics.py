"""What the agent counts and measures of itself, as plain values: who measures does not know who shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from agent.model.states import Event
from agent.model.sync_log import Fault, Kind, Status

Ended = Literal["completed", "retried", "waiting", "put_back", "failed"]
HOLDS = (
    "disk_full",
    "link",
    "not_enrolled",
    "pause",
    "power_on",
    "windows",
)  # codes of the gate that no error has

_ENDED: Mapping[Event, Ended] = {
    "done": "completed",
    "counted": "retried",
    "session_lost": "retried",
    "blocked_alone": "waiting",
    "gate_closed": "put_back",
    "changed": "put_back",
    "gave_up": "failed",
}


@dataclass(slots=True)
class Tally:
    """What was counted since this start. Its owner sees to it that one thread counts at a time."""

    uploads: Counter[Ended] = field(
        default_factory=lambda: Counter(dict.fromkeys(get_args(Ended), 0))
    )
    errors: Counter[Kind] = field(default_factory=lambda: Counter(dict.fromkeys(get_args(Kind), 0)))
    bytes_sent: int = 0  # by attempts that have ended
    last_success: float | None = None  # monotonic

    def count(self, event: Event, fault: Fault | None, at: float) -> None:
        """An attempt ended with ``event`` at the monotonic time ``at``."""
        self.uploads[_ENDED[event]] += 1
        if fault is not None:
            self.errors[fault.kind] += 1
        if event == "done":
            self.last_success = at

    def copy(self, in_flight: int) -> Tally:
        """The same, not counted any further; with ``in_flight`` bytes of attempts that go on."""
        return replace(
            self,
            uploads=self.uploads.copy(),
            errors=self.errors.copy(),
            bytes_sent=self.bytes_sent + in_flight,
        )


@dataclass(frozen=True, slots=True)
class MetricValues:
    """One look at the running agent. Every mapping holds all of its keys but ``gate_closed``, whose codes are many."""

    version: str
    recordings: Mapping[Status, int]
    oldest_unsynced_seconds: float  # 0: none waits
    backlog_bytes: int
    uploaded_bytes: int
    uploads: Mapping[Ended, int]
    errors: Mapping[Kind, int]
    gate_closed: Mapping[str, bool]
    last_success: float  # seconds since 1970; 0: none is known
    disk_free_bytes: int | None
    lease_remaining_seconds: float | None  # None: no lease is in use whose end is known
    orphaned_uploads: int
    watcher_up: bool
    scan_seconds: float
