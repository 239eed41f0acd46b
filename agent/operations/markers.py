"""Touch files → requests. A marker goes only when what it asks for is durable, and is served once whatever happens.

What was served is written down with inode and time of the marker, in the transaction of the documents that it made.
So one that is seen again, after a crash or in a folder where nothing can be removed, is known.
"""

from __future__ import annotations

import heapq
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.discovery.discover import Discover
from agent.discovery.scan_schedule import FullScanTicket
from agent.gate.gate import Gate
from agent.model.errors import CloudError, HistoryFullError, RefusedError, WaitingError
from agent.model.ports import Clock, History
from agent.model.sync_log import Marker
from agent.model.touch_files import FIRST, PAUSE, REJECTED, REQUEST, RESCAN, RESYNC, target_of
from agent.model.values import Answer, Ask
from agent.operations import marker_file as touched
from agent.operations.asset_binding import Bindings
from agent.operations.marker_file import Binding, MarkerRejectedError, MarkerRequest
from agent.operations.requests import BATCH, Requests, is_folder

_log = logging.getLogger(__name__)

_WRITING = 10.0  # seconds that somebody may write a reason


@dataclass(slots=True)
class _Seen:
    """A marker that is not served yet. There may be 10,000 of them."""

    since: float  # monotonic time when it was first seen
    # The first full scan that begins after the marker was seen.
    full_scan: FullScanTicket
    looked: float = math.inf  # monotonic time when all that lay there before it had been seen
    stood: object = None  # how its recording stood when it was tried
    broken: bool = False  # by a mistake in the agent


@dataclass(frozen=True, slots=True)
class MarkerReport:
    """What of the markers an operator should know of."""

    waiting: Sequence[Path] = ()
    kept: Sequence[Path] = ()  # served, and can't be removed
    rejected: Sequence[Path] = ()  # reasons in the markers' folder


@dataclass(slots=True)
class _Batch:
    """What one transaction came to."""

    room: int  # for documents
    served: list[Marker] = field(default_factory=list)
    refused: list[tuple[Marker, str]] = field(default_factory=list)


class Markers:
    """Looks when :meth:`look` is called, once a second; by one thread."""

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
        """Look at nothing yet.

        Args:
            folder: Markers by episode, ``pause``, ``rescan``, and what commands left; made by :meth:`prepare`.
            history: Remembers what was served.
            requests: Do what is asked for.
            discover: Has seen the markers beside recordings, and knows what has settled.
            gate: Held while ``pause`` exists.
            clock: Its monotonic clock.
            rescan: Has everything looked at.
            bindings: For what commands left.
        """
        self._folder = folder
        self._history = history
        self._requests = requests
        self._discover = discover
        self._gate = gate
        self._clock = clock
        self._rescan = rescan
        self._bindings = bindings
        self._waiting: dict[Path, _Seen] = {}
        self._comings = 0  # and goings
        self._named: tuple[int, Sequence[Path]] = -1, ()  # the first of them, after so many
        self._looked = (
            -1,
            -1,
        )  # changes of what is known of the disk, and scans, when it was seen who may go on
        self._kept: dict[Path, Marker] = {}
        self._rejected: set[Path] = set()
        self._scans_known: int | None = (
            None  # scans that had ended when what is remembered was last looked at
        )
        # The rescan marker, and the first full scan that begins after it was seen.
        self._rescans: tuple[Marker, FullScanTicket] | None = None

    def prepare(self) -> None:
        """Make the folder, for its owner and the group of the folder above; raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # somebody else made it, and as he wanted it
            os.chown(self._folder, -1, self._folder.parent.stat().st_gid)
            self._folder.chmod(0o2770)

    def look(self) -> bool:
        """Serve what can be served now; tells whether there is new work. Raises HistoryFullError."""
        self.look_at_pause()
        for path in (*self._remembered(), *self._in_folder(), *self._discover.markers()):
            self._see(path).stood = None
        looked = self._discover.changes, self._discover.scans
        same, self._looked = looked == self._looked, looked
        due = deque(
            sorted(
                path
                for path, seen in self._waiting.items()
                if self._may_go_on(path, seen, same=same)
            )
        )
        new = False
        for path in due:
            self._waiting[path].stood = None  # until there is an answer
        while due:
            new = self._serve(due) or new
            self.look_at_pause()  # very many markers take their time
        return new

    def look_at_pause(self) -> None:
        """Hold the gate while the marker is there."""
        if os.path.lexists(self._folder / PAUSE):
            hint = f"remove {self._folder / PAUSE}, or keystone-agent resume"
            if self._gate.hold(PAUSE, "an operator paused the agent", hint):
                _log.info(
                    "uploads pause: %s is there", self._folder / PAUSE, extra={"event": "pause"}
                )
        elif self._gate.release(PAUSE):
            _log.info("uploads go on: the pause marker is gone", extra={"event": "resume"})

    def waiting(self, most: int) -> Sequence[Path]:
        """The first of those that are not served yet, by path; always ask for as many. Thousands may wait."""
        comings = self._comings
        if self._named[0] != comings:
            self._named = comings, heapq.nsmallest(most, tuple(self._waiting))
        return self._named[1]

    def report(self) -> MarkerReport:
        """What is not as simple as served and gone."""
        waiting, kept, rejected_ = (
            tuple(self._waiting),
            tuple(self._kept),
            tuple(self._rejected),
        )  # of one moment
        return MarkerReport(sorted(waiting), sorted(kept), sorted(rejected_))

    # -- seeing

    def _see(self, path: Path) -> _Seen:
        """Begin to wait for what this marker asks for."""
        seen = self._waiting.get(path)
        if seen is None:
            seen = self._waiting[path] = _Seen(
                self._clock.monotonic(), self._discover.next_full_scan()
            )
            self._comings += 1
        return seen

    def _leave(self, path: Path) -> None:
        """Wait no longer."""
        self._waiting.pop(path, None)
        self._comings += 1

    def _remembered(self) -> Iterator[Path]:
        """What was served and not removed, at the start and after each scan: it may be gone or go now."""
        if self._scans_known != self._discover.scans:
            self._scans_known = self._discover.scans
            yield from (Path(marker.path) for marker in self._history.known_markers())

    def _in_folder(self) -> Iterator[Path]:
        try:
            with os.scandir(self._folder) as listing:
                names = [entry.name for entry in listing]
        except OSError:
            return
        if RESCAN in names:
            self._look_at_rescan(touched.seen(self._folder / RESCAN))
        self._rejected = {self._folder / name for name in names if name.endswith(REJECTED)}
        for name in names:
            if name.endswith((RESYNC, FIRST, REQUEST)):
                yield self._folder / name

    def _look_at_rescan(self, marker: Marker | None) -> None:
        """Removed after a scan that began after it was seen; one that can't be removed is not heeded again."""
        if marker is None:
            return
        if self._rescans is None or self._rescans[0] != marker:
            self._rescans = marker, self._discover.next_full_scan()
            self._rescan()
        elif self._rescans[1].done:
            with suppress(OSError):
                touched.unlink(marker)

    def _may_go_on(self, path: Path, seen: _Seen, *, same: bool) -> bool:
        """Whether anything has changed for a marker that waits for its recording; ``same``: nothing on the disk."""
        return seen.stood is None or not (same or seen.stood == self._how_it_stands(path))

    def _how_it_stands(self, path: Path) -> object:
        """Changes whenever the recording that a marker is for may have become one; None where nobody can say."""
        target = target_of(path.name)
        if not target or path.parent == self._folder:
            return None
        # A scan tells something new only of what was not found before.
        return self._discover.state(path.parent / target) or self._discover.scans

    # -- serving

    def _serve(self, due: deque[Path]) -> bool:
        """Serve the next ones in one transaction."""
        batch = _Batch(BATCH)
        with self._history.transaction():
            while due and batch.room > 0:
                path = due.popleft()
                try:
                    self._serve_one(path, batch)
                except HistoryFullError:
                    raise
                except Exception:  # noqa: BLE001 - one marker's trouble is not the others'
                    self._note_mistake(path)
        self._remove(batch)
        return bool(batch.served)

    def _serve_one(self, path: Path, batch: _Batch) -> None:
        batch.room -= 1
        marker = touched.seen(path)
        if marker is None:
            self._drop(path)
            return
        known = self._known(marker)
        if known is not None and known.through is None:
            batch.served.append(known)
        elif not self._is_written(path):
            self._try(marker, known, batch)

    def _is_written(self, path: Path) -> bool:
        """Whether its reason is still being written. Not for long: where leases don't work nobody can say."""
        return self._clock.monotonic() < self._waiting[
            path
        ].since + _WRITING and touched.is_written(path)

    def _try(self, marker: Marker, known: Marker | None, batch: _Batch) -> None:
        path = Path(marker.path)
        seen = self._waiting[path]
        stood = self._how_it_stands(path)
        try:
            answer = self._answer(marker, path, batch)
        except MarkerRejectedError as refused:
            self._refuse(marker, known, str(refused), batch)
            return
        except HistoryFullError:
            raise
        except (
            CloudError,
            WaitingError,
            OSError,
        ) as error:  # of profiles and assets that are not there yet
            _log.debug("%s waits: %s", path, error, extra={"event": "marker_waits"})
            return
        except Exception:  # noqa: BLE001 - one marker's trouble is not the others'
            self._note_mistake(path)
            return
        if answer is None:
            seen.stood = stood
            return
        if answer.status in _GOOD:
            self._history.mark_served(marker)
            batch.served.append(marker)
            _log.info(
                "served %s: %s",
                path,
                answer.message,
                extra={"event": "marker", "episode_id": answer.episode_id},
            )
        else:
            self._refuse(marker, known, f"{answer.target}: {answer.message}", batch)

    def _note_mistake(self, path: Path) -> None:
        """Log the exception that is being handled, once for each marker."""
        seen = self._see(path)
        if not seen.broken:
            _log.exception("could not serve %s; it is tried again", path, extra={"event": "bug"})
        seen.broken = True

    def _refuse(self, marker: Marker, known: Marker | None, why: str, batch: _Batch) -> None:
        """One whose reason can't be left beside it is answered again after the next scan, and said no more."""
        batch.refused.append(
            (replace(marker, through="", said=known is not None and known.said), why)
        )

    def _known(self, marker: Marker) -> Marker | None:
        """What is remembered of this very marker, not of one that was there before."""
        known = self._history.marker(marker.path)
        same = known is not None and (known.inode, known.mtime_ns) == (
            marker.inode,
            marker.mtime_ns,
        )
        return known if same else None

    def _drop(self, path: Path) -> None:
        """Somebody took it back, or removed it after it was served."""
        self._leave(path)
        self._kept.pop(path, None)
        # Otherwise it lies on a disk that was taken out. Path.is_dir would raise PermissionError.
        if os.path.isdir(path.parent):  # noqa: PTH112
            self._history.forget_marker(str(path))

    def _answer(self, marker: Marker, path: Path, batch: _Batch) -> Answer | None:
        """What became of it; None while it has to wait. Raises UnservedError."""
        if path.name.endswith(REQUEST):
            return self._of_request(marker, path, batch)
        ask, target = _FIRST if path.name.endswith(FIRST) else _RESYNC, target_of(path.name) or ""
        reason = touched.reason_in(path) if ask == "resync" else ""
        if path.parent == self._folder:
            return self._once_looked(
                path, self._requests.episode(target, ask=ask, trigger="marker", reason=reason)
            )
        if not target:
            return self._of_folder(marker, path.parent, MarkerRequest(ask, "marker", reason), batch)
        found = self._requests.at(path.parent / target, ask=ask, trigger="marker", reason=reason)
        if isinstance(found, Answer):
            return found
        if found.why == "unknown" and self._scanned(path):
            raise MarkerRejectedError(f"{found.path}: {found.message}")
        return None

    def _of_folder(
        self, marker: Marker, folder: Path, wish: MarkerRequest, batch: _Batch
    ) -> Answer | None:
        """All that lies there; in transactions of its own where there is much, each with how far it has come."""
        path, known = Path(marker.path), self._known(marker)
        if not self._scanned(path) or not self._looked_at(path, folder):
            return None
        through = (known.through if known else None) or ""
        paths = [below for below in self._requests.below(folder) if str(below) > through]
        if not paths and not through:
            raise MarkerRejectedError(f"there is no finished recording in {folder} or below")
        some, rest = paths[: max(1, batch.room)], paths[max(1, batch.room) :]
        batch.room -= len(some)
        list(self._requests.each(some, ask=wish.ask, trigger=wish.trigger, reason=wish.reason))
        if rest:
            self._history.mark_served(replace(marker, through=str(some[-1])))
            return None
        return Answer(str(folder), "accepted", "all recordings of the folder")

    def _of_request(self, marker: Marker, path: Path, batch: _Batch) -> Answer | None:
        """What a command left while no agent ran."""
        asked = touched.request_in(path)
        if isinstance(asked, Binding):
            return self._bound(asked)
        if is_folder(asked.target):
            return self._of_folder(marker, Path(asked.target), asked, batch)
        answers = self._requests.ask(
            asked.target, ask=asked.ask, trigger=asked.trigger, reason=asked.reason
        )
        return self._once_looked(path, answers)

    def _bound(self, asked: Binding) -> Answer:
        try:
            if asked.asset is None:
                self._bindings.unbind(asked.robot)
            else:
                self._bindings.bind(asked.robot, asked.asset)
        except RefusedError as error:
            raise MarkerRejectedError(f"{asked.robot}: {error.message}; {error.hint}") from error
        return Answer(asked.robot, "accepted", f"bound to {asked.asset or 'no asset'}")

    # -- waiting

    def _once_looked(self, path: Path, answers: Sequence[Answer]) -> Answer | None:
        """What was answered; a refusal counts only when all that lay there at the start has been looked at."""
        answer = _first_of(answers)
        return answer if answer.status in _GOOD or self._looked_at(path, Path("/")) else None

    def _looked_at(self, path: Path, folder: Path) -> bool:
        """Whether nothing in ``folder`` and below is still settling from before the marker was seen."""
        seen = self._waiting[path]
        if not self._discover.scans:
            return False
        seen.looked = min(seen.looked, self._clock.monotonic())
        return not self._discover.unsettled(folder, seen.looked)

    def _scanned(self, path: Path) -> bool:
        """Return whether a full scan that began after the marker was seen has ended.

        Requests such a scan until one has begun.
        """
        ticket = self._waiting[path].full_scan
        if not ticket.begun:
            self._rescan()
        return ticket.done

    # -- removing

    def _remove(self, batch: _Batch) -> None:
        """Take away what is served or refused, durably, and forget it; what can't be removed is said once."""
        gone, kept = [], []
        for marker, why in (*((marker, "") for marker in batch.served), *batch.refused):
            path = Path(marker.path)
            self._leave(path)
            try:
                if why:
                    self._leave_reason(marker, why)
                touched.unlink(marker)
            except OSError as error:
                self._kept[path] = marker
                if not marker.said:
                    self._say_kept(path, error, refused=bool(why))
                    kept.append(replace(marker, said=True))
            else:
                self._kept.pop(path, None)
                gone.append(marker)
        back = {
            folder
            for folder in {Path(marker.path).parent for marker in gone}
            if not touched.is_synced(folder)
        }
        known = (marker.path for marker in gone if self._history.marker(marker.path))
        over = [path for path in known if Path(path).parent not in back]
        if not over and not kept:
            return
        with self._history.transaction():
            for marker in kept:
                self._history.mark_served(marker)
            for name in over:
                self._history.forget_marker(name)

    def _leave_reason(self, marker: Marker, why: str) -> None:
        """Put the reason beside the marker. Raises OSError."""
        path = Path(marker.path)
        if not marker.said:
            _log.warning(
                "rejected %s: %s", path, why, extra={"event": "marker_rejected", "path": str(path)}
            )
        touched.leave_reason(path, why)

    def _say_kept(self, path: Path, error: OSError, *, refused: bool) -> None:
        why = error.strerror or str(error)
        text = "served %s, but it can't be removed (%s): remove it yourself, or leave it: it is not served again"
        if refused:
            text = "%s can't be replaced by its reason: %s"
        _log.warning(text, path, why, extra={"event": "marker_kept", "path": str(path)})


_FIRST: Ask = "first"
_RESYNC: Ask = "resync"
_GOOD = ("accepted", "already_queued")


def _first_of(answers: Sequence[Answer]) -> Answer:
    """One answer for all: a good one if there is any."""
    good = [answer for answer in answers if answer.status in _GOOD]
    return (good or list(answers))[0]
