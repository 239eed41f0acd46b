"""Claims documents that are due, has workers upload them, and has their outcomes recorded.

Only this module decides which recordings are in flight.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from itertools import chain

from agent.dispatch.claim import Claim, InFlight, UploadTerms
from agent.dispatch.full_disk import FullDiskHold
from agent.dispatch.outcome import Outcome, outcome_of
from agent.dispatch.record_outcome import Failure, OutcomeRecorder
from agent.dispatch.retry_dates import RetryDates
from agent.gate.gate import Gate
from agent.model.bandwidth import Bandwidth
from agent.model.errors import AgentError, HistoryFullError, blame_clock
from agent.model.metrics import Tally
from agent.model.ports import Clock, History
from agent.model.sync_log import SyncLog
from agent.model.transfer import Transfer
from agent.model.unforeseen import understood

_log = logging.getLogger(__name__)

# Stands for "the queue must be searched again": the history never counts below 0.
_SEARCH_AGAIN = -1


class Dispatch:
    """Keeps at most ``max_concurrent`` recordings in flight.

    Recordings that an operator asked for come first. The others follow by age, the oldest or the
    newest first.

    Any thread may call the public methods. One lock guards all state; workers take the lock only
    to record how an attempt ended.
    """

    def __init__(
        self,
        *,
        history: History,
        gate: Gate,
        clock: Clock,
        executor: Executor,
        terms: UploadTerms,
        built: float = 0.0,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        """Begin with nothing in flight.

        Args:
            history: Has the queue, and keeps what becomes of it.
            gate: Says whether an upload may begin.
            clock: The monotonic side decides, the wall clock dates retries.
            executor: Runs the workers. Where ``submit`` raises, no worker was started.
            terms: The settings for what is claimed from now on. They may be replaced at any time.
            built: Seconds since 1970 when this version was built. An earlier wall clock is wrong.
            bandwidth: The limit that all uploads share; None for no limit.
        """
        self._history = history
        self._gate = gate
        self._clock = clock
        self._executor = executor
        self.terms = terms
        self._built = built
        self._bandwidth = bandwidth
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._in_flight = InFlight()
        self._retry_dates = RetryDates(clock)
        self._outcomes = OutcomeRecorder(history, gate, clock, self._retry_dates)
        self._full_disk = FullDiskHold(history, gate, clock)
        # The document that probed last, or that closed the gate.
        self._last_probe = 0
        # When nothing in the queue was due, the history had this number of changes. While it has,
        # nothing is due before ``_next_due`` (monotonic).
        self._searched_changes = _SEARCH_AGAIN
        self._next_due = 0.0
        # How often a cause of refusals was changed on this robot.
        self._causes = 0
        self._tally = Tally()
        # How often the queue was searched. The health check watches this number.
        self.ticks = 0

    # -- claiming

    def tick(self) -> None:
        """Start every upload that may start now.

        The scheduler calls this regularly, and others call it when there is new work. A call costs
        little when nothing may start.
        """
        with self._lock:
            try:
                self._full_disk.retry(self.terms.delays.base)
                self._confirm_probes()
                self._claim()
            except HistoryFullError as error:
                self.disk_failed(error)
            self.ticks += 1

    def cause_changed(self) -> None:
        """Retry at once what waits for something that was changed on this robot.

        Such causes are the files of profiles, keys and assets, the configuration and the clock.
        """
        with self._lock:
            self._causes += 1
            self._gate.probe_now()
            try:
                for log in self._history.open():
                    if _is_blocked(log):
                        self._history.move(log.id, "asked")
            except HistoryFullError as error:
                # The documents that are left wait for their retry dates.
                self.disk_failed(error)
        self.tick()

    def in_flight(self) -> Sequence[Claim]:
        """Return the claims of this moment."""
        with self._lock:
            return self._in_flight.claims()

    @property
    def last_failure(self) -> Failure | None:
        """The last attempt that ended with an error since this start."""
        return self._outcomes.last_failure

    def tally(self) -> Tally:
        """Return what was counted since this start, bytes in flight included."""
        with self._lock:
            claims = self._in_flight.claims()
            return self._tally.copy(sum(claim.transfer.sent for claim in claims))

    def not_before(self, log: SyncLog) -> float:
        """Return the monotonic time at which a document is due.

        A wait that an earlier run of the agent began lasts at most the longest delay.
        """
        return self._retry_dates.due(log, self.terms.delays.maximum)

    def disk_failed(self, error: HistoryFullError) -> None:
        """Close the gate because the history can't be written, and try again after a while."""
        self._full_disk.hold(error, self.terms.delays.base)

    def stop(self, grace: float, dropping: float) -> bool:
        """Start no more uploads, and return whether all have ended.

        Parts in flight have ``grace`` seconds to end. Then they are cut off, which takes at most
        ``dropping`` seconds.
        """
        self._gate.hold("stopping", "the agent stops")
        with self._idle:
            if not self._idle.wait_for(self._nothing_in_flight, timeout=grace):
                for claim in self._in_flight.claims():
                    claim.transfer.stop()
                self._idle.wait_for(self._nothing_in_flight, timeout=dropping)
            return self._nothing_in_flight()

    def _nothing_in_flight(self) -> bool:
        return not len(self._in_flight)

    def _claim(self) -> None:
        """Claim documents until as many are in flight as may be, or no other one is due."""
        if self._gate.closed() is not None:
            if self._gate.probe_due():
                self._probe()
            return
        if self._is_full():
            return
        # Thousands of documents may wait for their dates, so they are not searched at each tick.
        changes, now = self._history.changes(), self._clock.monotonic()
        if changes == self._searched_changes and now < self._next_due:
            return
        self._searched_changes = _SEARCH_AGAIN
        next_due = math.inf
        for log in self._in_order():
            if log.id in self._in_flight:
                continue
            due = self.not_before(log)
            if due > now:
                next_due = min(next_due, due)
                continue
            if not self._start(log, probe=False) or self._is_full():
                return
        self._searched_changes = changes
        self._next_due = next_due

    def _is_full(self) -> bool:
        return len(self._in_flight) >= self.terms.max_concurrent

    def _in_order(self) -> Iterable[SyncLog]:
        """Return the open documents in the order in which they are uploaded."""
        waiting = self._history.open()
        ahead = sorted((log for log in waiting if log.ahead), key=lambda log: -log.ahead)
        by_age = reversed(waiting) if self.terms.newest_first else waiting
        return chain(ahead, (log for log in by_age if not log.ahead))

    def _probe(self) -> None:
        """Try one recording while the cloud keeps the gate closed."""
        log = self._next_probe()
        if log is None or not self._gate.begin_probe(log.id):
            return
        self._last_probe = log.id
        is_started = False
        try:
            is_started = self._start(log, probe=True)
        finally:
            if not is_started:
                self._gate.end_probe(synced=False)

    def _next_probe(self) -> SyncLog | None:
        """Return the document that probes next; None when none is due.

        Documents probe in turn, so that one that fails by itself can't keep the gate closed.
        """
        now = self._clock.monotonic()
        due = [
            log
            for log in self._history.open()
            if log.id not in self._in_flight and self.not_before(log) <= now
        ]
        candidates = [log for log in due if log.status != "failed"] or due
        for log in candidates:
            if log.id > self._last_probe:
                return log
        return candidates[0] if candidates else None

    def _start(self, log: SyncLog, *, probe: bool) -> bool:
        """Claim a document and give it to a worker; return whether a worker has it.

        The claim is in the history before the first byte is sent, but for a probe. An attempt that
        a stop left in progress goes on and costs no new attempt. Where no worker can be started,
        the gate is closed and the document waits. Raises HistoryFullError.
        """
        if log.status == "failed":
            log = self._history.move(log.id, "due")
        is_durable = log.status == "in_progress"
        if not probe and not is_durable:
            log = self._history.move(log.id, "claimed")
            is_durable = True
        self._retry_dates.remove(log.id)
        self._full_disk.written()
        claim = Claim(
            log=log,
            terms=self.terms,
            transfer=Transfer(log.file_size, self._bandwidth),
            probe=probe,
            durable=is_durable,
            began=self._clock.monotonic(),
            causes=self._causes,
        )
        self._in_flight.add(claim)
        try:
            self._executor.submit(self._work, claim)
        except Exception as problem:  # noqa: BLE001 - no error here is the recording's own
            self._in_flight.remove(log.id)
            error = understood(problem)
            outcome = outcome_of(
                error, attempts=0, max_attempts=self.terms.max_attempts, others_passed=False
            )
            self._record(claim, outcome, error)
            return False
        return True

    def _confirm_probes(self) -> None:
        """Make the claims of probes durable once the gate is open."""
        if self._gate.closed() is None:
            for claim in self._in_flight.claims():
                self._outcomes.make_durable(claim)

    # -- uploading, on a worker's thread

    def _work(self, claim: Claim) -> None:
        """Upload one recording and record the outcome, whatever happens."""
        error = self._upload(claim)
        try:
            self._end(claim, error)
        except HistoryFullError as full:
            # The document stays in progress, and its upload is continued later.
            self.disk_failed(full)
        except Exception:  # noqa: BLE001 - a mistake here must not end the worker
            _log.exception(
                "could not record the outcome of %s", claim.log.path, extra={"event": "bug"}
            )
            delay = claim.terms.delays.maximum
            self._retry_dates.wait(claim.log.id, claim.log.next_retry_at, delay)
        finally:
            with self._lock:
                if claim.probe:
                    self._gate.end_probe(synced=error is None)
                self._in_flight.remove(claim.log.id)
                self._searched_changes = _SEARCH_AGAIN
                self._tally.bytes_sent += claim.transfer.sent
                self._idle.notify_all()
        self.tick()

    def _upload(self, claim: Claim) -> AgentError | None:
        """Upload the recording; return the error that ended the attempt, None for success."""
        try:
            claim.job = claim.terms.prepare.job(claim.log, claim.transfer, probe=claim.probe)
            try:
                claim.terms.upload.carry(claim.job)
            finally:
                claim.job.close()
        except Exception as problem:  # noqa: BLE001 - each error goes into the document
            error = understood(problem)
            blame_clock(error, self._clock.now(), self._built)
            return error
        return None

    def _end(self, claim: Claim, error: AgentError | None) -> None:
        """Record how the attempt ended. An upload that is given up is aborted in the cloud first.

        Raises HistoryFullError.
        """
        if isinstance(error, HistoryFullError):
            raise error
        outcome = self._outcomes.judge(claim, error)
        if outcome.event == "gave_up":
            log = self._history.get(claim.log.id)
            claim.terms.upload.abandon(log, claim.terms.prepare.profile_of(log), outcome.code)
        with self._lock:
            self._record(claim, outcome, error)
            self._tally.count(outcome.event, outcome.fault, self._clock.monotonic())

    def _record(self, claim: Claim, outcome: Outcome, error: AgentError | None) -> None:
        """Apply the outcome to the gate and to the document. Raises HistoryFullError."""
        if self._outcomes.apply_to_gate(claim, outcome, error):
            self._last_probe = claim.log.id
            if claim.causes != self._causes:
                # What the cloud refused the recording for was changed since the attempt began.
                self._gate.probe_now()
        self._outcomes.note_failure(claim, outcome, error)
        # A probe that failed writes nothing.
        if claim.durable or outcome.event != "gate_closed":
            self._outcomes.write(claim, outcome, error)


def _is_blocked(log: SyncLog) -> bool:
    """Return whether a document waits for something of its own."""
    return log.status == "failed" and log.error is not None and log.error.kind == "blocked"
