"""Decides which uploaded recordings are deleted from this disk, and when.

A recording is deleted some time after its upload, or earlier when space is short. The history is
only read.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.model.ports import Clock, History
from agent.retention.clock_safe_age import ClockSafeAge
from agent.retention.confirm import Confirm
from agent.retention.deletion import Deletion
from agent.retention.recording_deletion import RecordingDeletion
from agent.retention.uploaded_recordings import UploadedRecording, UploadedRecordings
from agent.retention.verify import Verify

_log = logging.getLogger(__name__)

_GIB = 1024**3

# Comparing files with their uploads takes long. After this time no other file is begun, so that
# the free space is measured again.
_ROUND_SECONDS = 60.0

# Returns the device that a folder is on, and the bytes free there; raises OSError.
Free = Callable[[Path], tuple[int, float]]


def free_space(folder: Path) -> tuple[int, float]:
    """Return the device of a folder and the bytes that programs without special rights may write.

    Raises OSError.
    """
    space = os.statvfs(folder)
    return folder.stat().st_dev, space.f_bavail * space.f_frsize


class Retention:
    """Deletes recordings that have been kept long enough, and the oldest ones when space is short.

    One thread at a time calls :meth:`delete_due` every few seconds. A call costs little while
    nothing may be deleted. Any thread may call :meth:`stop` and :meth:`kept`.
    """

    def __init__(
        self,
        *,
        history: History,
        confirm: Confirm,
        deletion: Deletion,
        age: ClockSafeAge,
        clock: Clock,
        names: Callable[[str], Sequence[Path]],
        there: Callable[[], Callable[[str], bool]],
        busy: Callable[[str], bool],
        roots: Sequence[Path],
        keep_seconds: float | None,
        min_free: float,
        free: Free = free_space,
    ) -> None:
        """Join the parts.

        Args:
            history: Says what is uploaded.
            confirm: Asks the cloud whether an object is stored.
            deletion: Deletes single files.
            age: Says how long ago an upload was.
            clock: Its monotonic side counts.
            names: Returns the paths at which the bytes of a fingerprint are now.
            there: Returns a test whether a file with a fingerprint is on the disk.
            busy: Returns whether a fingerprint is in flight.
            roots: The watched folders.
            keep_seconds: How long a recording is kept after its upload; None for ever.
            min_free: Bytes. While less is free, the oldest recordings are deleted. 0 for never.
            free: Measures a file system.
        """
        self._history = history
        self._confirm = confirm
        self._age = age
        self._clock = clock
        self._roots = roots
        self._keep_seconds = keep_seconds
        self._min_free = min_free
        self._free = free
        self._verify = Verify(clock.now)
        self._uploaded = UploadedRecordings(history, clock, there)
        self._recordings = RecordingDeletion(
            history=history,
            confirm=confirm,
            deletion=deletion,
            verify=self._verify,
            clock=clock,
            names=names,
            busy=busy,
            stopped=self._is_stopped,
        )
        self._working = threading.Lock()
        self._stopped = False
        # The documents of recordings that have been kept long enough.
        self._kept_long: deque[int] = deque()
        # By device: in how many rounds in a row space was short and nothing could be deleted.
        self._short_rounds: Counter[int] = Counter()

    def stop(self, seconds: float) -> bool:
        """Delete nothing more; return whether the work under way has ended within ``seconds``."""
        self._stopped = True
        if not self._working.acquire(timeout=seconds):
            return False
        self._working.release()
        return True

    def kept(self) -> Sequence[dict[str, Any]]:
        """Return the files that stay because their bytes are not proven to be uploaded; JSON."""
        return self._verify.kept()

    def delete_due(self) -> None:
        """Delete the recordings that may be deleted now."""
        with self._working:
            if self._stopped:
                return
            began = self._clock.monotonic()
            self._age.observe_clocks()
            short = dict(self._short_devices())
            if short or self._keep_seconds is not None:
                self._read_uploaded()
            self._confirm.begin()
            for device, root in short.items():
                self._make_space(device, root)
            self._delete_kept_long(began + _ROUND_SECONDS)
            self._confirm.end()

    def _is_stopped(self) -> bool:
        return self._stopped

    def _may_continue(self) -> bool:
        return not self._stopped and self._confirm.may_ask()

    # -- by time

    def _read_uploaded(self) -> None:
        """Read which recordings are uploaded, if it is time, and which were kept long enough."""
        if self._uploaded.read_if_due(self._is_stopped):
            self._verify.keep(self._uploaded.ids())
            self._kept_long = deque(
                id_ for id_, recording in self._uploaded.ready() if self._is_kept_long(recording)
            )

    def _is_kept_long(self, recording: UploadedRecording) -> bool:
        """Return whether a recording has been kept for as long as the settings ask."""
        if self._keep_seconds is None:
            return False
        seconds = self._age.seconds_since(recording.completed_at, recording.seen)
        return seconds is not None and seconds >= self._keep_seconds

    def _delete_kept_long(self, until: float) -> None:
        """Delete recordings that were kept long enough; begin none after the time ``until``."""
        while self._kept_long and self._may_continue() and self._clock.monotonic() < until:
            id_ = self._kept_long.popleft()
            recording = self._uploaded.get(id_)
            if recording is not None and self._is_kept_long(recording):
                self._delete(id_, recording, "retention.keep_hours have passed")

    def _delete(
        self, id_: int, recording: UploadedRecording, reason: str, device: int | None = None
    ) -> int:
        """Delete a recording, on ``device`` alone where one is given; return the bytes freed."""
        result = self._recordings.delete(id_, recording, reason, device)
        if result.is_gone:
            self._uploaded.remove(id_)
        return result.freed

    # -- by space

    def _short_devices(self) -> Iterator[tuple[int, Path]]:
        """Return the devices with too little free space, each with a watched folder on it."""
        if not self._min_free:
            return
        for root in self._roots:
            # A disk that is taken out is not short of space.
            with suppress(OSError):
                device, free = self._free(root)
                if free < self._min_free:
                    yield device, root
                else:
                    self._short_rounds.pop(device, None)

    def _make_space(self, device: int, root: Path) -> None:
        """Delete the oldest recordings on ``device`` one by one, until enough is free."""
        lacking, freed = self._lacking(root), 0
        for id_, recording in self._uploaded.ready(device):
            # Some file systems need a while to show freed space, so deleted bytes count at once.
            if freed >= lacking or self._lacking(root) <= 0 or not self._may_continue():
                break
            reason = "less than retention.min_free_gib was free"
            freed += self._delete(id_, recording, reason, device)
        if freed:
            self._short_rounds.pop(device, None)
        elif not self._stopped:
            self._log_shortage(device, root)

    def _lacking(self, root: Path) -> float:
        """Return how many bytes of free space are missing; 0 where that can't be measured."""
        try:
            return self._min_free - self._free(root)[1]
        except OSError:
            return 0.0

    def _log_shortage(self, device: int, root: Path) -> None:
        """Log once that nothing can be deleted, when that is so in the second round in a row.

        In the first round after a start discovery may not have found the recordings yet.
        """
        self._short_rounds[device] += 1
        if self._short_rounds[device] != 2:
            return
        reasons = [f"{len(self._history.open())} recordings are not uploaded yet"]
        if len(self._uploaded):
            reasons.append(f"{len(self._uploaded)} uploaded ones can't be deleted now")
        if closed := self._confirm.closed():
            reasons.append(f"the cloud is not asked: {closed}")
        _log.warning(
            "%.2f GiB less than retention.min_free_gib are free below %s, "
            "and nothing may be deleted: %s",
            self._lacking(root) / _GIB,
            root,
            "; ".join(reasons),
            extra={"event": "space_short", "path": str(root)},
        )
