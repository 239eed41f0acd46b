"""The flow rooms joined as `app` joins them, on fakes: time stands still and work runs when the test says so."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from agent.adapters.assets import AssetFile
from agent.cloud.credentials import Credentials
from agent.cloud.identity import asset_id
from agent.discovery.discover import Discover
from agent.discovery.examine import Examiner
from agent.dispatch.claim import UploadTerms
from agent.dispatch.discovery_loop import DiscoveryLoop
from agent.dispatch.dispatch import Dispatch
from agent.dispatch.intake import Intake
from agent.gate.gate import Delays, Gate
from agent.model.errors import CloudError, HistoryFullError
from agent.model.ports import Gateway, Profiles
from agent.model.sync_log import SyncLog
from agent.model.values import DeviceProfile, Recording
from agent.operations.asset_binding import Bindings
from agent.operations.markers import Markers
from agent.operations.requests import Requests
from agent.retention.clock_safe_age import ClockSafeAge
from agent.retention.confirm import Confirm
from agent.retention.deletion import Deletion
from agent.retention.retention import Free, Retention, free_space
from agent.upload.concurrency import PartConcurrency
from agent.upload.prepare import Prepare
from agent.upload.upload import Upload
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.gateway import PROFILE, FakeGateway
from tests.harness.fakes.history import MemoryHistory
from tests.harness.fakes.store import FakeStore
from tests.harness.recorders import write_mcap

BUILT = 1_700_000_000  # no right clock says less


class Later(Executor):
    """Keeps what is submitted until it is run, one after the other, in the test's thread."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], Any]] = deque()
        self.broken = False  # no thread can be started

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        if self.broken:
            raise RuntimeError("can't start new thread")
        self.waiting.append(lambda: call(*arguments, **named))
        return Future()


class FakeProfiles:
    """Implements ``ports.Profiles``."""

    def __init__(self) -> None:
        self.profiles: dict[str, DeviceProfile] = {PROFILE.asset_id: PROFILE}
        self.error: CloudError | None = None

    def load(self) -> Mapping[str, DeviceProfile]:
        if self.error is not None:
            raise self.error
        return self.profiles


class Robot:
    """One robot; ``restart`` is what a new start of the agent does."""

    def __init__(
        self, folder: Path, *, store: FakeStore | None = None, max_concurrent: int = 1
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.clock = FakeClock()
        self.store = store or FakeStore()
        self.gateway = FakeGateway(self.store, self.clock)
        self.profiles = FakeProfiles()
        self.history = MemoryHistory(self.clock)
        self.assets: dict[str, str] = {}
        self.sidecar_required = False
        self.newest_first = False
        self.secrets: set[str] = set()
        self.offset: float | None = (
            None  # by which the cloud's clock is ahead, as far as it is known
        )
        self._max_concurrent = max_concurrent
        self.restart()

    def restart(self) -> None:
        """Build the rooms anew on the history as it is."""
        self.history = self.history.reopened()
        self.later = Later()
        delays = Delays(base=30, maximum=1800, jitter=0)
        self.gate = Gate(self.clock, delays)
        self.credentials = Credentials(self.seam(), self.clock, self.hidden)
        self.upload = Upload(
            store=self.store,
            credentials=self.credentials,
            history=self.history,
            gate=self.gate,
            clock=self.clock,
            max_restarts=3,
            pace=PartConcurrency(1),
        )
        self.examiner = Examiner([self.folder], "optional")
        self.intake = Intake(
            history=self.history, clock=self.clock, device_id="robot", snapshot=lambda _: ""
        )
        prepare = Prepare(
            history=self.history,
            gate=self.gate,
            upload=self.upload,
            examiner=self.examiner,
            names=self._names,
            asset_id=self._asset_id,
            profiles=self.known_profiles(),
            clock=self.clock,
            unfinished_minutes=10,
            sidecar_required=self.sidecar_required,
            agent_version="0",
        )
        self.dispatch = Dispatch(
            history=self.history,
            gate=self.gate,
            clock=self.clock,
            executor=self.later,
            terms=UploadTerms(
                prepare=prepare,
                upload=self.upload,
                delays=delays,
                max_concurrent=self._max_concurrent,
                max_attempts=5,
                settle_seconds=2,
                newest_first=self.newest_first,
            ),
            built=BUILT,
        )

    def known_profiles(self) -> Profiles:
        """What the robot was enrolled with."""
        return self.profiles

    def seam(self) -> Gateway:
        """Who is asked for sessions."""
        return self.gateway

    def hidden(self, *secrets: str, lasting: bool = False) -> None:
        """Where secrets are told."""
        del lasting
        self.secrets |= set(secrets)

    def record(self, name: str = "a.mcap", *, size: int = 3000, seed: int = 0) -> SyncLog:
        """Finish a recording and queue it."""
        path = write_mcap(self.folder / name, size=size, seed=seed)
        return self.find(path)

    def find(self, path: Path) -> SyncLog:
        """Queue what lies at ``path``."""
        found = self.examiner.look(path, sidecar_overdue=True)
        assert isinstance(found, Recording)
        log = self.intake.accept(found)
        assert log is not None
        return log

    def run(self, most: int = 100) -> None:
        """Tick, and do the work that comes of it until there is none."""
        self.dispatch.tick()
        for _ in range(most):
            if not self.later.waiting:
                return
            self.later.waiting.popleft()()

    def advance(self, seconds: float) -> None:
        """Let time pass and the agent work."""
        self.clock.advance(seconds)
        self.run()

    def log(self, id_: int = 1) -> SyncLog:
        """A document as it is now."""
        return self.history.get(id_)

    def stored(self, log: SyncLog) -> bytes:
        """What the bucket has of it."""
        return self.store.content(log.bucket, log.object_key)

    def _names(self, fingerprint: str) -> list[Path]:
        names = []
        for path in sorted(self.folder.rglob("*.mcap")):
            if path.is_symlink():
                continue
            found = self.examiner.look(path, sidecar_overdue=True, done_overdue=True)
            if isinstance(found, Recording) and str(found.fingerprint) == fingerprint:
                names.append(path)
        return names

    def _asset_id(
        self, recording: Recording, snapshot: str, profiles: Mapping[str, DeviceProfile]
    ) -> str:
        return asset_id(
            recording,
            robot="robot",
            known=self.assets,
            snapshot=snapshot,
            profiles=profiles,
            default="",
        )


class WatchingRobot(Robot):
    """The same with the finder: recordings are found as the agent finds them, and all that is timed is done."""

    def restart(self) -> None:
        super().restart()
        self.discover = Discover(
            self.examiner,
            self.clock,
            roots=self.roots,
            include=["*.mcap"],
            exclude=[".*", "*.tmp"],
            settle_seconds=2,
            rescan_seconds=60,
            sidecar="optional",
            sidecar_wait_seconds=5,
            unfinished_minutes=10,
        )
        self.requests = Requests(
            history=self.history,
            intake=self.intake,
            examiner=self.examiner,
            state=self.discover.stands,
            below=self.discover.below,
            names=self.discover.names,
        )
        self.markers = Markers(
            folder=self.marked,
            history=self.history,
            requests=self.requests,
            discover=self.discover,
            gate=self.gate,
            clock=self.clock,
            rescan=self.discover.rescan,
            bindings=Bindings(AssetFile(self.marked.parent, {}), self.known_profiles()),
        )
        self.markers.prepare()
        self.markers.check_pause()
        self._paying = threading.Lock()  # the scheduler runs a job once at a time
        self.finder = DiscoveryLoop(self.discover, self.intake, queue.Queue(), self.clock)
        self.deletion = Deletion(self.roots, with_sidecar=True)
        self.retention = self.retaining(keep_seconds=0)

    @property
    def marked(self) -> Path:
        """The folder of markers that belong to no watched one."""
        return self.folder.parent / f"{self.folder.name}-state" / "markers"

    @property
    def roots(self) -> list[Path]:
        """The watched folders."""
        return [self.folder]

    def retaining(
        self, *, keep_seconds: float | None = None, min_free: float = 0, free: Free = free_space
    ) -> Retention:
        """What deletes by these rules, as it is after a start."""
        confirm = Confirm(
            history=self.history,
            gate=self.gate,
            credentials=self.credentials,
            profiles=self.known_profiles(),
            clock=self.clock,
            delays=Delays(base=30, maximum=1800, jitter=0),
        )
        return Retention(
            history=self.history,
            confirm=confirm,
            deletion=self.deletion,
            age=ClockSafeAge(self.clock, built=BUILT, offset=lambda: self.offset),
            clock=self.clock,
            names=self.discover.names,
            there=self.discover.there,
            busy=lambda fingerprint: any(
                claim.log.fingerprint == fingerprint for claim in self.dispatch.in_flight()
            ),
            roots=self.roots,
            keep_seconds=keep_seconds,
            min_free=min_free,
            free=free,
        )

    def look(self) -> None:
        """Let the finder do what is due."""
        while self.discover.next_step() <= self.clock.monotonic():
            try:
                self.finder.once()
            except HistoryFullError as error:
                self.dispatch.disk_failed(error)
        try:
            self.markers.handle_due()
        except HistoryFullError as error:
            self.dispatch.disk_failed(error)

    def turn(self) -> None:
        """One turn of all that works by itself: finder, refresher, dispatcher, workers, aborting of orphans."""
        self.look()
        self.credentials.refresh_due()
        self.run()
        closed = self.gate.closed()
        nobody_probes = closed is not None and closed.cause == "cloud" and not self.history.open()
        if (closed is None or nobody_probes) and self._paying.acquire(blocking=False):
            try:
                with contextlib.suppress(CloudError):  # the next turn tries again
                    self.upload.abort_orphans(self.profiles.load())
            finally:
                self._paying.release()

    def pass_time(self, seconds: float, turns: int = 4) -> None:
        """Let time pass in a few steps and the agent work after each."""
        for _ in range(turns):
            self.clock.advance(seconds / turns)
            self.turn()

    def _names(self, fingerprint: str) -> list[Path]:
        return list(self.discover.names(fingerprint))


class UploadedRobot(WatchingRobot):
    """A robot that has uploaded some recordings."""

    def __init__(self, folder: Path, *names: str) -> None:
        """``names`` below its root."""
        super().__init__(folder)
        for seed, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_mcap(folder / name, size=1000, seed=seed)
        self.settle()
        assert [log.status for log in self.history.documents.values()] == ["completed"] * len(names)

    def settle(self) -> None:
        """The time after which everything that was there has been looked at and sent."""
        self.discover.rescan()
        self.pass_time(20, turns=10)
