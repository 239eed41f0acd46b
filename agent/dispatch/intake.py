"""The one door that makes documents: what is found, asked for or mended becomes a chain here, or is known already."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container
from contextlib import AbstractContextManager

from agent.cloud.identity import episode_id
from agent.model.ports import Clock, History
from agent.model.sync_log import Fault, SyncLog, Trigger
from agent.model.values import Answer, Ask, Damaged, Recording, utc_text

_log = logging.getLogger(__name__)

_LONGEST_REASON = 1000  # characters
_BY_SIDECAR = frozenset({"sidecar_invalid", "sidecar_missing", "tag_conflict", "tag_limit"})
_BY_FILE = frozenset({"gone", "replaced", "not_regular", "not_in_root"})
_BY_FOLDER = frozenset({"folder_missing", "compressing"})


class Intake:
    """Decides whether what was found is new. One recording is one fingerprint, whatever its names."""

    def __init__(
        self,
        *,
        history: History,
        clock: Clock,
        device_id: str,
        snapshot: Callable[[Recording], str],
        auto: bool = True,
        again: Container[int] = (),
    ) -> None:
        """Make nothing yet.

        Args:
            history: Where documents are made.
            clock: Dates them.
            device_id: This robot's own id.
            snapshot: Gives the asset id that a recording has when it is found, "" when none is known.
            auto: Whether what is found is queued; else it waits until somebody asks for it.
            again: Ids of documents that failed for good and are tried once more where their recordings are found.
        """
        self._history = history
        self._clock = clock
        self._device_id = device_id
        self._snapshot = snapshot
        self._auto = auto
        self._again = again
        self._unasked: set[int] = set()  # hashes of fingerprints
        self._highest: int | None = None  # that a document was put ahead

    @property
    def unasked(self) -> int:
        """How many recordings wait for somebody to ask for them."""
        return len(self._unasked)

    def together(self) -> AbstractContextManager[None]:
        """What is accepted inside becomes durable at its end, at the price of one: all or none."""
        return self._history.transaction()

    def accept(self, found: Recording | Damaged) -> SyncLog | None:
        """Make or wake the document of what was found; None when nothing is to be done. Raises HistoryFullError."""
        with self._history.transaction():  # nobody moves the document between the look and the deed
            if isinstance(found, Damaged):
                return self._record_damage(found)
            newest = self._history.newest(str(found.fingerprint))
            if newest is None:
                return self._queue_if_wanted(found)
            if newest.open:
                waits = (
                    newest.status == "failed"
                    and newest.error is not None
                    and newest.error.code in _BY_FOLDER
                )
                return self._history.move(newest.id, "asked") if waits else None
            trigger = self._cause(found, newest)
            synced = self._history.synced(
                str(found.fingerprint)
            )  # then it was a resync that failed
            return self._queue(found, trigger, resync=synced) if trigger else None

    def _cause(self, found: Recording, newest: SyncLog) -> Trigger | None:
        """What has changed since the recording failed for good, so that it is worth another try."""
        code = newest.error.code if newest.error else ""
        if newest.status != "failed":
            return None
        if code in _BY_FILE:
            return "discovered"
        mended = (found.sidecar_sha256, str(found.path)) != (newest.sidecar_sha256, newest.path)
        if code in _BY_SIDECAR and mended:
            return "cause-changed"
        return "upgrade" if newest.id in self._again else None

    def ask(self, found: Recording, *, trigger: Trigger, ask: Ask, reason: str = "") -> Answer:
        """Do with a recording what an operator asks for: ``resync`` sends it again, ``first`` sends it next.

        What waits or runs already is not queued twice; what has ended gets a new document, and the old one stays as
        it is. Raises HistoryFullError.
        """
        target, fingerprint = str(found.path), str(found.fingerprint)
        with self._history.transaction():
            newest, synced = self._history.newest(fingerprint), self._history.synced(fingerprint)
            if newest is not None and newest.open:
                return self.hurry(newest, target, ask)
            if ask == "first" and synced and (newest is None or newest.synced):
                return Answer(
                    target,
                    "rejected",
                    "it is uploaded already; a resync sends it again",
                    episode_id(found),
                )
            log = self._queue(found, trigger, reason=reason, resync=synced)
            if ask == "first":
                self._history.amend(log.id, ahead=self._front())
            return Answer(target, "accepted", "queued", log.episode_id)

    def hurry(self, log: SyncLog, target: str, ask: Ask) -> Answer:
        """What an open document makes of being asked for: one that waits for its date is due now.

        To be called within a transaction of the history.
        """
        waited = log.status == "failed"
        if waited:
            log = self._history.move(log.id, "asked")
        if ask == "first":
            self._history.amend(log.id, ahead=self._front())
            return Answer(target, "accepted", "it goes next", log.episode_id)
        if waited:
            return Answer(target, "accepted", "it is tried again now", log.episode_id)
        return Answer(
            target, "already_queued", "it is queued or being uploaded already", log.episode_id
        )

    def _front(self) -> int:
        """Ahead of all that were put ahead before."""
        if self._highest is None:  # looked for once: thousands may be put ahead at once
            self._highest = max((log.ahead for log in self._history.open()), default=0)
        self._highest += 1
        return self._highest

    def _queue_if_wanted(self, found: Recording) -> SyncLog | None:
        if self._history.synced(str(found.fingerprint)):
            return None  # long ago: its documents are forgotten
        if self._auto:
            return self._queue(found, "discovered")
        self._unasked.add(hash(found.fingerprint))
        return None

    def _queue(
        self, recording: Recording, trigger: Trigger, *, reason: str = "", resync: bool = False
    ) -> SyncLog:
        self._unasked.discard(hash(recording.fingerprint))
        log = self._history.add(
            SyncLog(
                id=0,
                episode_id=episode_id(recording),
                path=str(recording.path),
                file_size=recording.size,
                mtime=utc_text(recording.mtime_ns / 1e9),
                fingerprint=str(recording.fingerprint),
                sidecar_sha256=recording.sidecar_sha256,
                trigger=trigger,
                reason=reason[:_LONGEST_REASON],
                resync=resync,
                queued_at=utc_text(self._clock.now()),
                device_id=self._device_id,
                asset_id=self._snapshot(recording),
                owner=recording.owner,
            )
        )
        _log.info(
            "queued %s (%d bytes)",
            recording.path,
            recording.size,
            extra={"event": "queued", "episode_id": log.episode_id, "document": log.id},
        )
        return log

    def _record_damage(self, found: Damaged) -> SyncLog | None:
        """Once for a path: a broken file that goes on changing is not reported again and again."""
        before = self._history.at_path(found.path)
        if before and before[0].error is not None and before[0].error.code == "damaged":
            return None
        if self._history.newest(str(found.fingerprint)) is not None:
            return None
        now = utc_text(self._clock.now())
        log = self._history.add(
            SyncLog(
                id=0,
                episode_id=f"{found.path.stem}-{found.fingerprint.short}",
                path=str(found.path),
                file_size=found.fingerprint.size,
                mtime=utc_text(found.mtime_ns / 1e9),
                fingerprint=str(found.fingerprint),
                queued_at=now,
                status="failed",
                device_id=self._device_id,
                error=Fault(
                    "final", "damaged", found.reason, "mend the file (`mcap recover`) or delete it"
                ),
            )
        )
        _log.error(
            "%s is damaged: %s",
            found.path,
            found.reason,
            extra={"event": "damaged", "episode_id": log.episode_id},
        )
        return log
