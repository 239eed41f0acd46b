"""Asks the cloud whether it holds an object now, before its recording is deleted here: seldom, and through the gate."""

from __future__ import annotations

import logging

from agent.cloud.credentials import Credentials
from agent.gate.gate import Delays, Gate
from agent.model.errors import CloudError, HistoryFullError, judge
from agent.model.ports import Clock, History, Profiles
from agent.model.sync_log import SyncLog

_log = logging.getLogger(__name__)

_MOST = 100  # questions in one round
_MOST_REFUSALS = 3  # in one round, where all may be refused alike
_DAY = 86_400.0


class Confirm:
    """Used by one thread, in rounds: ``begin``, any number of ``ask`` while ``may_ask``, ``end``."""

    def __init__(
        self,
        *,
        history: History,
        gate: Gate,
        credentials: Credentials,
        profiles: Profiles,
        clock: Clock,
        delays: Delays,
    ) -> None:
        """``delays`` pace the rounds while the cloud gives no answer."""
        self._history = history
        self._gate = gate
        self._credentials = credentials
        self._profiles = profiles
        self._clock = clock
        self._delays = delays
        self._left = 0  # questions in this round
        self._refusals: list[CloudError] = []  # of this round
        self._failures = 0  # rounds in a row that ended without an answer
        self._due = 0.0  # monotonic time of the next question
        self._missing: set[int] = set()  # documents of which it was said

    def begin(self) -> None:
        """A new round."""
        self._left = _MOST
        self._refusals = []

    def may_ask(self) -> bool:
        """Whether another question may be asked in this round."""
        return self._left > 0 and self._clock.monotonic() >= self._due and not self.closed()

    def closed(self) -> str:
        """Why nobody may be asked; "" when somebody may. A full disk is what deleting helps against."""
        closed = self._gate.closed(but=HistoryFullError.code)
        if closed is None:
            return ""
        # Without a recording to probe with the cloud stays closed; the date of the next probe holds here, too.
        nobody_probes = closed.cause == "cloud" and not self._history.open()
        due = nobody_probes and self._clock.monotonic() >= (closed.next_probe or 0.0)
        return "" if due else closed.reason

    def ask(self, log: SyncLog) -> float | None:
        """None when the object of the completed ``log`` is stored as it says; else seconds until it is asked again."""
        self._left -= 1
        try:
            profile = self._profiles.load().get(log.asset_id)
            if profile is None:
                text = "%s is not deleted: nobody can be asked, there is no profile of asset id %r"
                _log.debug(
                    text, log.path, log.asset_id, extra={"event": "unconfirmed", "document": log.id}
                )
                return self._delays.maximum
            stored = self._credentials.call(
                profile, lambda gateway, token: gateway.stored(profile, token, log)
            )
        except CloudError as error:
            return self._refused(error)
        self._failures = 0
        if stored:
            return None
        self._tell_missing(log)
        return _DAY

    def end(self) -> None:
        """Say in one line what was refused, however often; then leave the cloud alone for a while."""
        if not self._refusals:
            return
        error = self._refusals[0]
        if any(not _alone(refusal) for refusal in self._refusals):
            self._failures += 1
            self._due = self._clock.monotonic() + self._delays.after(self._failures)
        _log.warning(
            "what the cloud does not confirm is not deleted: %s (%s)",
            error.message,
            error.hint or judge(error).hint,
            extra={"event": "unconfirmed"},
        )

    def _refused(self, error: CloudError) -> float:
        self._refusals.append(error)
        if _alone(error):
            return _DAY
        if judge(error).kind == "offline":
            self._left = 0
            return 0.0
        self._left -= _MOST // _MOST_REFUSALS
        return (
            self._delays.maximum
        )  # another one may be answered: some stores forbid to look for what is not there

    def _tell_missing(self, log: SyncLog) -> None:
        if log.id in self._missing:
            return
        self._missing.add(log.id)
        _log.error(
            "%s is not in the bucket any more as it was uploaded (%s), so it stays here. "
            "`keystone-agent resync %s` uploads it again",
            log.path,
            log.object_key,
            log.path,
            extra={
                "event": "object_missing",
                "path": log.path,
                "document": log.id,
                "object_key": log.object_key,
            },
        )


def _alone(error: CloudError) -> bool:
    """Whether it is about one recording: a session that another bucket, platform or device has."""
    return judge(error).kind in ("counted", "final")
