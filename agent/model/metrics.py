"""The values of the metrics. The part that collects them does not know which part shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from agent.model.error_table import Kind
from agent.model.states import Event
from agent.model.sync_log import Fault, Status

Ended = Literal["completed", "retried", "waiting", "put_back", "failed"]

# The codes with which the gate is held. No error has one of these codes.
HOLDS = (
    "disk_full",
    "link",
    "not_enrolled",
    "pause",
    "power_on",
    "windows",
)

_ENDED: Mapping[Event, Ended] = {
    "done": "completed",
    "counted": "retried",
    "session_lost": "retried",
    "blocked_alone": "waiting",
    "gate_closed": "put_back",
    "changed": "put_back",
    "gave_up": "failed",
}


def _zero_uploads() -> Counter[Ended]:
    return Counter(dict.fromkeys(get_args(Ended), 0))


def _zero_errors() -> Counter[Kind]:
    return Counter(dict.fromkeys(get_args(Kind), 0))


@dataclass(slots=True)
class Tally:
    """What was counted since this start of the agent.

    ``bytes_sent`` are those of attempts that have ended. ``last_success`` is a monotonic time.

    It has no lock. Its owner makes sure that one thread at a time uses it.
    """

    uploads: Counter[Ended] = field(default_factory=_zero_uploads)
    errors: Counter[Kind] = field(default_factory=_zero_errors)
    bytes_sent: int = 0
    last_success: float | None = None

    def count(self, event: Event, fault: Fault | None, at: float) -> None:
        """Count an attempt that ended with ``event`` at the monotonic time ``at``."""
        self.uploads[_ENDED[event]] += 1
        if fault is not None:
            self.errors[fault.kind] += 1
        if event == "done":
            self.last_success = at

    def copy(self, in_flight: int) -> Tally:
        """Return a copy to which ``in_flight`` bytes of running attempts are added."""
        return replace(
            self,
            uploads=self.uploads.copy(),
            errors=self.errors.copy(),
            bytes_sent=self.bytes_sent + in_flight,
        )


@dataclass(frozen=True, slots=True)
class MetricValues:
    """The values of all metrics at one moment.

    Every mapping has all of its keys, except ``gate_closed``, which can have many codes.

    ``oldest_unsynced_seconds`` is 0 if no recording waits. ``last_success`` is in seconds since
    1970, or 0 if none is known. ``lease_remaining_seconds`` is None if no lease with a known end is
    in use.
    """

    version: str
    recordings: Mapping[Status, int]
    oldest_unsynced_seconds: float
    backlog_bytes: int
    uploaded_bytes: int
    uploads: Mapping[Ended, int]
    errors: Mapping[Kind, int]
    gate_closed: Mapping[str, bool]
    last_success: float
    disk_free_bytes: int | None
    lease_remaining_seconds: float | None
    orphaned_uploads: int
    watcher_up: bool
    scan_seconds: float
