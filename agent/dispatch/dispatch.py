"""Claims what is due, has it carried, and records how it ended. The one owner of what is in flight."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from agent.dispatch.outcome import Outcome, outcome_of
from agent.gate.gate import Delays, Gate
from agent.model.bandwidth import Bandwidth
from agent.model.errors import (
    WHOLE,
    AgentError,
    CloudError,
    FileChangedError,
    HistoryFullError,
    blame_clock,
)
from agent.model.metrics import Tally
from agent.model.ports import Clock, History
from agent.model.sync_log import Fault, SyncLog
from agent.model.transfer import Transfer
from agent.model.unforeseen import UNFORESEEN, understood
from agent.model.values import utc_seconds, utc_text
from agent.upload.job import Job
from agent.upload.prepare import Prepare
from agent.upload.upload import Upload

_log = logging.getLogger(__name__)
_DISK = "disk_full"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadTerms:
    """What may change while the agent runs; a claim keeps those that it began with."""

    prepare: Prepare
    upload: Upload
    delays: Delays
    max_concurrent: int
    max_attempts: int
    settle_seconds: float
    newest_first: bool = False


@dataclass(slots=True)
class Claim:
    """One document in flight. A probe's claim is in memory only until the gate opens."""

    log: SyncLog
    terms: UploadTerms
    transfer: Transfer
    probe: bool
    durable: bool
    began: float
    causes: int  # that were known when it began
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that ended with an error: when (monotonic), on which file, and why."""

    at: float
    path: str
    fault: Fault


@dataclass(slots=True)
class InFlight:
    """What is in flight: mark, unmark, ask."""

    _claims: dict[int, Claim] = field(default_factory=dict)

    def mark(self, claim: Claim) -> None:
        """The claim begins."""
        self._claims[claim.log.id] = claim

    def unmark(self, id_: int) -> None:
        """The claim is over."""
        del self._claims[id_]

    def __contains__(self, id_: int) -> bool:
        return id_ in self._claims

    def __len__(self) -> int:
        return len(self._claims)

    def claims(self) -> Sequence[Claim]:
        """Those of this moment."""
        return tuple(self._claims.values())


class Dispatch:
    """Keeps at most ``max_concurrent`` recordings in flight: those asked for first, then the oldest or the newest."""

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
        """Where ``executor.submit`` raises, nothing was begun; a clock that says less than ``built`` is wrong."""
        self._history = history
        self._gate = gate
        self._clock = clock
        self._executor = executor
        self.terms = terms  # others may be set at any time, for what is claimed from then on
        self._built = built
        self._bandwidth = bandwidth
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._flight = InFlight()
        self._not_before: dict[
            int, tuple[str | None, float]
        ] = {}  # document id -> its retry date, monotonic time
        self._failed_at: dict[int, float] = {}  # document id -> monotonic time of its last failure
        self.last_failure: Failure | None = None
        self._last_probe = 0
        self._seen = -1  # changes of the history when nothing in the queue was due ...
        self._next_due = 0.0  # ... before this monotonic time
        self._disk_retry_at = 0.0
        self._disk_told = False
        self._traced = ""  # the last error whose traceback was logged
        self._causes = 0  # how often what blocks was changed on this robot
        self._tally = Tally()
        self.ticks = 0  # how often the queue was looked at

    # -- claiming

    def tick(self) -> None:
        """Start whatever may start now. Cheap when nothing may; called by the scheduler and whenever work comes."""
        with self._lock:
            try:
                self._try_disk()
                self._confirm_probes()
                self._claim()
            except HistoryFullError as error:
                self.disk_failed(error)
            self.ticks += 1

    def cause_changed(self) -> None:
        """Something that a cause lies in was changed on this robot: what it holds up goes on at once."""
        with self._lock:
            self._causes += 1
            self._gate.probe_now()
            try:
                for log in self._history.open():
                    if (
                        log.status == "failed"
                        and log.error is not None
                        and log.error.kind == "blocked"
                    ):
                        self._history.move(log.id, "asked")
            except HistoryFullError as error:
                self.disk_failed(error)  # those that are left wait for their date
        self.tick()

    def in_flight(self) -> Sequence[Claim]:
        """The claims of this moment, for those who show progress."""
        with self._lock:
            return self._flight.claims()

    def tally(self) -> Tally:
        """What was counted since this start, bytes in flight included."""
        with self._lock:
            return self._tally.copy(sum(claim.transfer.sent for claim in self._flight.claims()))

    def not_before(self, log: SyncLog) -> float:
        """The monotonic time at which a document is due; a wait from before this start is at most the maximum."""
        dated, due = self._not_before.get(log.id, (None, 0.0))
        if dated == log.next_retry_at:
            return due
        wait = utc_seconds(log.next_retry_at) - self._clock.now() if log.next_retry_at else 0.0
        return self._wait(log.id, log.next_retry_at, min(max(wait, 0.0), self.terms.delays.maximum))

    def _wait(self, id_: int, dated: str | None, seconds: float) -> float:
        """Let a document wait, as long as its retry date is this one."""
        due = self._clock.monotonic() + seconds
        self._not_before[id_] = dated, due
        return due

    def stop(self, grace: float, dropping: float) -> bool:
        """Start nothing more. Parts in flight have ``grace`` seconds, then they are dropped within ``dropping``.

        Tells whether all have ended.
        """
        self._gate.hold("stopping", "the agent stops")
        with self._idle:
            if not self._idle.wait_for(lambda: not len(self._flight), timeout=grace):
                for claim in self._flight.claims():
                    claim.transfer.stop()
                self._idle.wait_for(lambda: not len(self._flight), timeout=dropping)
            return not len(self._flight)

    def _claim(self) -> None:
        if self._gate.closed() is not None:
            if self._gate.probe_due():
                self._probe()
            return
        if len(self._flight) >= self.terms.max_concurrent:
            return
        changes, now = self._history.changes(), self._clock.monotonic()
        if changes == self._seen and now < self._next_due:
            return  # thousands may wait for their date
        self._seen, next_due = -1, math.inf
        for log in self._in_turn():
            if log.id in self._flight:
                continue
            due = self.not_before(log)
            if due > now:
                next_due = min(next_due, due)
                continue
            if not self._start(log, probe=False) or len(self._flight) >= self.terms.max_concurrent:
                return
        self._seen, self._next_due = changes, next_due

    def _in_turn(self) -> Iterable[SyncLog]:
        """What has not ended, in the order in which it goes: what was put ahead comes first."""
        waiting = self._history.open()
        ahead = sorted((log for log in waiting if log.ahead), key=lambda log: -log.ahead)
        rest = (
            log
            for log in (reversed(waiting) if self.terms.newest_first else waiting)
            if not log.ahead
        )
        return chain(ahead, rest)

    def _probe(self) -> None:
        """One recording at a time, in turn, so that one which fails by itself can't keep the gate closed."""
        waiting = [
            log for log in self._history.open() if log.id not in self._flight and self._due(log)
        ]
        ready = [log for log in waiting if log.status != "failed"] or waiting
        log = next((log for log in ready if log.id > self._last_probe), ready[0] if ready else None)
        if log is None or not self._gate.begin_probe(log.id):
            return
        self._last_probe = log.id
        begun = False
        try:
            begun = self._start(log, probe=True)
        finally:
            if not begun:
                self._gate.end_probe(synced=False)

    def _due(self, log: SyncLog) -> bool:
        return self.not_before(log) <= self._clock.monotonic()

    def _start(self, log: SyncLog, *, probe: bool) -> bool:
        """Claim: durable before the first byte; what a stop left in progress is taken up with no attempt lost.

        Tells whether a worker has it. Where none can be started, the gate is closed and the document waits.
        """
        if log.status == "failed":
            log = self._history.move(log.id, "due")
        durable = log.status == "in_progress"
        if not probe and not durable:
            log = self._history.move(log.id, "claimed")
            durable = True
        self._not_before.pop(log.id, None)
        self._disk_told = False
        transfer = Transfer(log.file_size, self._bandwidth)
        claim = Claim(
            log, self.terms, transfer, probe, durable, self._clock.monotonic(), self._causes
        )
        self._flight.mark(claim)
        try:
            self._executor.submit(self._work, claim)
        except Exception as problem:  # noqa: BLE001 - whatever it is, it is nothing that this recording has done
            self._flight.unmark(log.id)
            error = understood(problem)
            outcome = outcome_of(
                error, attempts=0, max_attempts=self.terms.max_attempts, others_passed=False
            )
            self._settle(claim, outcome, error)
            return False
        return True

    def _confirm_probes(self) -> None:
        if self._gate.closed() is None:
            for claim in self._flight.claims():
                self._make_durable(claim)

    def _make_durable(self, claim: Claim) -> None:
        if not claim.durable:
            self._history.move(claim.log.id, "claimed")
            claim.durable = True

    # -- carrying

    def _work(self, claim: Claim) -> None:
        error: AgentError | None = None
        try:
            claim.job = claim.terms.prepare.job(claim.log, claim.transfer, probe=claim.probe)
            try:
                claim.terms.upload.carry(claim.job)
            finally:
                claim.job.close()
        except Exception as problem:  # noqa: BLE001 - whatever it is, the document says so and the queue goes on
            error = understood(problem)
            blame_clock(error, self._clock.now(), self._built)
        try:
            self._end(claim, error)
        except HistoryFullError as full:
            self.disk_failed(full)  # the document stays as it is and is taken up again
        except Exception:  # noqa: BLE001 - a mistake here must not end the worker
            _log.exception("could not record the end of %s", claim.log.path, extra={"event": "bug"})
            self._wait(claim.log.id, claim.log.next_retry_at, claim.terms.delays.maximum)
        finally:
            with self._lock:
                if claim.probe:
                    self._gate.end_probe(synced=error is None)
                self._flight.unmark(claim.log.id)
                self._seen = -1
                self._tally.bytes_sent += claim.transfer.sent
                self._idle.notify_all()
        self.tick()

    def _end(self, claim: Claim, error: AgentError | None) -> None:
        """Record how it ended; what is given up here is given up in the cloud first."""
        if isinstance(error, HistoryFullError):
            raise error
        outcome = self._judge(claim, error)
        if outcome.event == "gave_up":
            log = self._history.get(claim.log.id)
            claim.terms.upload.abandon(log, claim.terms.prepare.profile_of(log), outcome.code)
        with self._lock:
            self._settle(claim, outcome, error)
            self._tally.count(outcome.event, outcome.fault, self._clock.monotonic())

    # -- recording how it ended

    def _judge(self, claim: Claim, error: AgentError | None) -> Outcome:
        log = self._history.get(claim.log.id)
        call = error.call if isinstance(error, CloudError) else WHOLE
        since = self._failed_at.get(
            log.id, float("inf")
        )  # a first failure is taken for everybody's
        return outcome_of(
            error,
            attempts=log.attempt_count + (not claim.durable),
            max_attempts=claim.terms.max_attempts,
            others_passed=self._gate.others_passed(call, log.id, since),
        )

    def _settle(self, claim: Claim, outcome: Outcome, error: AgentError | None) -> None:
        id_ = claim.log.id
        if outcome.code in UNFORESEEN:
            self._trace(error)
        if outcome.event == "done":
            self._gate.passed(WHOLE, id_)
            self._traced = ""
        closes, alone = outcome.closes, id_ if outcome.answered else 0
        if (
            closes is not None
            and isinstance(error, CloudError)
            and self._gate.close(error, closes, alone)
        ):
            self._last_probe = id_
            if claim.causes != self._causes:
                self._gate.probe_now()  # what it was refused for has been changed meanwhile
            hint = error.hint or closes.hint
            _log.warning(
                "gate closed: %s (%s)", error.message, hint, extra={"event": "gate_closed"}
            )
        if error is not None:
            self._failed_at[id_] = self._clock.monotonic()
        if outcome.fault is not None:
            self.last_failure = Failure(self._clock.monotonic(), claim.log.path, outcome.fault)
        if not claim.durable and outcome.event == "gate_closed":
            return  # a failed probe writes nothing
        with self._history.transaction():
            self._make_durable(claim)
            log = self._history.move(id_, outcome.event, **self._changes(claim, outcome, error))
        self._tell(log, outcome, error)
        if not log.open:
            self._failed_at.pop(id_, None)

    def _trace(self, error: AgentError | None) -> None:
        """Log where it happened; once for all that meet the same, however often it is tried."""
        if str(error) != self._traced:
            self._traced = str(error)
            _log.error("nobody foresaw this: %s", error, extra={"event": "bug"}, exc_info=error)

    def _changes(self, claim: Claim, outcome: Outcome, error: Exception | None) -> dict[str, Any]:
        log = self._history.get(claim.log.id)
        changes: dict[str, Any] = {
            "bytes_sent": log.bytes_sent + claim.transfer.sent,
            "duration_seconds": round(
                log.duration_seconds + self._clock.monotonic() - claim.began, 3
            ),
            "credential_refreshes": log.credential_refreshes
            + (claim.job.refreshes if claim.job else 0),
        }
        if outcome.fault is not None:
            changes["error"] = outcome.fault
        wait = 0.0
        if outcome.event == "counted":
            wait = claim.terms.delays.after(log.attempt_count)
        elif outcome.event == "blocked_alone":
            wait = claim.terms.delays.maximum
        elif outcome.event == "changed":
            asked = error.wait_seconds if isinstance(error, FileChangedError) else 0.0
            wait = asked or claim.terms.settle_seconds
        if outcome.event in ("counted", "blocked_alone"):
            changes["next_retry_at"] = utc_text(self._clock.now() + wait)
        if wait:
            self._wait(log.id, changes.get("next_retry_at"), wait)
        return changes

    def _tell(self, log: SyncLog, outcome: Outcome, error: AgentError | None) -> None:
        about = {
            "event": outcome.event,
            "episode_id": log.episode_id,
            "document": log.id,
            "path": log.path,
        }
        if outcome.event == "done":
            speed = log.file_size / max(log.duration_seconds, 0.001) / 1e6
            _log.info(
                "completed %s (%.1f MB/s)",
                log.path,
                speed,
                extra={**about, "object_key": log.object_key},
            )
        elif outcome.event in ("gate_closed", "changed"):
            _log.info("put back %s: %s", log.path, error, extra=about)
        elif outcome.fault is not None:
            again = f"; tried again at {log.next_retry_at}" if log.next_retry_at else ""
            _log.error(
                "%s: %s%s. %s",
                log.path,
                outcome.fault.message,
                again,
                outcome.fault.hint,
                extra=about,
            )

    def disk_failed(self, error: HistoryFullError) -> None:
        """Nothing can be written down: close the gate, and try again in a while."""
        self._disk_retry_at = self._clock.monotonic() + self.terms.delays.base
        self._gate.hold(_DISK, error.message, error.hint)
        if not self._disk_told:
            self._disk_told = True
            _log.error("%s: %s", error.message, error.hint, extra={"event": error.code})

    def _try_disk(self) -> None:
        closed = self._gate.closed()
        if (
            closed is not None
            and closed.code == _DISK
            and self._clock.monotonic() >= self._disk_retry_at
        ):
            if self._history.room():
                self._gate.release(_DISK)  # the next write shows whether that is true
            else:
                self._disk_retry_at = self._clock.monotonic() + self.terms.delays.base
