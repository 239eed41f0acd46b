"""Watches the folders and makes documents of the recordings that it finds there.

A reload builds a new service if a setting of ``watch.*`` has changed.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Container

from agent.adapters.config import Settings
from agent.adapters.watch import FolderWatcher
from agent.assembly.feature_settings import examiner_of, oldest_wanted, waiting_rules
from agent.discovery.discover import Discover
from agent.dispatch.discovery_loop import DiscoveryLoop
from agent.dispatch.dispatch import Dispatch
from agent.dispatch.intake import Intake
from agent.model.errors import HistoryFullError
from agent.model.ports import Clock, History
from agent.model.sync_log import SyncLog
from agent.model.values import Recording, Sighting

_log = logging.getLogger(__name__)

# How long the search waits after an unexpected error, so that an error that comes back each time
# does not fill the log.
_PAUSE_AFTER_ERROR_SECONDS = 10.0


class DiscoveryService:
    """The watcher of the folders and the thread that makes documents of what it reports.

    The watcher's threads put sightings on a queue. One thread of this service takes them from the
    queue, and scans the folders when a scan is due.

    Every method may be called from any thread. ``start`` is called once.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        history: History,
        clock: Clock,
        robot: str,
        snapshot: Callable[[Recording], str],
        can_revise: Callable[[SyncLog], bool],
        again: Container[int],
    ) -> None:
        """Build the parts. No folder is read.

        Args:
            settings: The configuration, of which ``watch.*`` is used.
            history: The history in which documents are made.
            clock: The robot's clocks.
            robot: The robot's own id.
            snapshot: Returns the asset id that a recording has when it is found.
            can_revise: Returns whether the manifest of a completed document can be written anew.
            again: Ids of documents that failed for good and are tried once more when their
                recordings are found.
        """
        watch = settings.watch
        self._stopping = threading.Event()
        # A None on the queue wakes the thread.
        self._sightings: queue.Queue[Sighting | None] = queue.Queue()
        self.watcher = FolderWatcher(
            watch.roots, self._sightings.put, exclude=watch.exclude, polling=watch.polling
        )
        self.examiner = examiner_of(watch)
        self.discover = Discover(
            self.examiner,
            clock,
            roots=watch.roots,
            include=watch.include,
            exclude=watch.exclude,
            sidecar=watch.sidecar,
            waits=waiting_rules(watch),
            newer_than=oldest_wanted(settings, clock),
            follow_symlinks=watch.follow_symlinks,
            boot_time=clock.now() - clock.monotonic(),
        )
        self.intake = Intake(
            history=history,
            clock=clock,
            device_id=robot,
            snapshot=snapshot,
            can_revise=can_revise,
            auto=watch.auto,
            again=again,
        )
        self.loop = DiscoveryLoop(self.discover, self.intake, self._sightings, clock)
        self._thread: threading.Thread | None = None

    def start(self, dispatch: Dispatch) -> None:
        """Start the thread. It calls ``dispatch`` when there is new work."""
        self._thread = threading.Thread(
            target=self._run, args=(dispatch,), name="finder", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def rescan(self) -> None:
        """Scan all folders soon."""
        self.discover.rescan()
        self._wake()

    def request_stop(self) -> None:
        """Begin nothing new. Does not wait."""
        self._stopping.set()
        self._wake()

    def stop(self, seconds: float) -> bool:
        """Stop, and return whether the thread has ended within ``seconds``. A disk may hang."""
        self.request_stop()
        self.watcher.stop()
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.alive

    def run_once(self, dispatch: Dispatch) -> None:
        """Take in what is due, and call ``dispatch``.

        The errors of both are raised, except that of a full disk.
        """
        try:
            if self.loop.once():
                dispatch.tick()
        except HistoryFullError as error:
            dispatch.disk_failed(error)

    def _wake(self) -> None:
        self._sightings.put(None)

    def _run(self, dispatch: Dispatch) -> None:
        while not self._stopping.is_set():
            try:
                self.run_once(dispatch)
            except Exception:  # noqa: BLE001 - an unexpected error must not end the search
                _log.exception(
                    "the search for recordings failed and is tried again", extra={"event": "bug"}
                )
                self._stopping.wait(_PAUSE_AFTER_ERROR_SECONDS)
