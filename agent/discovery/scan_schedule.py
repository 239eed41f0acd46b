"""Decides when the next scan begins and whether that scan asks for the state of every file."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass

from agent.model.ports import Clock

# After a scan the agent waits so many times the CPU seconds that the scan took. So scans take at
# most 0.7 % of one core, however many files there are.
_PAUSE_PER_CPU_SECOND = 150.0

# The longest pause that the rule above may ask for.
_LONGEST_PAUSE_SECONDS = 300.0


class FullScanTicket:
    """Answers how far the next full scan after a request has come.

    A full scan asks for the state of every file, so it finds each file that was there when the
    ticket was taken. All requests between the beginnings of two full scans share one ticket.

    May be read from any thread. Only :class:`ScanSchedule` changes it.
    """

    __slots__ = ("begun", "done")

    def __init__(self) -> None:
        """Stand for a full scan that has not begun."""
        # Whether a full scan has begun after the ticket was taken.
        self.begun = False

        # Whether a full scan that began after the ticket was taken has ended.
        self.done = False


@dataclass(frozen=True, slots=True)
class ScanRun:
    """A scan that has begun.

    ``number`` is None for a full scan. For any other scan it says which files are spared.
    ``started`` is monotonic time, ``cpu_seconds`` is the CPU time of the thread by then.
    """

    number: int | None
    started: float
    cpu_seconds: float


class ScanSchedule:
    """Holds when the next scan is due, and counts the scans.

    Most scans spare most files, because to ask for their state costs most. The first scan and each
    scan that was asked for are full.

    Requests may come from any thread. One thread begins and ends the scans.
    """

    def __init__(
        self,
        clock: Clock,
        lock: threading.RLock,
        *,
        settle_seconds: float,
        rescan_seconds: float,
    ) -> None:
        """Begin with a full scan that is due at once.

        Args:
            clock: Its monotonic time is used.
            lock: The lock of the whole discovery.
            settle_seconds: The shortest time from the end of a scan to one that was asked for.
            rescan_seconds: The shortest time from the end of a scan to the next regular one.
        """
        self._clock = clock
        self._lock = lock
        self._settle_seconds = settle_seconds
        self._rescan_seconds = rescan_seconds
        self._due = -math.inf
        self._ended_at = -math.inf
        self._full_is_asked = True
        self._completed = 0
        self._next_ticket = FullScanTicket()
        self._begun_tickets: list[FullScanTicket] = []

    @property
    def due(self) -> float:
        """The monotonic time at which the next scan begins; infinite while a scan runs."""
        return self._due

    @property
    def completed(self) -> int:
        """How many scans have ended without an error that stopped them."""
        return self._completed

    def request(self) -> None:
        """Have a full scan begin soon.

        However often this is called, two scans lie at least ``settle_seconds`` apart.
        """
        with self._lock:
            self._full_is_asked = True
            soonest = max(self._clock.monotonic(), self._ended_at + self._settle_seconds)
            self._due = min(self._due, soonest)

    def next_full_scan(self) -> FullScanTicket:
        """Return the ticket of the next full scan that begins. Does not request one."""
        with self._lock:
            return self._next_ticket

    def begin(self) -> ScanRun:
        """Begin a scan. A request from now on is for another one."""
        started, cpu_seconds = self._clock.monotonic(), time.thread_time()
        with self._lock:
            self._due = math.inf
            if not self._full_is_asked:
                return ScanRun(self._completed, started, cpu_seconds)
            self._full_is_asked = False
            self._next_ticket.begun = True
            self._begun_tickets.append(self._next_ticket)
            self._next_ticket = FullScanTicket()
            return ScanRun(None, started, cpu_seconds)

    def complete(self) -> None:
        """Count the scan that runs as completed, and serve the tickets that wait for it."""
        with self._lock:
            self._completed += 1
            for ticket in self._begun_tickets:
                ticket.done = True
            self._begun_tickets.clear()

    def end(self, run: ScanRun, *, failed: bool) -> None:
        """Set the time of the next scan. After a failed full scan the next one is full, too."""
        with self._lock:
            self._ended_at = self._clock.monotonic()
            cpu_seconds = time.thread_time() - run.cpu_seconds
            pause = min(_PAUSE_PER_CPU_SECOND * cpu_seconds, _LONGEST_PAUSE_SECONDS)
            pause = max(self._rescan_seconds, pause)
            self._due = min(self._due, self._ended_at + pause)
            if failed and run.number is None:
                self._full_is_asked = True
