"""Reports changes below the watched folders, by watchdog.

Each change becomes a ``Sighting``. Nothing is decided here, and changes may be missed, because the
scans find every recording anyway.

watchdog 7 does not report three failures, so they are detected here. It only logs when the kernel
dropped events. Its threads may end without an error. And a root that is renamed, replaced or
mounted over is watched further under its new name.
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

from agent.model.system_folders import SYSTEM_FOLDERS
from agent.model.touch_files import is_marker
from agent.model.values import Sighting

_log = logging.getLogger(__name__)

# The events that the kernel is asked for. Modified events are not among them, because they would
# wake this process at every write of a recorder.
_EVENTS: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]

# How often a root is compared with what it was, where the kernel reports no changes.
_POLL_SECONDS = 5.0

# watchdog logs here that the kernel dropped events.
_OVERFLOW_LOGGER = "watchdog.observers.inotify_c"

# File systems on which the kernel does not report all changes.
_POLLED_FILESYSTEMS = re.compile(
    r"nfs|cifs|smb|overlay|fuse|9p|afs|ceph|virtiofs|vboxsf|lustre|glusterfs"
)

# How long to wait for the threads of an observer that was stopped.
_JOIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Folder:
    """The folder that a root's name leads to at this moment."""

    real_path: str
    device: int
    inode: int


@dataclass(frozen=True, slots=True)
class _WatchedRoot:
    """One root that is watched.

    Used by any thread, but closed only under the watcher's lock.
    """

    folder: _Folder
    observer: BaseObserver

    @property
    def alive(self) -> bool:
        # The name is private, and there is no such thread before watchdog 7. When the thread has
        # ended, no event comes any more, and watchdog does not report it.
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
    """Watches the roots, each with an observer of its own.

    A root that can't be watched, or whose observer has ended, is repaired by ``supervise``.

    May be used from any thread. Sightings are reported from watchdog's threads, and from the one
    that calls ``start`` or ``supervise``.
    """

    def __init__(
        self,
        roots: Sequence[Path],
        sight: Callable[[Sighting], object],
        *,
        exclude: Sequence[str],
        polling: Literal["auto", "always", "never"],
    ) -> None:
        """Make the watcher; :meth:`start` makes it watch.

        Args:
            roots: The watched folders.
            sight: Called with each sighting, from several threads.
            exclude: Shell patterns for the names of files and folders that are not reported.
                Folders of the system are never reported.
            polling: Whether roots are compared again and again instead of asking the kernel. "auto"
                does so where the file system needs it.
        """
        self._roots = list(dict.fromkeys(roots))
        self._sight = sight
        self._excluded = re.compile(
            "|".join(fnmatch.translate(pattern) for pattern in (*exclude, *SYSTEM_FOLDERS))
        )
        self._polling = polling
        self._watched_roots: dict[Path, _WatchedRoot] = {}
        self._failures: dict[Path, str] = {}
        self._overflow = _OverflowHandler(self._report_all_roots)
        self._stopped = False
        self._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether every root that exists is watched. Does not access a disk, which may hang."""
        return not self._failures and all(
            watched.alive for watched in self._watched_roots.copy().values()
        )

    @property
    def failures(self) -> Mapping[Path, str]:
        """Roots that can't be watched, each with the reason. Does not access a disk."""
        return self._failures.copy()

    def start(self) -> None:
        """Watch the roots that exist; ``supervise`` adds the others when they appear."""
        logging.getLogger(_OVERFLOW_LOGGER).addHandler(self._overflow)
        # watchdog warns when a new folder has a new folder inside, because it finds the inner one
        # twice. That does no harm.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        self.supervise()

    def supervise(self) -> None:
        """Watch again each root whose observer ended, and each that was replaced or has appeared.

        Such a root is also reported as a whole, so that it is scanned. To be called every 10 s.
        """
        with self._lock:
            if self._stopped:
                return
            folders = self._folders()
            for root in self._watched_roots.keys() | self._failures.keys():
                if root not in folders:
                    self._unwatch(root)
            for root, folder in folders.items():
                watched = self._watched_roots.get(root)
                if watched is None or watched.folder != folder or not watched.alive:
                    self._unwatch(root)
                    self._watch(root, folder, again=watched is not None)

    def stop(self) -> None:
        """Watch no root any longer."""
        logging.getLogger(_OVERFLOW_LOGGER).removeHandler(self._overflow)
        with self._lock:
            self._stopped = True
            for root in list(self._watched_roots):
                self._unwatch(root)

    def seen(self, root: Path, relative: Path) -> None:
        """Report a change, unless its path is excluded.

        Args:
            root: The watched folder.
            relative: The path of the change, relative to ``root``.
        """
        # The patterns may exclude a marker file's own name, such as ".resync", but a marker must be
        # reported. So only the names of its folders are compared.
        if not self._is_excluded(relative.parent if is_marker(relative.name) else relative):
            self._sight(Sighting(root / relative))

    def _folders(self) -> Mapping[Path, _Folder]:
        """Return the roots that exist, without those that are inside another one."""
        existing: dict[Path, _Folder] = {}
        for root in self._roots:
            folder = _folder_of(root)
            if folder is not None:
                existing[root] = folder
        kept: dict[Path, _Folder] = {}
        # A folder comes before the folders inside it in the order of their names.
        for root, folder in sorted(existing.items(), key=lambda item: item[1].real_path):
            inner = Path(folder.real_path)
            if not any(self._covers(Path(outer.real_path), inner) for outer in kept.values()):
                kept[root] = folder
        return kept

    def _covers(self, outer: Path, inner: Path) -> bool:
        return inner.is_relative_to(outer) and not self._is_excluded(inner.relative_to(outer))

    def _is_excluded(self, relative: Path) -> bool:
        return any(self._excluded.match(part) for part in relative.parts)

    def _watch(self, root: Path, folder: _Folder, *, again: bool) -> None:
        """Watch ``root``, and report it as a whole: changes before may have been missed."""
        polls = self._polling == "always" or (
            self._polling == "auto"
            and _POLLED_FILESYSTEMS.match(_filesystem(folder.real_path)) is not None
        )
        # Polling does not see that a file is closed, and its modified events cost nothing more.
        events = [*_EVENTS, FileModifiedEvent] if polls else _EVENTS
        try:
            observer = PollingObserver(timeout=_POLL_SECONDS) if polls else InotifyObserver()
        except OSError as error:
            self._fail(root, error)
            return
        try:
            handler = _EventHandler(self, root, folder.real_path)
            observer.schedule(handler, folder.real_path, recursive=True, event_filter=events)
            observer.start()
        # RuntimeError means that the system refuses a thread.
        except (OSError, RuntimeError) as error:
            observer.stop()
            self._fail(root, error)
            return
        self._failures.pop(root, None)
        self._watched_roots[root] = _WatchedRoot(folder, observer)
        self._sight(Sighting(root))
        _log.info(
            "watching %s again" if again else "watching %s",
            root,
            extra={"event": "watch_rebuilt" if again else "watch_started", "polling": polls},
        )

    def _unwatch(self, root: Path) -> None:
        watched = self._watched_roots.pop(root, None)
        if watched is not None:
            watched.close()
            if _folder_of(root) is None:
                _log.warning(
                    "%s does not exist any more; it is watched again when it is back",
                    root,
                    extra={"event": "watch_lost"},
                )
        elif _folder_of(root) is None:
            self._failures.pop(root, None)

    def _fail(self, root: Path, error: OSError | RuntimeError) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        if self._failures.get(root) != reason:
            _log.warning(
                "cannot watch %s (%s): only scans find recordings there. The limit may be "
                "fs.inotify.max_user_watches",
                root,
                reason,
                extra={"event": "watch_failed"},
            )
        self._failures[root] = reason

    def _report_all_roots(self) -> None:
        """Report each root as a whole, so that all of them are scanned."""
        for root in self._roots:
            self._sight(Sighting(root))


class _EventHandler(FileSystemEventHandler):
    """Reports watchdog's events to the watcher.

    Runs in a thread of watchdog, which ends for good at an exception. So no exception leaves it.
    """

    def __init__(self, watcher: FolderWatcher, root: Path, real_path: str) -> None:
        self._watcher = watcher
        self._root = root
        self._real_path = real_path

    def dispatch(self, event: FileSystemEvent) -> None:
        try:
            for path in (event.src_path, event.dest_path):
                if path:
                    relative = Path(os.fsdecode(path)).relative_to(self._real_path)
                    self._watcher.seen(self._root, relative)
        except Exception:  # noqa: BLE001 - the next scan finds what the event was about
            _log.exception("an event was lost", extra={"event": "watch_event_lost"})


class _OverflowHandler(logging.Handler):
    """Detects that the kernel dropped events, which watchdog only writes to its log.

    Runs in a thread of watchdog.
    """

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_overflow = on_overflow

    def emit(self, record: logging.LogRecord) -> None:
        if "overflow" in record.getMessage():
            self._on_overflow()


def _folder_of(root: Path) -> _Folder | None:
    """Return the folder that ``root`` leads to; None where there is none."""
    try:
        real_path = os.path.realpath(root)
        state = os.stat(real_path)  # noqa: PTH116 - watchdog and the comparison want text
    except OSError:
        return None
    if not Path(real_path).is_dir():
        return None
    return _Folder(real_path, state.st_dev, state.st_ino)


def _filesystem(path: str, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system that ``path`` is on; "" where it can't be found out.

    Args:
        path: A real path, without links.
        mounts: A file in the format of mountinfo in proc(5).
    """
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    longest_mount_point, filesystem = "", ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mount_point = _unescaped(fields.split()[4])
        inside = path == mount_point or path.startswith(mount_point.rstrip("/") + "/")
        # Of two mounts at the same place, the later line hides the earlier one.
        if inside and len(mount_point) >= len(longest_mount_point):
            longest_mount_point, filesystem = mount_point, rest.split()[0]
    return filesystem


def _unescaped(field: str) -> str:
    """Return a field of mountinfo without its octal escapes, such as that of a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
