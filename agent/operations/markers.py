"""Finds markers, and decides when each of them is handled.

A marker is a touch file by which an operator asks for something. It is handled once, whatever
happens, and is deleted only when what it asks for is durable. The history remembers inode and time
of a handled marker, in the transaction of the documents that the marker made. So a marker that is
seen again after a crash, or in a folder where nothing can be deleted, is known.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from agent.discovery.discover import Discover
from agent.gate.gate import Gate
from agent.model.errors import CloudError, HistoryFullError, WaitingError
from agent.model.ports import Clock, History
from agent.model.sync_log import Marker
from agent.model.touch_files import FIRST, REJECTED, REQUEST, RESCAN, RESYNC, target_of
from agent.model.values import Answer
from agent.operations import marker_file
from agent.operations.asset_binding import Bindings
from agent.operations.marker_answers import MarkerAnswers, is_accepted
from agent.operations.marker_batch import MarkerBatch, Rejection, remembered
from agent.operations.marker_file import MarkerRejectedError
from agent.operations.marker_removal import MarkerRemoval, RemovedMarkers
from agent.operations.pause_marker import hold_while_paused
from agent.operations.requests import BATCH, Requests
from agent.operations.waiting_marker import DiskVersion, FirstWaiting, RescanWanted, WaitingMarker

_log = logging.getLogger(__name__)

# How long an operator may take to write a reason into a marker.
_WRITING_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class MarkerReport:
    """The markers that an operator should know of.

    ``waiting`` are not handled yet, ``kept`` are handled and can't be deleted. ``rejected`` are the
    files with reasons in the markers' folder.
    """

    waiting: Sequence[Path] = ()
    kept: Sequence[Path] = ()
    rejected: Sequence[Path] = ()


class Markers:
    """Handles markers whenever :meth:`handle_due` is called, which is once a second.

    One thread calls the methods; any thread may call :meth:`waiting`, :meth:`report` and
    :meth:`check_pause`.
    """

    def __init__(
        self,
        *,
        folder: Path,
        history: History,
        requests: Requests,
        discover: Discover,
        gate: Gate,
        clock: Clock,
        rescan: Callable[[], None],
        bindings: Bindings,
    ) -> None:
        """Join the parts.

        Args:
            folder: Has the markers for episodes, ``pause``, ``rescan``, and the requests that
                commands left. :meth:`prepare` makes it.
            history: Remembers which markers were handled.
            requests: Does what markers ask for.
            discover: Sees the markers beside recordings, and knows which files have settled.
            gate: Is held while ``pause`` exists.
            clock: Its monotonic side counts.
            rescan: Requests a full scan.
            bindings: Binds robots to assets.
        """
        self._folder = folder
        self._history = history
        self._discover = discover
        self._gate = gate
        self._clock = clock
        self._rescan = rescan
        self._removal = MarkerRemoval(history)
        self._answers = MarkerAnswers(
            folder=folder,
            history=history,
            requests=requests,
            bindings=bindings,
            is_scanned=self._scanned,
            is_examined=self._is_examined,
        )
        self._waiting: dict[Path, WaitingMarker] = {}
        # How often a marker began or ceased to wait.
        self._waiting_changes = 0
        self._first_waiting = FirstWaiting(-1, ())
        # What discovery had learned when it was last decided which markers may be tried.
        self._disk = DiskVersion(-1, -1)
        self._rejected: set[Path] = set()
        # The number of scans after which the markers in the history were last looked up.
        self._scans_known: int | None = None
        # The marker ``rescan``, and the first full scan that begins after it was seen.
        self._rescan_wanted: RescanWanted | None = None

    def prepare(self) -> None:
        """Make the folder, for its owner and the group of the folder above; raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # A folder that another user made keeps the rights that it has.
        with suppress(PermissionError):
            os.chown(self._folder, -1, self._folder.parent.stat().st_gid)
            self._folder.chmod(0o2770)

    def handle_due(self) -> bool:
        """Handle the markers that can be handled now; return whether there is new work.

        Raises HistoryFullError.
        """
        self.check_pause()
        for path in (*self._remembered(), *self._in_folder(), *self._discover.markers()):
            self._see(path).recording_state = None
        before = self._disk
        self._disk = DiskVersion(self._discover.changes, self._discover.scans)
        disk_changed = self._disk != before
        due = deque(
            sorted(
                path
                for path, seen in self._waiting.items()
                if self._is_due(path, seen, disk_changed=disk_changed)
            )
        )
        for path in due:
            # The marker is tried again until there is an answer.
            self._waiting[path].recording_state = None
        has_work = False
        while due:
            has_work = self._handle_batch(due) or has_work
            # Very many markers take their time, and a pause must hold at once.
            self.check_pause()
        return has_work

    def check_pause(self) -> None:
        """Hold the gate while the marker ``pause`` is there."""
        hold_while_paused(self._folder, self._gate)

    def waiting(self, most: int) -> Sequence[Path]:
        """Return the first ``most`` markers that are not handled yet, by path.

        Thousands may wait, so the answer is kept until something changes. All callers must ask for
        the same number.
        """
        changes = self._waiting_changes
        if self._first_waiting.changes != changes:
            paths = heapq.nsmallest(most, tuple(self._waiting))
            self._first_waiting = FirstWaiting(changes, paths)
        return self._first_waiting.paths

    def report(self) -> MarkerReport:
        """Return the markers that are not simply handled and deleted."""
        # The copies are made together, so that they are of one moment.
        waiting, kept, rejected = tuple(self._waiting), self._removal.kept(), tuple(self._rejected)
        return MarkerReport(sorted(waiting), sorted(kept), sorted(rejected))

    # -- finding markers

    def _see(self, path: Path) -> WaitingMarker:
        """Let the marker at ``path`` wait, if it does not wait yet."""
        seen = self._waiting.get(path)
        if seen is None:
            ticket = self._discover.next_full_scan()
            seen = self._waiting[path] = WaitingMarker(self._clock.monotonic(), ticket)
            self._waiting_changes += 1
        return seen

    def _end_wait(self, path: Path) -> None:
        self._waiting.pop(path, None)
        self._waiting_changes += 1

    def _remembered(self) -> Iterator[Path]:
        """Return the markers in the history, once at the start and after each scan.

        They were handled and not deleted. They may be gone, or deletable, by now.
        """
        if self._scans_known != self._discover.scans:
            self._scans_known = self._discover.scans
            yield from (Path(marker.path) for marker in self._history.known_markers())

    def _in_folder(self) -> Iterator[Path]:
        """Return the markers in the markers' folder, and heed ``rescan``."""
        try:
            with os.scandir(self._folder) as listing:
                names = [entry.name for entry in listing]
        except OSError:
            return
        if RESCAN in names:
            self._look_at_rescan(marker_file.marker_at(self._folder / RESCAN))
        self._rejected = {self._folder / name for name in names if name.endswith(REJECTED)}
        for name in names:
            if name.endswith((RESYNC, FIRST, REQUEST)):
                yield self._folder / name

    def _look_at_rescan(self, marker: Marker | None) -> None:
        """Request a scan, and delete the marker once a scan that began after it was seen has ended.

        A marker that can't be deleted is heeded once.
        """
        if marker is None:
            return
        wanted = self._rescan_wanted
        if wanted is None or wanted.marker != marker:
            self._rescan_wanted = RescanWanted(marker, self._discover.next_full_scan())
            self._rescan()
        elif wanted.full_scan.done:
            with suppress(OSError):
                marker_file.unlink(marker)

    def _is_due(self, path: Path, seen: WaitingMarker, *, disk_changed: bool) -> bool:
        """Return whether a marker may be tried: it is new, or its recording has another state."""
        if seen.recording_state is None:
            return True
        return disk_changed and seen.recording_state != self._recording_state(path)

    def _recording_state(self, path: Path) -> object:
        """Return a value that changes when the file that a marker is for may be a recording now.

        Returns None where this can't be told.
        """
        target = target_of(path.name)
        if not target or path.parent == self._folder:
            return None
        # For a file that was not found yet, only a scan may tell something new.
        return self._discover.state(path.parent / target) or self._discover.scans

    # -- handling markers

    def _handle_batch(self, due: deque[Path]) -> bool:
        """Handle the next markers in one transaction; return whether one was handled."""
        batch = MarkerBatch(BATCH)
        with self._history.transaction():
            while due and batch.capacity > 0:
                path = due.popleft()
                try:
                    self._handle(path, batch)
                except HistoryFullError:
                    raise
                except Exception:  # noqa: BLE001 - an error of one marker must not stop the others
                    self._log_error(path)
        self._remove(batch)
        return bool(batch.handled)

    def _handle(self, path: Path, batch: MarkerBatch) -> None:
        batch.capacity -= 1
        marker = marker_file.marker_at(path)
        if marker is None:
            self._drop(path)
            return
        known = remembered(self._history, marker)
        if known is not None and known.through is None:
            batch.handled.append(known)
        elif not self._is_being_written(path):
            self._try(marker, known, batch)

    def _is_being_written(self, path: Path) -> bool:
        """Return whether an operator may still write a reason into the marker.

        This holds for a short time only: where leases don't work, open files can't be detected.
        """
        until = self._waiting[path].since + _WRITING_SECONDS
        return self._clock.monotonic() < until and marker_file.is_written(path)

    def _try(self, marker: Marker, known: Marker | None, batch: MarkerBatch) -> None:
        path = Path(marker.path)
        seen = self._waiting[path]
        state = self._recording_state(path)
        try:
            answer = self._answers.answer(marker, batch)
        except MarkerRejectedError as rejection:
            _reject(marker, known, str(rejection), batch)
            return
        except HistoryFullError:
            raise
        except (CloudError, WaitingError, OSError) as error:
            # The files of profiles and assets are not there yet.
            _log.debug("marker %s waits: %s", path, error, extra={"event": "marker_waits"})
            return
        except Exception:  # noqa: BLE001 - an error of one marker must not stop the others
            self._log_error(path)
            return
        if answer is None:
            seen.recording_state = state
        elif is_accepted(answer):
            self._accept(marker, answer, batch)
        else:
            _reject(marker, known, f"{answer.target}: {answer.message}", batch)

    def _accept(self, marker: Marker, answer: Answer, batch: MarkerBatch) -> None:
        self._history.mark_served(marker)
        batch.handled.append(marker)
        _log.info(
            "marker %s was handled: %s",
            marker.path,
            answer.message,
            extra={"event": "marker", "episode_id": answer.episode_id},
        )

    def _log_error(self, path: Path) -> None:
        """Log the exception that is being handled, once for each marker."""
        seen = self._see(path)
        if not seen.is_logged:
            _log.exception(
                "could not handle marker %s; it is tried again", path, extra={"event": "bug"}
            )
        seen.is_logged = True

    def _drop(self, path: Path) -> None:
        """Forget a marker that was taken back, or was deleted after it was handled."""
        self._end_wait(path)
        self._removal.forget(path)
        # Where the folder is gone, the marker lies on a disk that was taken out. Path.is_dir would
        # raise PermissionError.
        if os.path.isdir(path.parent):  # noqa: PTH112 - see above
            self._history.forget_marker(str(path))

    def _remove(self, batch: MarkerBatch) -> None:
        """Delete the markers of a batch; they no longer wait. Raises HistoryFullError."""
        removed = RemovedMarkers()
        for marker in batch.handled:
            self._end_wait(Path(marker.path))
            self._removal.delete_handled(marker, removed)
        for rejection in batch.rejected:
            self._end_wait(Path(rejection.marker.path))
            self._removal.replace_by_reason(rejection, removed)
        self._removal.finish(removed)

    # -- waiting for discovery

    def _is_examined(self, path: Path, folder: Path) -> bool:
        """Return whether all files below ``folder`` that are older than the marker are examined."""
        seen = self._waiting[path]
        if not self._discover.scans:
            return False
        seen.files_seen_at = min(seen.files_seen_at, self._clock.monotonic())
        return not self._discover.unsettled(folder, seen.files_seen_at)

    def _scanned(self, path: Path) -> bool:
        """Return whether a full scan that began after the marker was seen has ended.

        Requests such a scan until one has begun.
        """
        ticket = self._waiting[path].full_scan
        if not ticket.begun:
            self._rescan()
        return ticket.done


def _reject(marker: Marker, known: Marker | None, why: str, batch: MarkerBatch) -> None:
    """Reject a marker. Where the reason can't be written, the log says so once.

    The marker is then handled again after the next scan.
    """
    is_logged = known is not None and known.said
    batch.rejected.append(Rejection(replace(marker, through="", said=is_logged), why))
