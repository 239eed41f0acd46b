"""Touch files → requests. A marker goes only when what it asks for is durable, and is served once whatever happens.

What was served is written down with inode and time of the marker, in the transaction of the documents that it made.
So one that is seen again, after a crash or in a folder where nothing can be removed, is known.
"""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from agent.flow.binding import Bindings
from agent.flow.discover import Discover
from agent.flow.examine import NotYet
from agent.flow.gate import Gate
from agent.flow.requests import BATCH, Requests
from agent.model.durable import put, sync_folder
from agent.model.errors import CloudError, RefusedError, WaitingError
from agent.model.nouns import Answer, Ask, Marker
from agent.model.ports import Clock, History
from agent.model.touch_files import FIRST, PAUSE, REJECTED, REQUEST, RESCAN, RESYNC, rejected

_log = logging.getLogger(__name__)

_LONGEST_REASON = 1000  # characters
_LARGEST = 64 * 1024  # bytes of a marker that are read


@dataclass(slots=True)
class _Seen:
    """A marker that is not served yet: when it was first seen, and how many scans had begun by then."""

    since: float
    begun: int


@dataclass(frozen=True, slots=True)
class MarkerReport:
    """What of the markers an operator should know of."""

    waiting: Sequence[Path] = ()
    kept: Sequence[Path] = ()  # served, and can't be removed
    rejected: Sequence[Path] = ()  # reasons in the markers' folder


@dataclass(slots=True)
class _Batch:
    """What one transaction came to."""

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
        self._known: Sequence[Path] = [Path(marker.path) for marker in history.known_markers()]  # by a start before
        self._rescan_after: int | None = None  # scans begun when a rescan was asked for

    def prepare(self) -> None:
        """Make the folder, for its owner and the group of the folder above; raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with suppress(PermissionError):  # somebody else made it, and as he wanted it
            os.chown(self._folder, -1, self._folder.parent.stat().st_gid)
            self._folder.chmod(0o2770)

    def look(self) -> bool:
        """Serve what can be served now; tells whether there is new work. Raises HistoryFullError."""
        self.look_at_pause()
        found = [*self._known, *self._in_folder(), *self._discover.markers()]
        self._known = ()
        for path in found:
            self._waiting.setdefault(path, _Seen(self._clock.monotonic(), self._discover.begun))
        new = False
        pending = iter(sorted(self._waiting))
        while batch := list(islice(pending, BATCH)):
            new = self._serve(batch) or new
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

    def _in_folder(self) -> Iterator[Path]:
        try:
            with os.scandir(self._folder) as listing:
                names = [entry.name for entry in listing]
        except OSError:
            return
        if RESCAN in names:
            self._look_at_rescan()
        self._rejected = {self._folder / name for name in names if name.endswith(REJECTED)}
        for name in names:
            if name.endswith((RESYNC, FIRST, REQUEST)):
                yield self._folder / name

    def _look_at_rescan(self) -> None:
        """Gone after a scan that began after it was seen."""
        if self._rescan_after is None:
            self._rescan_after = self._discover.begun
            self._rescan()
        elif self._discover.scans > self._rescan_after:
            self._rescan_after = None
            with suppress(OSError):
                (self._folder / RESCAN).unlink()

    # -- serving

    def _serve(self, paths: Sequence[Path]) -> bool:
        batch = _Batch()
        with self._history.transaction():
            for path in paths:
                self._serve_one(path, batch)
        for marker, why in batch.refused:
            self._refuse(marker, why)
        self._remove(batch.served)
        return bool(batch.served)

    def _serve_one(self, path: Path, batch: _Batch) -> None:
        marker = _marker(path)
        if marker is None:
            self._waiting.pop(path, None)
            self._kept.pop(path, None)
            if path.parent.is_dir():  # else it lies on a disk that was taken out
                self._history.forget_marker(str(path))
            return
        known = self._history.marker(marker.path)
        same = known is not None and (known.inode, known.mtime_ns) == (marker.inode, marker.mtime_ns)
        if same and known is not None and known.through is None:
            batch.served.append(known)
            return
        try:
            answer = self._answer(marker, path, (known.through or "") if same and known else "")
        except _UnservedError as refused:
            batch.refused.append((marker, str(refused)))
            return
        except (CloudError, WaitingError, OSError) as error:  # of profiles and assets that are not there yet
            _log.debug("%s waits: %s", path, error, extra={"event": "marker_waits"})
            return
        if answer is None:
            return
        if answer.status in ("accepted", "already_queued"):
            self._history.mark_served(marker)
            batch.served.append(marker)
            _log.info("served %s: %s", path, answer.message, extra={"event": "marker", "episode_id": answer.episode_id})
        else:
            batch.refused.append((marker, f"{answer.target}: {answer.message}"))

    def _answer(self, marker: Marker, path: Path, through: str) -> Answer | None:
        """What became of it; None while it has to wait. Raises _UnservedError."""
        if path.name.endswith(REQUEST):
            return self._of_request(path)
        suffix, ask = (FIRST, _FIRST) if path.name.endswith(FIRST) else (RESYNC, _RESYNC)
        reason = _text(path)[:_LONGEST_REASON] if ask == "resync" else ""
        target = path.name.removesuffix(suffix)
        if path.parent == self._folder:
            return _first_of(self._requests.episode(target, ask=ask, trigger="marker", reason=reason))
        if not target:
            return self._of_folder(marker, path, ask, reason, through)
        found = self._requests.at(path.with_name(target), ask=ask, trigger="marker", reason=reason)
        if isinstance(found, NotYet):
            if found.why == "unknown" and self._scanned_since(path):
                raise _UnservedError(f"{found.path}: {found.message}")
            return None
        return found

    def _of_folder(self, marker: Marker, path: Path, ask: Ask, reason: str, through: str) -> Answer | None:
        """All that lies there; in transactions of its own where there is much, each with how far it has come."""
        folder = path.parent
        if not self._scanned_since(path) or self._discover.unsettled(folder, self._waiting[path].since):
            return None
        paths = [str(below) for below in self._requests.below(folder) if str(below) > through]
        if not paths and not through:
            raise _UnservedError("there is no finished recording in this folder or below")
        batch, rest = paths[:BATCH], paths[BATCH:]
        answers = list(self._requests.each([Path(below) for below in batch], ask=ask, trigger="marker", reason=reason))
        if rest:
            self._history.mark_served(replace(marker, through=batch[-1]))
            return None
        return Answer(str(folder), "accepted", f"{len(answers)} recordings, the last of the folder")

    def _of_request(self, path: Path) -> Answer:
        """What a command left while no agent ran."""
        asked = _object(_text(path))
        if asked.get("ask") == "asset":
            return self._of_asset(str(asked.get("robot", "")), asked.get("asset"))
        ask: Ask = _FIRST if asked.get("ask") == "first" else _RESYNC
        if asked.get("ask") not in ("resync", "first") or not asked.get("target"):
            raise _UnservedError("it is no request of keystone-agent")
        target, reason = os.fsdecode(os.fsencode(str(asked["target"]))), str(asked.get("reason", ""))[:_LONGEST_REASON]
        return _first_of(self._requests.ask(target, ask=ask, trigger="cli", reason=reason))

    def _of_asset(self, robot: str, asset: Any) -> Answer:
        try:
            if asset is None:
                self._bindings.unbind(robot)
            else:
                self._bindings.bind(robot, str(asset))
        except RefusedError as error:
            raise _UnservedError(f"{robot}: {error.message}; {error.hint}") from error
        return Answer(robot, "accepted", f"bound to {asset or 'no asset'}")

    def _scanned_since(self, path: Path) -> bool:
        return self._discover.scans > self._waiting[path].begun

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
        for folder in {Path(marker.path).parent for marker in gone}:
            with suppress(OSError):  # a folder that is gone has no marker either
                sync_folder(folder)
        with self._history.transaction():
            for marker in gone:
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


_FIRST: Ask = "first"
_RESYNC: Ask = "resync"


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


def _text(path: Path) -> str:
    """What somebody wrote into it, in one line; raises _UnservedError where that can't be read."""
    try:
        if path.lstat().st_size == 0:
            return ""
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            text = file.read(_LARGEST).decode("utf-8", "replace")
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
    good = [answer for answer in answers if answer.status in ("accepted", "already_queued")]
    return (good or list(answers))[0]
