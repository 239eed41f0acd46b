"""Finds what is complete below the watched folders: sightings and scans in, settled recordings out.

Sightings only say where to look sooner; a scan is the truth. A file must be found unchanged by two looks of our own,
``settle_seconds`` apart on the monotonic clock, before it is examined. What is done with costs a scan its name, and
one scan in five a stat.
"""

# Paths are plain text here: a scan goes over 100,000 files, and a Path for each would be most of its cost.
# ruff: noqa: PTH100, PTH112, PTH114, PTH116, PTH118

from __future__ import annotations

import logging
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from agent.discovery.error_log import Mistakes
from agent.discovery.examine import COMPRESSED, Examiner, NotYet, SidecarRule, has_writer
from agent.discovery.file_table import QUIET, FileRow, FileTable, State, mark_of, stamp_of
from agent.discovery.report import DiskReport, report_of
from agent.discovery.timer_queue import Batch, TimerQueue
from agent.discovery.walk import (
    GONE,
    MISTAKE,
    NameFilter,
    WalkEntry,
    WalkResult,
    is_below,
    related,
    sidecar_name,
    tell,
    tops,
    walk,
)
from agent.model.errors import FileChangedError, RecordingError
from agent.model.ports import Clock
from agent.model.values import Damaged, Recording, Sighting

_log = logging.getLogger(__name__)

_SETTLE_COMPRESSED = 60.0  # seconds; a compressor has no end mark that could be checked
_REST, _LONGEST_REST = (
    150.0,
    300.0,
)  # times its CPU seconds until the next scan, 0.7 % of a core; seconds at most
_LOOKS = 256  # in one step, so that the first of very many files go on their way soon


class Discover:
    """Used by one finder thread (``step``); every other method may be called from any thread."""

    def __init__(
        self,
        examiner: Examiner,
        clock: Clock,
        *,
        roots: Sequence[Path],
        include: Sequence[str],
        exclude: Sequence[str],
        settle_seconds: float,
        rescan_seconds: float,
        sidecar: SidecarRule,
        sidecar_wait_seconds: float,
        unfinished_minutes: float,
        newer_than: float | Callable[[], float | None] | None = None,
        follow_symlinks: bool = False,
        boot_time: float = -math.inf,
    ) -> None:
        """Look at nothing yet.

        ``newer_than`` is seconds since 1970, or asked for at each first sight (None: not known, skip nothing).
        ``boot_time``: when this robot started, seconds since 1970.
        """
        self._examiner = examiner
        self._clock = clock
        self._roots = [os.path.abspath(root) for root in roots]
        self._rules = NameFilter(
            include, exclude, follow_symlinks=follow_symlinks, sidecars=sidecar != "ignore"
        )
        self._settle_seconds = settle_seconds
        self._rescan_seconds = rescan_seconds
        self._sidecar_wait = sidecar_wait_seconds
        self._unfinished_seconds = unfinished_minutes * 60
        self._newer_than = newer_than if callable(newer_than) else lambda: newer_than
        self._follow = follow_symlinks
        self._boot_time = boot_time
        self._lock = threading.RLock()
        self._known = FileTable()
        self._looks = TimerQueue()  # void where the file's due differs
        self._hints: set[str] = set()
        self._tops: list[str] = []  # roots that are there, none below another
        self._survey = WalkResult()
        self._markers: set[str] = set()
        self._mistakes = Mistakes()
        self.scans = 0  # that have ended
        self.begun, self.ended = 0, 0  # of those that spare nothing
        self.changes = 0  # another number whenever a file may stand otherwise than before
        self._scan_due, self._asked = -math.inf, True
        self._scanned = -math.inf

    # -- from any thread

    def sight(self, sighting: Sighting) -> None:
        """Take a hint."""
        with self._lock:
            self._hints.add(os.path.abspath(sighting.path))

    def rescan(self) -> None:
        """Scan everything soon; asked for again and again, still not more often than every ``settle_seconds``."""
        with self._lock:
            self._asked = True
            self._scan_due = min(
                self._scan_due, max(self._clock.monotonic(), self._scanned + self._settle_seconds)
            )

    def markers(self) -> Sequence[Path]:
        """The touch files that were seen since this was asked before."""
        with self._lock:
            seen, self._markers = self._markers, set()
        return [Path(path) for path in seen]

    def below(self, folder: Path) -> Sequence[Path]:
        """What may be a recording in ``folder`` and below, by path: the complete ones, and those skipped by age."""
        with self._lock:
            known = [
                path
                for path, file in self._known.below(str(folder))
                if file.state in ("complete", "skipped")
            ]
        return [Path(path) for path in sorted(known)]

    def unsettled(self, folder: Path, since: float) -> bool:
        """Whether something below ``folder`` that was there at that monotonic time has not been examined yet."""
        with self._lock:
            return any(
                file.state == "settling"
                or (file.state == "waiting" and file.due <= file.since + self._sidecar_wait)
                for _, file in self._known.below(str(folder))
                if file.since <= since
            )

    def again(self, path: Path) -> None:
        """What ``step`` gave for ``path`` could not be taken: give it once more after settling again."""
        with self._lock:
            if file := self._known.find(*os.path.split(path)):
                file.state = "settling"
                due = self._clock.monotonic() + self._settling(path.name)
                self._schedule(str(path.parent), path.name, file, due)
                self._changed()

    def next_step(self) -> float:
        """The monotonic time at which ``step`` has something to do."""
        with self._lock:
            if self._hints:
                return self._clock.monotonic()
            return min(self._scan_due, self._looks.first()[0])

    def names(self, fingerprint: str) -> Sequence[Path]:
        """Where the bytes of ``fingerprint`` (its text) lie now, by name.

        What has left its place since it was seen is new when it comes back: its document may have ended meanwhile.
        """
        wanted = mark_of(fingerprint)
        with self._lock:
            known = [
                (f"{folder}/{name}", file.stamp)
                for folder, name, file in self._known.files()
                if file.mark == wanted
            ]
        there = []
        for path, stamp in known:
            try:
                changed = stamp_of(os.stat(path, follow_symlinks=self._follow)) != stamp
            except OSError as error:
                if error.errno in GONE:
                    self._forget(path)
                continue
            if changed:
                self.again(Path(path))
            there.append(Path(path))
        return sorted(there)

    def there(self) -> Callable[[str], bool]:
        """Tells of a fingerprint (its text) whether its bytes lay below the watched folders just now."""
        with self._lock:
            among = self._known.marks()
        return lambda fingerprint: among(mark_of(fingerprint))

    def may_lie(self) -> Callable[[str], bool] | None:
        """Tells of a fingerprint (its text) whether its bytes may lie there; None before the first scan has ended.

        What was not examined, or passed over by its age, may be any recording of its size.
        """
        if not self.scans:
            return None
        with self._lock:
            among = self._known.marks()
            unexamined = [
                (folder, name) for folder, name, file in self._known.files() if not file.mark
            ]
        sizes = {_size(f"{folder}/{name}") for folder, name in unexamined}
        return lambda mark: among(mark_of(mark)) or mark.partition("-")[0] in sizes

    def state(self, path: Path) -> tuple[State, str] | None:
        """How a file stands and why; None for one that is not known."""
        with self._lock:
            file = self._known.find(*os.path.split(path))
            return (file.state, file.why) if file else None

    def stands(self, path: Path) -> tuple[State, str] | None:
        """The same at this very moment: what has changed since it was seen has to settle anew."""
        with self._lock:
            file = self._known.find(*os.path.split(path))
            if file is None:
                return None
            stamp, state, why = (
                file.stamp,
                file.state,
                file.why,
            )  # before the row may be another file's
        with suppress(OSError):
            if stamp_of(os.stat(path, follow_symlinks=self._follow)) != stamp:
                self.sight(Sighting(path))
                return "settling", "it was changed just now; it is still settling"
        return state, why

    @property
    def scan_seconds(self) -> float:
        """How long the last scan took."""
        with self._lock:
            return self._survey.seconds

    def report(self, most: int = 20) -> DiskReport:
        """All that people want to know of the disk; at most so many files of a kind are named: 100,000 may settle."""
        with self._lock:
            return report_of(self._known, self._survey, self._clock.monotonic(), most)

    # -- the finder thread

    def step(self) -> list[Recording | Damaged]:
        """Do what is due, and return what has become complete (or is broken), the oldest first."""
        with self._lock:
            hints, self._hints = self._hints, set()
        if self._clock.monotonic() >= self._scan_due:
            with self._mistakes.contained(", ".join(self._roots)):
                self._scan()
        for path in hints:
            with self._mistakes.contained(path):
                self._take_hint(path)
        found = [
            result
            for folder, name, file in self._due()
            if (result := self._look_safely(folder, name, file))
        ]
        return sorted(found, key=lambda item: (item.mtime_ns, str(item.path)))

    def _scan(self) -> None:
        """See everything there is, and forget what is gone.

        Whatever happens, the next scan has its date.
        """
        started, cpu = self._clock.monotonic(), time.thread_time()
        with self._lock:
            self._scan_due = math.inf  # one asked for from now on is another one
            scan, self._asked = None if self._asked else self.scans, False
            self.begun += scan is None
        ended = False
        try:
            self._scan_all(scan, started)
            ended = True
        finally:
            with self._lock:
                self._scanned = self._clock.monotonic()
                rest = min(_REST * (time.thread_time() - cpu), _LONGEST_REST)
                rest = max(self._rescan_seconds, rest)
                self._scan_due = min(self._scan_due, self._scanned + rest)
                # What a failed scan was to look at is still to be looked at.
                self._asked = self._asked or (scan is None and not ended)
            self._mistakes.scan_ended()

    def _scan_all(self, scan: int | None, started: float) -> None:
        """Walk over all roots, and take over what was seen."""
        survey = WalkResult()
        tops_ = tops(self._roots, self._rules, survey)
        for top in tops_:
            try:
                self._walk(top, survey, scan)
            except Exception as error:  # noqa: BLE001 - the other roots must be found
                survey.fail(top, error)
                self._mistakes.log(top, error)
        with self._lock:
            forgotten = self._known.keep_folders(survey.listed, survey.unreadable)
            previous, self._survey, self._tops = self._survey, survey, tops_
            self.scans, self.ended = self.scans + 1, self.begun
            survey.seconds = self._clock.monotonic() - started
        tell(previous, survey)
        if forgotten or survey != previous:
            self._changed()

    def _walk(self, top: str, survey: WalkResult, scan: int | None = None) -> None:
        """See every file below ``top`` that the ``scan`` does not spare, and forget those that are gone."""
        began, fresh = self._clock.monotonic(), Batch()
        for folder, entries, spared in walk(
            top, self._rules, survey, lambda folder: self._known.memory(folder, scan)
        ):
            try:
                self._see_all(folder, entries, spared, fresh)
            except Exception as error:  # noqa: BLE001 - the other folders must be found
                survey.fail(folder, error)
        for folder, mistake in survey.mistakes.items():
            self._mistakes.log(folder, mistake)
        with self._lock:
            self._markers.update(survey.markers)
        self._settle(fresh, began)

    def _see_all(
        self, folder: str, entries: Sequence[WalkEntry], spared: Sequence[str], fresh: Batch
    ) -> None:
        """See the files of this very folder, and forget those that are gone."""
        is_settled = self._known.settled(folder)
        for name, state, beside in entries:
            try:
                sidecar = self._sidecar_stamp(folder, name) if beside else 0
                if not is_settled(name, stamp_of(state), sidecar):
                    self._see(folder, name, state, sidecar, fresh=fresh)
            except Exception as error:  # noqa: BLE001 - the other files must be found
                self._mistakes.log(os.path.join(folder, name), error)
        with self._lock:
            if self._known.keep(folder, {entry.name for entry in entries}.union(spared)):
                self._changed()

    def _settle(self, fresh: Batch, began: float) -> None:
        """Have all that one walk found settle from its end on: so they are looked at in the order of their times."""
        now = self._clock.monotonic()
        due = now + self._settle_seconds  # one object for all of them
        with self._lock:
            # First the looks, then their dates. A file that had a date without a look would not be
            # looked at again.
            self._looks.push_all(fresh, due)
            for mtime_ns, folder, name in fresh:
                file = self._known.find(folder, name)
                if file is None:
                    continue
                if file.since >= began:
                    file.since = now
                file.due = due
                if name.endswith(COMPRESSED):
                    self._schedule(folder, name, file, now + self._settling(name), mtime_ns)

    def _take_hint(self, path: str) -> None:
        """Look where something happened."""
        top = next((top for top in self._tops if is_below(path, top)), None)
        if top is None or path == top:
            self.rescan()
            return
        folder, name = os.path.split(path)
        if not self._rules.reaches(top, folder):
            return
        if self._rules.asks(name) and not os.path.isdir(path):
            with self._lock:
                self._markers.add(path)
            return
        if (
            os.path.isdir(path)
            and self._rules.reaches(top, path)
            and (self._follow or not os.path.islink(path))
        ):
            self._walk(path, WalkResult())
        elif not os.path.lexists(path):
            self._forget(path)
        for base in filter(self._rules.wanted, related(name)):
            try:
                state = os.stat(os.path.join(folder, base), follow_symlinks=self._follow)
                self._see(folder, base, state, self._sidecar_stamp(folder, base))
            except OSError:
                self._forget(os.path.join(folder, base))

    def _see(
        self,
        folder: str,
        name: str,
        state: os.stat_result,
        sidecar: int,
        *,
        pause: float | None = None,
        fresh: Batch | None = None,
    ) -> None:
        """Note how a file stands; look again at what is new or has changed, after ``pause`` or after settling.

        Where ``fresh`` is given that is put there instead, to be scheduled together.
        """
        if not stat.S_ISREG(state.st_mode):
            self._forget(os.path.join(folder, name))
            return
        now, stamp, mtime_ns = self._clock.monotonic(), stamp_of(state), state.st_mtime_ns
        with self._lock:
            file = self._known.find(folder, name)
            if file is not None and (file.stamp, file.sidecar) == (stamp, sidecar):
                if file.state not in QUIET:
                    soonest = max(now, file.since + self._settling(name))
                    self._schedule(folder, name, file, min(file.due, soonest), mtime_ns)
                return
            self._changed()
            if file is None or file.stamp != stamp:
                before = "skipped" if file is None else file.state
                file = self._known.add(folder, name, stamp, sidecar, now)
                if before == "skipped" and self._too_old(state):
                    file.state = "skipped"
                    return
                if before in ("settling", "recording", "unfinished"):
                    file.state, file.why = "recording", "it is being written to"
            else:
                file.sidecar = sidecar
                if file.state in ("skipped", "damaged"):
                    return
                file.state = "settling"
            if fresh is not None:
                fresh.add(mtime_ns, folder, name)
            else:
                due = now + (self._settling(name) if pause is None else pause)
                self._schedule(folder, name, file, due, mtime_ns)

    def _too_old(self, state: os.stat_result) -> bool:
        limit = self._newer_than()
        return limit is not None and state.st_mtime < limit

    def _sidecar_stamp(self, folder: str, name: str) -> int:
        if not self._rules.sidecars:
            return 0
        try:
            state = os.stat(os.path.join(folder, sidecar_name(name)))
        except OSError:
            return 0
        return hash((state.st_mtime_ns, state.st_size))

    def _due(self) -> Iterator[tuple[str, str, FileRow]]:
        """The next files to be looked at, the oldest of one scan first; those of one time together."""
        now, last, looks = self._clock.monotonic(), (0.0, 0), 0
        while True:
            with self._lock:
                first = self._looks.first()
                if first[0] > now or (looks >= _LOOKS and first != last):
                    return
                due, mtime_ns, folder, name = self._looks.pop()
                file = self._known.find(folder, name)
            last, looks = (due, mtime_ns), looks + 1
            if file is not None and file.due == due:
                yield folder, name, file

    def _look_safely(self, folder: str, name: str, file: FileRow) -> Recording | Damaged | None:
        """A mistake over one file must not lose the others of this step; that file is looked at by the next scan."""
        try:
            return self._look(folder, name, file)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self._mistakes.log(os.path.join(folder, name), error)
            file.state, file.why = "unreadable", MISTAKE
            return None
        finally:
            self._changed()

    def _look(self, folder: str, name: str, file: FileRow) -> Recording | Damaged | None:
        """Look a second time at a file that is due, and examine it if it stayed as it was."""
        path = os.path.join(folder, name)
        pause, file.due = 2 * (file.due - file.since), math.inf
        try:
            state = os.stat(path, follow_symlinks=self._follow)
            sidecar = self._sidecar_stamp(folder, name)
            if (stamp_of(state), sidecar) != (file.stamp, file.sidecar):
                # What keeps growing is looked at ever more rarely: a recorder may write for hours.
                pause = min(pause, max(self._rescan_seconds, self._settle_seconds))
                self._see(folder, name, state, sidecar, pause=pause)
                return None
            now = self._clock.monotonic()
            patience_over = now >= file.since + self._unfinished_seconds
            result = self._examiner.look(
                Path(path),
                sidecar_overdue=now >= file.since + self._sidecar_wait,
                writer_overdue=patience_over,
                done_overdue=patience_over,
                end_overdue=file.state == "unfinished",
            )
            if isinstance(result, NotYet):
                self._hold(path, file, result, state)
                return None
        except RecordingError:
            self._forget(path)
            return None
        except FileChangedError:
            self._see(folder, name, state, sidecar)
            return None
        except OSError as error:
            self._fail(path, file, error)
            return None
        file.state = "damaged" if isinstance(result, Damaged) else "complete"
        file.why = result.reason if isinstance(result, Damaged) else ""
        file.mark = mark_of(str(result.fingerprint))
        return result

    def _hold(self, path: str, file: FileRow, lacking: NotYet, state: os.stat_result) -> None:
        """Keep a file that lacks something, and set the time of the next look where time changes anything."""
        was, file.why = file.state, lacking.message
        patience = self._unfinished_seconds
        if lacking.why == "recording":
            file.state = self._recording_state(path, file, state.st_mtime)
        elif lacking.why == "writer":
            file.state = "recording"
        else:
            file.state = "waiting"
            if lacking.why == "sidecar":
                patience = self._sidecar_wait
        if file.state == "unfinished" and was != "unfinished":
            if self._examiner.send_unfinished:
                self._schedule(
                    *os.path.split(path), file, self._clock.monotonic(), state.st_mtime_ns
                )
            _log.warning(
                "%s has no end and no writer", path, extra={"event": "unfinished", "path": path}
            )
        # What is waited for only so long is looked at once more, though its time may have come while this look lasted.
        bounded = lacking.why in ("sidecar", "writer", "done_marker")
        if file.state != "unfinished" and (
            bounded or file.since + patience > self._clock.monotonic()
        ):
            self._schedule(*os.path.split(path), file, file.since + patience, state.st_mtime_ns)

    def _recording_state(self, path: str, file: FileRow, mtime: float) -> State:
        """Whether somebody may still be writing a file that has no end."""
        quiet = self._clock.monotonic() >= file.since + self._unfinished_seconds
        before_boot = mtime < self._boot_time
        if not quiet and not before_boot:
            return "recording"
        writer = has_writer(Path(path))
        if writer is False or (before_boot and writer is None):
            file.why = "no end, and no program writes to it: its recorder did not finish it"
            return "unfinished"
        if writer is None:
            file.why = "no end; whether a program still writes to it can't be seen"
        return "recording"

    def _fail(self, path: str, file: FileRow, error: OSError) -> None:
        if error.errno in GONE:
            self._forget(path)
            return
        why = error.strerror or str(error)
        if (file.state, file.why) != ("unreadable", why):
            _log.warning(
                "can't read %s: %s", path, why, extra={"event": "unreadable", "path": path}
            )
        file.state, file.why = "unreadable", why

    def _schedule(
        self, folder: str, name: str, file: FileRow, due: float, mtime_ns: int = 0
    ) -> None:
        if due != file.due:
            # First the look, then its date, for the reason that stands in _settle.
            self._looks.push((due, mtime_ns, folder, name))
            file.due = due

    def _forget(self, path: str) -> None:
        """Drop a file, or a folder and all below it."""
        with self._lock:
            if self._known.forget(path):
                self._changed()

    def _changed(self) -> None:
        with self._lock:
            self.changes += 1

    def _settling(self, name: str) -> float:
        return (
            max(self._settle_seconds, _SETTLE_COMPRESSED)
            if name.endswith(COMPRESSED)
            else self._settle_seconds
        )


def _size(path: str) -> str:
    try:
        return str(os.stat(path).st_size)
    except OSError:
        return ""
