"""When a document may be claimed: the retry dates of the history by the monotonic clock."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.ports import Clock
from agent.model.sync_log import SyncLog
from agent.model.values import utc_seconds


@dataclass(frozen=True, slots=True)
class _Wait:
    """The monotonic time at which a document is due, as long as its retry date is ``retry_at``."""

    retry_at: str | None
    due: float


class RetryDates:
    """Says when each document is due.

    The history has retry dates by the wall clock, which may jump. So a date is turned once into a
    monotonic time, which decides from then on.

    Any thread may call the methods.
    """

    def __init__(self, clock: Clock) -> None:
        """Use both sides of ``clock``: the wall clock for dates, the monotonic one for waits."""
        self._clock = clock
        self._waits: dict[int, _Wait] = {}

    def due(self, log: SyncLog, longest_seconds: float) -> float:
        """Return the monotonic time at which a document is due.

        A wait that an earlier run of the agent began lasts at most ``longest_seconds`` from now.
        """
        known = self._waits.get(log.id)
        if known is None and log.next_retry_at is None:
            return 0.0
        if known is not None and known.retry_at == log.next_retry_at:
            return known.due
        seconds = utc_seconds(log.next_retry_at) - self._clock.now() if log.next_retry_at else 0.0
        return self.wait(log.id, log.next_retry_at, min(max(seconds, 0.0), longest_seconds))

    def wait(self, id_: int, retry_at: str | None, seconds: float) -> float:
        """Let a document wait as long as its retry date is ``retry_at``; return when it is due."""
        due = self._clock.monotonic() + seconds
        self._waits[id_] = _Wait(retry_at, due)
        return due

    def remove(self, id_: int) -> None:
        """End the wait of a document; one that does not wait is no error."""
        self._waits.pop(id_, None)
