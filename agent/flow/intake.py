"""The one door that makes documents: what is found, asked for or mended becomes a chain here, or is known already."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.flow.identity import episode_id
from agent.model.nouns import Damaged, Fault, Recording, SyncLog, Trigger, utc_text
from agent.model.ports import Clock, History

_log = logging.getLogger(__name__)

_BY_SIDECAR = frozenset({"sidecar_invalid", "sidecar_missing", "tag_conflict", "tag_limit"})
_BY_FILE = frozenset({"gone", "replaced", "not_regular", "not_in_root"})
_BY_FOLDER = frozenset({"folder_missing", "compressing"})


class Intake:
    """Decides whether what was found is new. One recording is one fingerprint, whatever its names."""

    def __init__(self, *, history: History, clock: Clock, device_id: str, snapshot: Callable[[Recording], str]) -> None:
        """``snapshot`` gives the asset id that a recording has when it is found, "" when none is known."""
        self._history = history
        self._clock = clock
        self._device_id = device_id
        self._snapshot = snapshot

    def accept(self, found: Recording | Damaged) -> SyncLog | None:
        """Make or wake the document of what was found; None when nothing is to be done. Raises HistoryFullError."""
        with self._history.transaction():  # nobody moves the document between the look and the deed
            if isinstance(found, Damaged):
                return self._record_damage(found)
            newest = self._history.newest(str(found.fingerprint))
            if newest is None:
                return self._queue(found, "discovered")
            code = newest.error.code if newest.error else ""
            if newest.open:
                waits = newest.status == "failed" and code in _BY_FOLDER
                return self._history.move(newest.id, "asked") if waits else None
            if newest.status == "failed" and code in _BY_FILE:
                return self._queue(found, "discovered")
            mended = (found.sidecar_sha256, str(found.path)) != (newest.sidecar_sha256, newest.path)
            if newest.status == "failed" and code in _BY_SIDECAR and mended:
                return self._queue(found, "cause-changed")
            return None

    def _queue(self, recording: Recording, trigger: Trigger) -> SyncLog:
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
                queued_at=utc_text(self._clock.now()),
                device_id=self._device_id,
                asset_id=self._snapshot(recording),
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
                error=Fault("final", "damaged", found.reason, "mend the file (`mcap recover`) or delete it"),
            )
        )
        _log.error(
            "%s is damaged: %s", found.path, found.reason, extra={"event": "damaged", "episode_id": log.episode_id}
        )
        return log
