"""Touch files → requests. A marker goes only when what it asks for is durable, and is served once whatever happens.

What was served is written down with inode and time of the marker, in the transaction of the documents that it made.
So one that is seen again, after a crash or in a folder where nothing can be removed, is known.
"""

from __future__ import annotations

import json
import logging
import math
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.flow.binding import Bindings
from agent.flow.discover import Discover
from agent.flow.gate import Gate
from agent.flow.requests import BATCH, Requests
from agent.model.durable import put, sync_folder
from agent.model.errors import CloudError, HistoryFullError, RefusedError, WaitingError
from agent.model.nouns import Answer, Ask, Marker, Trigger
from agent.model.ports import Clock, History
from agent.model.touch_files import FIRST, PAUSE, REJECTED, REQUEST, RESCAN, RESYNC, rejected, target_of

_log = logging.getLogger(__name__)

_LONGEST_REASON = 1000  # characters
_LARGEST = 64 * 1024  # bytes of a marker that are read


@dataclass(slots=True)
class _Seen:
    """A marker that is not served yet. There may be 10,000 of them."""

    begun: int  # scans, when it was first seen
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
        self._kept: dict[Path, Marker] = {}
        self._rejected: set[Path] = set()
        self._scans_known: int | None = None  # scans that had ended when what is remembered was last looked at
        self._rescans: tuple[Marker, int] | None = None  # the marker, and how many scans had begun when it was seen

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
            self._waiting.setdefault(path, _Seen(self._discover.begun)).stood = None
        due = deque(sorted(path for path, seen in self._waiting.items() if self._may_go_on(path, seen)))
        new = False
        while due:
            new = self._serve(due) or new
        return new

    def look_at_pause(self) -> None:
        """Hold the gate while the marker is there."""
        if os.path.lexists(self._folder / PAUSE):
            hint = f"remove {self._folder / PAUSE}, or keystone-agent resume"
            if self._gate.hold(PAUSE, "an operator paused the agent", hint):
                _log.info("uploads pause: %s is there", self._folder / PAUSE, extra={"event": "pause"})
        elif self._gate.release(PAUSE):
            _log.info("uploads go on: the pause marker is gone", extra={"event": "resume"})

    def report(self) -> MarkerReport:
        """What is not as simple as served and gone."""
        waiting, kept, rejected_ = tuple(self._waiting), tuple(self._kept), tuple(self._rejected)  # of one moment
        return MarkerReport(sorted(waiting), sorted(kept), sorted(rejected_))

    # -- seeing

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
            self._look_at_rescan(_marker(self._folder / RESCAN))
        self._rejected = {self._folder / name for name in names if name.endswith(REJECTED)}
        for name in names:
            if name.endswith((RESYNC, FIRST, REQUEST)):
                yield self._folder / name

    def _look_at_rescan(self, marker: Marker | None) -> None:
        """Removed after a scan that began after it was seen; one that can't be removed is not heeded again."""
        if marker is None:
            return
        if self._rescans is None or self._rescans[0] != marker:
            self._rescans = marker, self._discover.begun
            self._rescan()
        elif self._discover.scans > self._rescans[1]:
            with suppress(OSError):
                _unlink(marker)

    def _may_go_on(self, path: Path, seen: _Seen) -> bool:
        """Whether anything has changed for a marker that waits for its recording."""
        return seen.stood is None or seen.stood != self._how_it_stands(path)

    def _how_it_stands(self, path: Path) -> object:
        """Changes whenever the recording that a marker is for may have become one; None where nobody can say."""
        target = target_of(path.name)
        if not target or path.parent == self._folder:
            return None
        return self._discover.state(path.parent / target), self._discover.scans

    # -- serving

    def _serve(self, due: deque[Path]) -> bool:
        """Serve the next ones in one transaction."""
        batch = _Batch(BATCH)
        with self._history.transaction():
            while due and batch.room > 0:
                self._serve_one(due.popleft(), batch)
        for marker, why in batch.refused:
            self._refuse(marker, why)
        self._remove(batch.served)
        return bool(batch.served)

    def _serve_one(self, path: Path, batch: _Batch) -> None:
        batch.room -= 1
        marker = _marker(path)
        if marker is None:
            self._drop(path)
            return
        known = self._known(marker)
        if known is not None and known.through is None:
            batch.served.append(known)
            return
        seen = self._waiting[path]
        stood = self._how_it_stands(path)
        try:
            answer = self._answer(marker, path, known.through or "" if known else "", batch)
        except _UnservedError as refused:
            batch.refused.append((marker, str(refused)))
            return
        except HistoryFullError:
            raise
        except (CloudError, WaitingError, OSError) as error:  # of profiles and assets that are not there yet
            _log.debug("%s waits: %s", path, error, extra={"event": "marker_waits"})
            return
        except Exception:  # noqa: BLE001 - one marker's trouble is not the others'
            if not seen.broken:
                _log.exception("could not serve %s; it is tried again", path, extra={"event": "bug"})
            seen.broken = True
            return
        if answer is None:
            seen.stood = stood
            return
        if answer.status in _GOOD:
            self._history.mark_served(marker)
            batch.served.append(marker)
            _log.info("served %s: %s", path, answer.message, extra={"event": "marker", "episode_id": answer.episode_id})
        else:
            batch.refused.append((marker, f"{answer.target}: {answer.message}"))

    def _known(self, marker: Marker) -> Marker | None:
        """What is remembered of this very marker, not of one that was there before."""
        known = self._history.marker(marker.path)
        same = known is not None and (known.inode, known.mtime_ns) == (marker.inode, marker.mtime_ns)
        return known if same else None

    def _drop(self, path: Path) -> None:
        """Somebody took it back, or removed it after it was served."""
        self._waiting.pop(path, None)
        self._kept.pop(path, None)
        if path.parent.is_dir():  # else it lies on a disk that was taken out
            self._history.forget_marker(str(path))

    def _answer(self, marker: Marker, path: Path, through: str, batch: _Batch) -> Answer | None:
        """What became of it; None while it has to wait. Raises _UnservedError."""
        if path.name.endswith(REQUEST):
            return self._of_request(marker, path, through, batch)
        ask, target = _FIRST if path.name.endswith(FIRST) else _RESYNC, target_of(path.name) or ""
        reason = _text(path)[:_LONGEST_REASON] if ask == "resync" else ""
        if path.parent == self._folder:
            return self._once_looked(path, self._requests.episode(target, ask=ask, trigger="marker", reason=reason))
        if not target:
            return self._of_folder(marker, path.parent, _Wish(ask, "marker", reason), through, batch)
        found = self._requests.at(path.parent / target, ask=ask, trigger="marker", reason=reason)
        if isinstance(found, Answer):
            return found
        if found.why == "unknown" and self._scanned(path):
            raise _UnservedError(f"{found.path}: {found.message}")
        return None

    def _of_folder(self, marker: Marker, folder: Path, wish: _Wish, through: str, batch: _Batch) -> Answer | None:
        """All that lies there; in transactions of its own where there is much, each with how far it has come."""
        if not self._scanned(Path(marker.path)) or not self._looked_at(Path(marker.path), folder):
            return None
        paths = [below for below in self._requests.below(folder) if str(below) > through]
        if not paths and not through:
            raise _UnservedError(f"there is no finished recording in {folder} or below")
        some, rest = paths[: max(1, batch.room)], paths[max(1, batch.room) :]
        batch.room -= len(some)
        list(self._requests.each(some, ask=wish.ask, trigger=wish.trigger, reason=wish.reason))
        if rest:
            self._history.mark_served(replace(marker, through=str(some[-1])))
            return None
        return Answer(str(folder), "accepted", "all recordings of the folder")

    def _of_request(self, marker: Marker, path: Path, through: str, batch: _Batch) -> Answer | None:
        """What a command left while no agent ran."""
        asked = _object(_text(path))
        if asked.get("ask") == "asset":
            return self._of_asset(str(asked.get("robot", "")), asked.get("asset"))
        ask, target = asked.get("ask"), str(asked.get("target", ""))
        if ask not in ("resync", "first") or not target or not _is_name(target):
            raise _UnservedError("it is no request of keystone-agent")
        wish = _Wish(_FIRST if ask == "first" else _RESYNC, "cli", str(asked.get("reason", ""))[:_LONGEST_REASON])
        if Path(target).is_absolute() and Path(target).is_dir():
            return self._of_folder(marker, Path(target), wish, through, batch)
        answers = self._requests.ask(target, ask=wish.ask, trigger=wish.trigger, reason=wish.reason)
        return self._once_looked(path, answers)

    def _of_asset(self, robot: str, asset: Any) -> Answer:
        try:
            if asset is None:
                self._bindings.unbind(robot)
            else:
                self._bindings.bind(robot, str(asset))
        except RefusedError as error:
            raise _UnservedError(f"{robot}: {error.message}; {error.hint}") from error
        return Answer(robot, "accepted", f"bound to {asset or 'no asset'}")

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
        """Whether a scan has ended that began after the marker was seen."""
        begun = self._waiting[path].begun
        if self._discover.scans <= begun == self._discover.begun:
            self._rescan()
        return self._discover.scans > begun

    # -- removing

    def _remove(self, served: Iterable[Marker]) -> None:
        """Take away what is served, durably, and forget it; what can't be removed is said once."""
        gone: list[Marker] = []
        for marker in served:
            path = Path(marker.path)
            self._waiting.pop(path, None)
            try:
                _unlink(marker)
            except OSError as error:
                self._keep(path, marker, error)
            else:
                self._kept.pop(path, None)
                gone.append(marker)
        back = {folder for folder in {Path(marker.path).parent for marker in gone} if not _synced(folder)}
        if not gone:
            return
        with self._history.transaction():
            for marker in gone:
                if Path(marker.path).parent not in back:
                    self._history.forget_marker(marker.path)

    def _keep(self, path: Path, marker: Marker, error: OSError) -> None:
        if not marker.said:
            why = error.strerror or str(error)
            text = "served %s, but it can't be removed (%s): remove it yourself, or leave it: it is not served again"
            _log.warning(text, path, why, extra={"event": "marker_kept", "path": str(path)})
            marker = replace(marker, said=True)
            self._history.mark_served(marker)
        self._kept[path] = marker

    def _refuse(self, marker: Marker, why: str) -> None:
        """Put the reason in the place of the marker."""
        path = Path(marker.path)
        _log.warning("rejected %s: %s", path, why, extra={"event": "marker_rejected", "path": str(path)})
        try:
            put(rejected(path), f"{why}\n".encode("utf-8", "replace"), owner=path.parent, mode=0o644)
            _unlink(marker)
            sync_folder(path.parent)
        except OSError as error:
            self._history.mark_served(replace(marker, said=True))
            self._kept[path] = marker
            why = error.strerror or str(error)
            _log.warning("%s can't be replaced by its reason: %s", path, why, extra={"event": "marker_kept"})
        self._waiting.pop(path, None)


class _UnservedError(Exception):
    """A marker can't be served, whenever it is tried."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is asked for, whatever the target is."""

    ask: Ask
    trigger: Trigger
    reason: str


_FIRST: Ask = "first"
_RESYNC: Ask = "resync"
_GOOD = ("accepted", "already_queued")


def _marker(path: Path) -> Marker | None:
    """What lies at ``path``; None where it is gone, or no regular file."""
    try:
        state = path.lstat()
    except OSError:
        return None
    return Marker(str(path), state.st_ino, state.st_mtime_ns) if stat.S_ISREG(state.st_mode) else None


def _unlink(marker: Marker) -> None:
    """Remove the marker, but none that was dropped there since. Raises OSError."""
    path = Path(marker.path)
    with suppress(FileNotFoundError):
        state = path.lstat()
        if (state.st_ino, state.st_mtime_ns) == (marker.inode, marker.mtime_ns):
            path.unlink()


def _synced(folder: Path) -> bool:
    """Make it durable that markers are gone; False where they may come back with a power cut."""
    try:
        sync_folder(folder)
    except FileNotFoundError:
        return True  # they went with their folder
    except OSError:
        return False
    return True


def _is_name(text: str) -> bool:
    """Whether a path may be called so."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _text(path: Path) -> str:
    """What somebody wrote into it, in one line; raises _UnservedError where that can't be read."""
    try:
        if path.lstat().st_size == 0:
            return ""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(_LARGEST).decode("utf-8", "replace")
    except FileNotFoundError:
        raise  # somebody took it back
    except OSError as error:
        raise _UnservedError(f"it can't be read: {error.strerror}") from error
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()


def _object(text: str) -> Mapping[str, Any]:
    with suppress(ValueError, RecursionError):
        content = json.loads(text)
        if isinstance(content, dict):
            return content
    return {}


def _first_of(answers: Sequence[Answer]) -> Answer:
    """One answer for all: a good one if there is any."""
    good = [answer for answer in answers if answer.status in _GOOD]
    return (good or list(answers))[0]
