"""Who watches the folders and queues what is found there. Another one takes its place when watch.* changes."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Container

from agent.adapters.config import Settings
from agent.adapters.watch import FolderWatcher
from agent.assembly.feature_settings import oldest_wanted
from agent.discovery.discover import Discover
from agent.discovery.examine import Examiner
from agent.dispatch.discovery_loop import DiscoveryLoop
from agent.dispatch.dispatch import Dispatch
from agent.dispatch.intake import Intake
from agent.model.errors import HistoryFullError
from agent.model.ports import Clock, History
from agent.model.values import Recording, Sighting

_log = logging.getLogger(__name__)

_PAUSE = 10.0  # seconds after a mistake


class DiscoveryService:
    """Observers put sightings on a queue, the finder's thread makes documents of them."""

    def __init__(
        self,
        settings: Settings,
        *,
        history: History,
        clock: Clock,
        robot: str,
        snapshot: Callable[[Recording], str],
        again: Container[int],
    ) -> None:
        """Look at nothing yet.

        Args:
            settings: Those of watch.* are heeded.
            history: Where documents are made.
            clock: The robot's.
            robot: Its own id.
            snapshot: The asset id that a recording has when it is found.
            again: Ids of documents that failed for good and are tried once more where their recordings are found.
        """
        watch = settings.watch
        self._ended = threading.Event()
        self._sightings: queue.Queue[Sighting | None] = queue.Queue()
        self.watch = FolderWatcher(
            watch.roots, self._sightings.put, exclude=watch.exclude, polling=watch.polling
        )
        self.examiner = Examiner(
            watch.roots,
            watch.sidecar,
            follow_symlinks=watch.follow_symlinks,
            send_unfinished=watch.unfinished == "upload",
        )
        self.discover = Discover(
            self.examiner,
            clock,
            roots=watch.roots,
            include=watch.include,
            exclude=watch.exclude,
            settle_seconds=watch.settle_seconds,
            rescan_seconds=watch.rescan_seconds,
            sidecar=watch.sidecar,
            sidecar_wait_seconds=watch.sidecar_wait_seconds,
            unfinished_minutes=watch.unfinished_minutes,
            newer_than=oldest_wanted(settings, clock),
            follow_symlinks=watch.follow_symlinks,
            boot_time=clock.now() - clock.monotonic(),
        )
        self.intake = Intake(
            history=history,
            clock=clock,
            device_id=robot,
            snapshot=snapshot,
            auto=watch.auto,
            again=again,
        )
        self.finder = DiscoveryLoop(self.discover, self.intake, self._sightings, clock)
        self._thread: threading.Thread | None = None

    def start(self, dispatch: Dispatch) -> None:
        """Find, and tell ``dispatch`` when there is new work."""
        self._thread = threading.Thread(
            target=self._find, args=(dispatch,), name="finder", daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether somebody looks for recordings."""
        return self._thread is not None and self._thread.is_alive()

    def rescan(self) -> None:
        """Have everything looked at soon."""
        self.discover.rescan()
        self._wake()

    def end(self) -> None:
        """Begin nothing more."""
        self._ended.set()
        self._wake()

    def stop(self, seconds: float) -> bool:
        """Let go of the folders; tells whether the finder has ended within ``seconds``. A disk may hang."""
        self.end()
        self.watch.stop()
        if self._thread is not None:
            self._thread.join(seconds)
        return not self.alive

    def _wake(self) -> None:
        self._sightings.put(None)

    def _find(self, dispatch: Dispatch) -> None:
        while not self._ended.is_set():
            try:
                self._find_once(dispatch)
            except Exception:  # noqa: BLE001 - whatever it is, looking must go on
                _log.exception(
                    "looking for recordings failed; it is tried again", extra={"event": "bug"}
                )
                self._ended.wait(_PAUSE)

    def _find_once(self, dispatch: Dispatch) -> None:
        """Find what is due, and tell ``dispatch``, whose errors are raised like the finder's."""
        try:
            if self.finder.once():
                dispatch.tick()
        except HistoryFullError as error:
            dispatch.disk_failed(error)
