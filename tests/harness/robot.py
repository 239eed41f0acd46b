"""The features of one agent joined on fakes.

Time stands still, and work runs only when the test says so.
"""

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

# The agent's build date in seconds since 1970. A correct clock is never before it.
BUILT = 1_700_000_000


class Later(Executor):
    """An executor that keeps submitted calls until the test runs them in its own thread."""

    def __init__(self) -> None:
        self.waiting: deque[Callable[[], Any]] = deque()
        # A test sets this to imitate that no thread can be started.
        self.broken = False

    def submit(self, call: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        if self.broken:
            raise RuntimeError("can't start new thread")
        self.waiting.append(lambda: call(*arguments, **named))
        return Future()


class FakeProfiles:
    """Implements ``ports.Profiles`` with profiles that a test may change."""

    def __init__(self) -> None:
        self.profiles: dict[str, DeviceProfile] = {PROFILE.asset_id: PROFILE}
        self.error: CloudError | None = None

    def load(self) -> Mapping[str, DeviceProfile]:
        if self.error is not None:
            raise self.error
        return self.profiles


class Robot:
    """One robot with its agent. ``restart`` does what a new start of the agent does."""

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
        # By how many seconds the cloud's clock is ahead; None while that is not known.
        self.offset: float | None = None
        self._max_concurrent = max_concurrent
        self.restart()

    def restart(self) -> None:
        """Build all features again, on the history as it is."""
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
        """Return the profiles with which the robot was enrolled."""
        return self.profiles

    def seam(self) -> Gateway:
        """Return the gateway that opens upload sessions."""
        return self.gateway

    def hidden(self, *secrets: str, lasting: bool = False) -> None:
        """Remember secrets that must not be logged."""
        del lasting
        self.secrets |= set(secrets)

    def record(self, name: str = "a.mcap", *, size: int = 3000, seed: int = 0) -> SyncLog:
        """Write a recording, queue it, and return its document."""
        path = write_mcap(self.folder / name, size=size, seed=seed)
        return self.find(path)

    def find(self, path: Path) -> SyncLog:
        """Queue the recording at ``path``, and return its document."""
        found = self.examiner.look(path, sidecar_overdue=True)
        assert isinstance(found, Recording)
        log = self.intake.accept(found)
        assert log is not None
        return log

    def run(self, most: int = 100) -> None:
        """Tick once, and then run submitted work until there is none, at most ``most`` calls."""
        self.dispatch.tick()
        for _ in range(most):
            if not self.later.waiting:
                return
            self.later.waiting.popleft()()

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, and let the agent work."""
        self.clock.advance(seconds)
        self.run()

    def log(self, id_: int = 1) -> SyncLog:
        """Return a document in its present state."""
        return self.history.get(id_)

    def stored(self, log: SyncLog) -> bytes:
        """Return the bytes of its object in the bucket."""
        return self.store.content(log.require_session().bucket, log.object_key)

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
    """A robot that also finds recordings as the agent does, and runs all timed work."""

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
        # The scheduler never runs one job twice at the same time, so this class does not, either.
        self._aborting_orphans = threading.Lock()
        self.finder = DiscoveryLoop(self.discover, self.intake, queue.Queue(), self.clock)
        self.deletion = Deletion(self.roots, with_sidecar=True)
        self.retention = self.retaining(keep_seconds=0)

    @property
    def marked(self) -> Path:
        """The folder for markers that belong to no watched folder."""
        return self.folder.parent / f"{self.folder.name}-state" / "markers"

    @property
    def roots(self) -> list[Path]:
        """The watched folders."""
        return [self.folder]

    def retaining(
        self, *, keep_seconds: float | None = None, min_free: float = 0, free: Free = free_space
    ) -> Retention:
        """Return the retention with these rules, as it is after a start of the agent."""
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
        """Let discovery and markers do all work that is due."""
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
        """Run once all that works by itself: discovery, leases, dispatch, uploads, orphans."""
        self.look()
        self.credentials.refresh_due()
        self.run()
        closed = self.gate.closed()
        no_probe_waits = closed is not None and closed.cause == "cloud" and not self.history.open()
        if (closed is None or no_probe_waits) and self._aborting_orphans.acquire(blocking=False):
            try:
                # After an error the next turn tries again.
                with contextlib.suppress(CloudError):
                    self.upload.abort_orphans(self.profiles.load())
            finally:
                self._aborting_orphans.release()

    def pass_time(self, seconds: float, turns: int = 4) -> None:
        """Let ``seconds`` pass in ``turns`` steps, and let the agent work after each."""
        for _ in range(turns):
            self.clock.advance(seconds / turns)
            self.turn()

    def _names(self, fingerprint: str) -> list[Path]:
        return list(self.discover.names(fingerprint))


class UploadedRobot(WatchingRobot):
    """A robot that has uploaded some recordings."""

    def __init__(self, folder: Path, *names: str) -> None:
        """Write and upload recordings with these ``names`` below its root."""
        super().__init__(folder)
        for seed, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_mcap(folder / name, size=1000, seed=seed)
        self.settle()
        assert [log.status for log in self.history.documents.values()] == ["completed"] * len(names)

    def settle(self) -> None:
        """Let enough time pass that every recording is found and uploaded."""
        self.discover.rescan()
        self.pass_time(20, turns=10)
