"""Holds the gate while the history can't be written, and tries again after a while."""

from __future__ import annotations

import logging

from agent.gate.gate import Gate
from agent.model.errors import HistoryFullError
from agent.model.ports import Clock, History

_log = logging.getLogger(__name__)

# The code of the gate's hold. The status shows it, so it never changes.
_DISK_FULL = "disk_full"


class FullDiskHold:
    """Keeps the gate closed while nothing can be written to the history.

    Without the history an upload could not be recorded, so no upload begins. The owner guards this
    class with its own lock; :meth:`hold` alone may be called from any thread.
    """

    def __init__(self, history: History, gate: Gate, clock: Clock) -> None:
        """Hold ``gate`` while ``history`` can't be written; waits go by the monotonic ``clock``."""
        self._history = history
        self._gate = gate
        self._clock = clock
        self._retry_at = 0.0
        self._is_logged = False

    def hold(self, error: HistoryFullError, retry_seconds: float) -> None:
        """Close the gate because of ``error``, and try again after ``retry_seconds``."""
        self._retry_at = self._clock.monotonic() + retry_seconds
        self._gate.hold(_DISK_FULL, error.message, error.hint)
        if not self._is_logged:
            self._is_logged = True
            _log.error("%s: %s", error.message, error.hint, extra={"event": error.code})

    def retry(self, retry_seconds: float) -> None:
        """Open the gate if it is time to try and the history has room; else wait once more."""
        if not self._gate.is_held_by(_DISK_FULL) or self._clock.monotonic() < self._retry_at:
            return
        if self._history.room():
            # The next write shows whether there really is room.
            self._gate.release(_DISK_FULL)
        else:
            self._retry_at = self._clock.monotonic() + retry_seconds

    def written(self) -> None:
        """Note that the history was written, so that the next failure is logged again."""
        self._is_logged = False
