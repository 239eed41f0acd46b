"""Turns watchdog's events below the roots into Sightings. Decides nothing, and may miss anything: scans are the truth.

What watchdog 7 does not say by itself is asked for here: its overflow is only a line in its log, its threads may end
in silence, and a root that is renamed, replaced or mounted over goes on being watched where it went.
"""

from __future__ import annotations

import fnmatch
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.polling import PollingObserver

from agent.model.touch_files import is_marker
from agent.model.values import Sighting

_log = logging.getLogger(__name__)

# They become the kernel's mask. Modified events would wake this process at every write of a recorder.
_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]
_POLL_SECONDS = 5.0
_OVERFLOW_LOGGER = "watchdog.observers.inotify_c"
_UNSEEN = re.compile(r"nfs|cifs|smb|overlay|fuse|9p|afs|ceph|virtiofs|vboxsf|lustre|glusterfs")
_JOIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Place:
    """What a root's name leads to at this moment."""

    real: str
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class _Post:
    """One root under observation."""

    place: _Place
    observer: BaseObserver

    @property
    def alive(self) -> bool:
        # Read-only, and absent before watchdog 7: without the thread behind it no event comes, and nothing says so.
        reader: threading.Thread | None = getattr(self.observer, "_inotify_fd", None)
        return (
            self.observer.is_alive()
            and (reader is None or reader.is_alive())
            and bool(self.observer.emitters)
            and all(emitter.is_alive() for emitter in self.observer.emitters)
        )

    def close(self) -> None:
        self.observer.stop()
        if self.observer.is_alive():
            self.observer.join(_JOIN_SECONDS)


class FolderWatcher:
    """Watches the roots, each by an observer of its own, and heals itself whenever ``supervise`` is called."""

    def __init__(
        self,
        roots: Sequence[Path],
        sight: Callable[[Sighting], object],
        *,
        exclude: Sequence[str],
        polling: Literal["auto", "always", "never"],
    ) -> None:
        """Watch nothing yet. ``exclude`` are shell patterns for base names and folder names."""
        self._roots = list(dict.fromkeys(roots))
        self._sight = sight
        self._excluded = re.compile(
            "|".join(fnmatch.translate(pattern) for pattern in exclude) or r"(?!)"
        )
        self._polling = polling
        self._posts: dict[Path, _Post] = {}
        self._failures: dict[Path, str] = {}
        self._overflow = _Overflow(self._everything_seen)
        self._stopped = False
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether every root that is there is being watched. Waits for no disk that hangs."""
        return not self._failures and all(post.alive for post in self._posts.copy().values())

    @property
    def failures(self) -> Mapping[Path, str]:
        """Roots that can't be watched, and why. Waits for no disk that hangs."""
        return self._failures.copy()

    def start(self) -> None:
        """Watch the roots that are there; ``supervise`` adds the others when they appear."""
        logging.getLogger(_OVERFLOW_LOGGER).addHandler(self._overflow)
        # Said of a folder made inside a folder just made, which watchdog comes upon in two ways; it harms nothing.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        self.supervise()

    def supervise(self) -> None:
        """Watch anew what died, was replaced or has appeared, and have it scanned. To be called every 10 s."""
        with self._lock:
            if self._stopped:
                return
            places = self._places()
            for root in self._posts.keys() | self._failures.keys():
                if root not in places:
                    self._drop(root)
            for root, place in places.items():
                post = self._posts.get(root)
                if post is None or post.place != place or not post.alive:
                    self._drop(root)
                    self._post(root, place, again=post is not None)

    def stop(self) -> None:
        """Watch nothing any longer."""
        logging.getLogger(_OVERFLOW_LOGGER).removeHandler(self._overflow)
        with self._lock:
            self._stopped = True
            for root in list(self._posts):
                self._drop(root)

    def _places(self) -> Mapping[Path, _Place]:
        """The roots that are there, less those that another one covers."""
        there = {root: place for root in self._roots if (place := _place(root))}
        kept: dict[Path, _Place] = {}
        for root, place in sorted(there.items(), key=lambda item: item[1].real):
            if not any(self._covers(Path(other.real), Path(place.real)) for other in kept.values()):
                kept[root] = place
        return kept

    def _covers(self, outer: Path, inner: Path) -> bool:
        return inner.is_relative_to(outer) and not self._is_excluded(inner.relative_to(outer))

    def _is_excluded(self, relative: Path) -> bool:
        return any(self._excluded.match(part) for part in relative.parts)

    def _post(self, root: Path, place: _Place, *, again: bool) -> None:
        """Watch ``root``, and have scanned what came there while nobody watched."""
        polls = self._polling == "always" or (
            self._polling == "auto" and _UNSEEN.match(_filesystem(place.real))
        )
        events = (
            [*_EVENTS, FileModifiedEvent] if polls else _EVENTS
        )  # polling sees no closing, and costs no more
        try:
            observer = PollingObserver(timeout=_POLL_SECONDS) if polls else InotifyObserver()
        except OSError as error:
            self._fail(root, error)
            return
        try:
            handler = _EventHandler(self, root, place.real)
            observer.schedule(handler, place.real, recursive=True, event_filter=events)
            observer.start()
        except (OSError, RuntimeError) as error:  # the latter where there is no thread for it
            observer.stop()
            self._fail(root, error)
            return
        self._failures.pop(root, None)
        self._posts[root] = _Post(place, observer)
        self._sight(Sighting(root))
        text = "watches %s again" if again else "watches %s"
        _log.info(
            text,
            root,
            extra={"event": "watch_rebuilt" if again else "watch_started", "polling": bool(polls)},
        )

    def _drop(self, root: Path) -> None:
        if post := self._posts.pop(root, None):
            post.close()
            if _place(root) is None:
                _log.warning("%s is gone; it is waited for", root, extra={"event": "watch_lost"})
        elif _place(root) is None:
            self._failures.pop(root, None)

    def _fail(self, root: Path, error: OSError | RuntimeError) -> None:
        why = getattr(error, "strerror", None) or str(error)
        if self._failures.get(root) != why:
            text = "can't watch %s (%s): only scans find recordings there; see fs.inotify.max_user_watches"
            _log.warning(text, root, why, extra={"event": "watch_failed"})
        self._failures[root] = why

    def seen(self, root: Path, relative: Path) -> None:
        """Something happened at ``relative`` below ``root``."""
        # A marker is hidden by its name alone, not by the names of its folders.
        if not self._is_excluded(relative.parent if is_marker(relative.name) else relative):
            self._sight(Sighting(root / relative))

    def _everything_seen(self) -> None:
        for root in self._roots:
            self._sight(Sighting(root))


class _EventHandler(FileSystemEventHandler):
    """Runs in watchdog's thread, which ends for good at an exception."""

    def __init__(self, watch: FolderWatcher, root: Path, real: str) -> None:
        self._watch = watch
        self._root = root
        self._real = real

    def dispatch(self, event: FileSystemEvent) -> None:
        try:
            for path in (event.src_path, event.dest_path):
                if path:
                    self._watch.seen(self._root, Path(os.fsdecode(path)).relative_to(self._real))
        except Exception:  # noqa: BLE001 - whatever it is, the next scan finds what this event was about
            _log.exception("an event was lost", extra={"event": "watch_event_lost"})


class _Overflow(logging.Handler):
    """Notices that events were lost, which watchdog only says in its log."""

    def __init__(self, lost: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._lost = lost

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._lost()


def _place(root: Path) -> _Place | None:
    """Where ``root`` leads; None while it is not there, or no folder."""
    try:
        real = os.path.realpath(root)
        state = os.stat(real)  # noqa: PTH116 - watchdog and the comparison want text
    except OSError:
        return None
    return _Place(real, state.st_dev, state.st_ino) if Path(real).is_dir() else None


def _filesystem(path: str, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """The type of the filesystem that ``path`` lies on (proc(5), mountinfo); "" where that can't be told."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    best, kind = "", ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields.split()[4])
        if len(point) >= len(best) and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, kind = point, rest.split()[0]  # a later line lies above an earlier one
    return kind
