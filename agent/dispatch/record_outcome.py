"""Records how an attempt ended: in the history, at the gate, in the log."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from agent.dispatch.claim import Claim
from agent.dispatch.outcome import Outcome, outcome_of
from agent.dispatch.retry_dates import RetryDates
from agent.gate.gate import Gate
from agent.model.errors import WHOLE, AgentError, CloudError, FileChangedError
from agent.model.ports import Clock, History
from agent.model.sync_log import Fault, MoveChanges, SyncLog
from agent.model.values import utc_text

_log = logging.getLogger(__name__)

# A duration of no length would give no speed.
_SHORTEST_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that ended with an error: when (monotonic), on which file, and why."""

    at: float
    path: str
    fault: Fault


class OutcomeRecorder:
    """Judges how attempts ended, and writes it down.

    It remembers when each document failed last, because an error that other recordings do not meet
    since then is the recording's own.

    :meth:`judge` may be called from any thread. For the other methods the owner holds its lock.
    """

    def __init__(self, history: History, gate: Gate, clock: Clock, retry_dates: RetryDates) -> None:
        """Write to ``history``, move ``gate``, and let documents wait in ``retry_dates``."""
        self._history = history
        self._gate = gate
        self._clock = clock
        self._retry_dates = retry_dates
        self.last_failure: Failure | None = None
        # The monotonic time of the last failure, by document.
        self._failed_at: dict[int, float] = {}
        # The text of the last error whose traceback was logged.
        self._traced = ""

    def judge(self, claim: Claim, error: AgentError | None) -> Outcome:
        """Return what the end of an attempt means; an ``error`` of None is success."""
        log = self._history.get(claim.log.id)
        call = error.call if isinstance(error, CloudError) else WHOLE
        # A first failure counts as one that every recording would meet.
        since = self._failed_at.get(log.id, math.inf)
        return outcome_of(
            error,
            attempts=log.attempt_count + (not claim.durable),
            max_attempts=claim.terms.max_attempts,
            others_passed=self._gate.others_passed(call, log.id, since),
        )

    def apply_to_gate(self, claim: Claim, outcome: Outcome, error: AgentError | None) -> bool:
        """Open or close the gate as the outcome says; return whether this closed an open gate."""
        if outcome.fault is not None and outcome.fault.means("unforeseen"):
            self._log_traceback(error)
        if outcome.event == "done":
            self._gate.passed(WHOLE, claim.log.id)
            self._traced = ""
        if outcome.closes is None or not isinstance(error, CloudError):
            return False
        alone = claim.log.id if outcome.answered else 0
        if not self._gate.close(error, outcome.closes, alone):
            return False
        hint = error.hint or outcome.closes.hint
        _log.warning("gate closed: %s (%s)", error.message, hint, extra={"event": "gate_closed"})
        return True

    def note_failure(self, claim: Claim, outcome: Outcome, error: AgentError | None) -> None:
        """Remember when the attempt failed and why."""
        if error is not None:
            self._failed_at[claim.log.id] = self._clock.monotonic()
        if outcome.fault is not None:
            self.last_failure = Failure(self._clock.monotonic(), claim.log.path, outcome.fault)

    def write(self, claim: Claim, outcome: Outcome, error: AgentError | None) -> None:
        """Write the outcome to the document of ``claim``, and log it. Raises HistoryFullError."""
        with self._history.transaction():
            self.make_durable(claim)
            changes = self._changes(claim, outcome, error)
            log = self._history.move(claim.log.id, outcome.event, **changes)
        _log_outcome(log, outcome, error)
        if not log.open:
            self._failed_at.pop(claim.log.id, None)

    def make_durable(self, claim: Claim) -> None:
        """Write the claim to the history if it is in memory only. Raises HistoryFullError."""
        if not claim.durable:
            self._history.move(claim.log.id, "claimed")
            claim.durable = True

    def _log_traceback(self, error: AgentError | None) -> None:
        """Log where an unexpected error happened, once however often it is met again."""
        if str(error) != self._traced:
            self._traced = str(error)
            _log.error("unexpected error: %s", error, extra={"event": "bug"}, exc_info=error)

    def _changes(self, claim: Claim, outcome: Outcome, error: Exception | None) -> MoveChanges:
        """Return the fields of the document that change with the outcome, and let it wait."""
        log = self._history.get(claim.log.id)
        seconds = log.duration_seconds + self._clock.monotonic() - claim.began
        refreshes = claim.job.refreshes if claim.job else 0
        changes: MoveChanges = {
            "bytes_sent": log.bytes_sent + claim.transfer.sent,
            "duration_seconds": round(seconds, 3),
            "credential_refreshes": log.credential_refreshes + refreshes,
        }
        if outcome.fault is not None:
            changes["error"] = outcome.fault
        wait = _wait_seconds(claim, log, outcome, error)
        if outcome.event in ("counted", "blocked_alone"):
            changes["next_retry_at"] = utc_text(self._clock.now() + wait)
        if wait:
            self._retry_dates.wait(log.id, changes.get("next_retry_at"), wait)
        return changes


def _wait_seconds(claim: Claim, log: SyncLog, outcome: Outcome, error: Exception | None) -> float:
    """Return for how many seconds the document waits after this outcome; 0 for not at all."""
    if outcome.event == "counted":
        return claim.terms.delays.after(log.attempt_count)
    if outcome.event == "blocked_alone":
        return claim.terms.delays.maximum
    if outcome.event == "changed":
        requested = error.wait_seconds if isinstance(error, FileChangedError) else 0.0
        return requested or claim.terms.settle_seconds
    return 0.0


def _log_outcome(log: SyncLog, outcome: Outcome, error: AgentError | None) -> None:
    fields = {
        "event": outcome.event,
        "episode_id": log.episode_id,
        "document": log.id,
        "path": log.path,
    }
    if outcome.event == "done" and log.is_revision:
        fields["object_key"] = log.object_key
        _log.info(
            "wrote revision %d of the manifest of %s", log.manifest_revision, log.path, extra=fields
        )
    elif outcome.event == "done":
        speed = log.file_size / max(log.duration_seconds, _SHORTEST_SECONDS) / 1e6
        fields["object_key"] = log.object_key
        _log.info("completed %s (%.1f MB/s)", log.path, speed, extra=fields)
    elif outcome.event in ("gate_closed", "changed"):
        _log.info("%s goes back into the queue: %s", log.path, error, extra=fields)
    elif outcome.fault is not None:
        retry = f"; tried again at {log.next_retry_at}" if log.next_retry_at else ""
        _log.error(
            "%s: %s%s. %s", log.path, outcome.fault.message, retry, outcome.fault.hint, extra=fields
        )
