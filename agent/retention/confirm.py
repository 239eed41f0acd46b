"""Asks the cloud whether it still stores an object, before the recording is deleted here."""

from __future__ import annotations

import logging

from agent.cloud.credentials import Credentials
from agent.gate.gate import Delays, Gate
from agent.model.errors import CloudError, HistoryFullError, judge
from agent.model.ports import Clock, History, Profiles
from agent.model.sync_log import SyncLog

_log = logging.getLogger(__name__)

# The most requests in one round.
_MOST = 100

# A round ends after so many refusals, because every request may be refused alike.
_MOST_REFUSALS = 3

_DAY_SECONDS = 86_400.0


class Confirm:
    """Asks whether objects are stored, in rounds and through the gate.

    A round is :meth:`begin`, any number of :meth:`ask` while :meth:`may_ask`, and :meth:`end`. The
    number of requests in a round is limited, and after refusals the next round waits.

    Used by one thread.
    """

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
        """Join the parts; ``delays`` are the waits between rounds while requests are refused."""
        self._history = history
        self._gate = gate
        self._credentials = credentials
        self._profiles = profiles
        self._clock = clock
        self._delays = delays
        # How many requests are left in this round.
        self._left = 0
        self._refusals: list[CloudError] = []
        # How many rounds in a row ended with a refusal that concerns all recordings.
        self._failures = 0
        # The monotonic time of the next request.
        self._due = 0.0
        # The documents whose object is missing, and was logged as missing.
        self._missing: set[int] = set()

    def begin(self) -> None:
        """Begin a new round."""
        self._left = _MOST
        self._refusals = []

    def may_ask(self) -> bool:
        """Return whether another request may be made in this round."""
        return self._left > 0 and self._clock.monotonic() >= self._due and not self.closed()

    def closed(self) -> str:
        """Return why no request may be made; "" when one may.

        A full disk is no reason, because deleting helps against it.
        """
        closed = self._gate.closed(but=HistoryFullError.code)
        if closed is None:
            return ""
        # Without a recording that probes, the cloud would keep the gate closed. Then a request may
        # be made when the next probe is due.
        has_no_probe = closed.cause == "cloud" and not self._history.open()
        if has_no_probe and self._clock.monotonic() >= (closed.next_probe or 0.0):
            return ""
        return closed.reason

    def ask(self, log: SyncLog) -> float | None:
        """Ask whether the object of a completed document is stored as the document says.

        Returns None when it is; else the seconds after which the request may be repeated.
        """
        self._left -= 1
        try:
            profile = self._profiles.load().get(log.asset_id)
            if profile is None:
                _log.debug(
                    "%s is not deleted: there is no profile of asset id %r to ask the cloud with",
                    log.path,
                    log.asset_id,
                    extra={"event": "unconfirmed", "document": log.id},
                )
                return self._delays.maximum
            stored = self._credentials.call(
                profile, lambda gateway, token: gateway.stored(profile, token, log)
            )
        except CloudError as error:
            return self._note_refusal(error)
        self._failures = 0
        if stored:
            return None
        self._log_missing(log)
        return _DAY_SECONDS

    def end(self) -> None:
        """End the round: log its refusals in one line, and let the next round wait after them."""
        if not self._refusals:
            return
        error = self._refusals[0]
        if any(not _is_of_one_recording(refusal) for refusal in self._refusals):
            self._failures += 1
            self._due = self._clock.monotonic() + self._delays.after(self._failures)
        _log.warning(
            "the cloud does not confirm uploads, so their recordings are not deleted: %s (%s)",
            error.message,
            error.hint or judge(error).hint,
            extra={"event": "unconfirmed"},
        )

    def _note_refusal(self, error: CloudError) -> float:
        """Note an error; return the seconds after which this recording may be asked about again."""
        self._refusals.append(error)
        if _is_of_one_recording(error):
            return _DAY_SECONDS
        if judge(error).kind == "offline":
            self._left = 0
            return 0.0
        # Another request may be answered: some stores forbid requests for objects that are missing.
        self._left -= _MOST // _MOST_REFUSALS
        return self._delays.maximum

    def _log_missing(self, log: SyncLog) -> None:
        """Log once for a document that its object is missing."""
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


def _is_of_one_recording(error: CloudError) -> bool:
    """Return whether an error concerns one recording only.

    Its session may belong to another bucket, platform or device, for example.
    """
    return judge(error).kind in ("counted", "final")
