"""The agent of one robot, built by the assembly of the running agent, on fakes.

Time stands still, and work runs only when the test says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.adapters.assets import AssetFile
from agent.adapters.config import Settings
from agent.adapters.systemd import SystemdNotifier
from agent.assembly.app import App
from agent.assembly.ports import AgentPorts
from agent.assembly.upkeep import build_retention
from agent.model.errors import CloudError
from agent.model.sync_log import SyncLog
from agent.model.values import DeviceProfile, Enrolled, Recording
from agent.retention.retention import Free, Retention, free_space
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.gateway import PROFILE, FakeGateway
from tests.harness.fakes.history import MemoryHistory
from tests.harness.fakes.keys import FakeKeys
from tests.harness.fakes.store import FakeStore
from tests.harness.recorders import write_mcap

# The agent's build date in seconds since 1970. A correct clock is never before it.
BUILT = 1_700_000_000

_BYTES_PER_GIB = 1024**3
_SECONDS_PER_HOUR = 3600


class DeferredExecutor(Executor):
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


class ManualScheduler:
    """Implements ``ports.JobScheduler``, and runs no job. A test calls the jobs itself."""

    def __init__(self) -> None:
        # The jobs by the qualified name of their function.
        self.jobs: dict[str, Any] = {}
        self.running = False

    def set(self, jobs: Iterable[tuple[Callable[[], Any], float]]) -> None:
        self.jobs = {job.__qualname__: job for job, _ in jobs}

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def pull_back(self) -> None:
        """Do nothing, because no job has a date."""


class FakeProfiles:
    """Implements ``RelocatableProfiles`` with profiles that a test may change."""

    def __init__(self) -> None:
        self.profiles: dict[str, DeviceProfile] = {PROFILE.asset_id: PROFILE}
        self.error: CloudError | None = None

    def load(self) -> Mapping[str, DeviceProfile]:
        if self.error is not None:
            raise self.error
        return self.profiles

    def device_init(self) -> str:
        """Return "", because no device of the tests needs to enrol."""
        return ""

    def stamp(self) -> object:
        return self.error, tuple(self.profiles.items())

    def changing(self) -> AbstractContextManager[None]:
        return nullcontext()

    def put(self, asset_id: str, enrolled: Enrolled) -> None:
        raise NotImplementedError

    def find(self) -> None:
        """Do nothing, because there is no file."""


@dataclass(frozen=True)
class FakeCloud:
    """Implements ``CloudPorts`` with fakes, which stay the same whatever the settings are."""

    fake_store: FakeStore
    fake_gateway: FakeGateway
    fake_profiles: FakeProfiles
    fake_keys: FakeKeys

    def store(self, settings: Settings) -> FakeStore:
        del settings
        return self.fake_store

    def gateway(self, settings: Settings) -> FakeGateway:
        del settings
        return self.fake_gateway

    def profiles(self, settings: Settings) -> FakeProfiles:
        del settings
        return self.fake_profiles

    def keys(self, settings: Settings) -> FakeKeys:
        del settings
        return self.fake_keys


class AssetEntries(MutableMapping[str, str]):
    """The entries of a robot's asset file, which tests change as an operator does."""

    def __init__(self, file: AssetFile) -> None:
        self._file = file

    def __getitem__(self, robot: str) -> str:
        return self._file.known()[robot]

    def __setitem__(self, robot: str, asset: str) -> None:
        with self._file.change() as entries:
            entries[robot] = asset

    def __delitem__(self, robot: str) -> None:
        with self._file.change() as entries:
            del entries[robot]

    def __iter__(self) -> Iterator[str]:
        return iter(self._file.known())

    def __len__(self) -> int:
        return len(self._file.known())


class Robot:
    """One robot with its agent. ``restart`` does what a new start of the agent does."""

    def __init__(
        self, folder: Path, *, store: FakeStore | None = None, **changes: Mapping[str, Any]
    ) -> None:
        """Build the agent, which watches ``folder``.

        ``changes`` are settings by section and key.
        """
        self.folder = folder
        self.state_dir = folder.parent / f"{folder.name}-state"
        folder.mkdir(exist_ok=True)
        self.state_dir.mkdir(exist_ok=True)
        self.clock = FakeClock()
        self.store = store or FakeStore()
        self.gateway = FakeGateway(self.store, self.clock)
        self.profiles = FakeProfiles()
        self.history = MemoryHistory(self.clock)
        self.assets = AssetEntries(AssetFile(self.state_dir, {}))
        # The names of the jobs that are running.
        self._running: set[str] = set()
        self._sections: dict[str, dict[str, Any]] = {
            "agent": {"state_dir": self.state_dir, "device_id": "robot"},
            "watch": {"roots": [folder]},
            "upload": {"max_concurrent": 1, "part_concurrency": 1},
            "retry": {"jitter_seconds": 0},
            "retention": {"delete_after_upload": True, "keep_hours": 0},
        }
        self.restart(**changes)

    def restart(self, **changes: Mapping[str, Any]) -> None:
        """Build the agent again, on the history as it is.

        ``changes`` are settings by section and key. They stay in force.
        """
        for section, values in changes.items():
            self._sections.setdefault(section, {}).update(values)
        self.history = self.history.reopened()
        self.keys = FakeKeys(self.clock)
        self.executor = DeferredExecutor()
        self.app = App(self.settings(), self.ports())
        self.app.prepare()
        self.gate, engine = self.app.gate, self.app.engine
        self.dispatch, self.requests, self.markers = (
            engine.dispatch,
            engine.requests,
            engine.markers,
        )
        self.upload, self.credentials = engine.connection.upload, engine.connection.credentials
        self.examiner, self.discover, self.intake = (
            engine.discovery.examiner,
            engine.discovery.discover,
            engine.discovery.intake,
        )
        self.retention = self.retaining(keep_seconds=0)

    def settings(self) -> Settings:
        """Return the settings with which the agent starts."""
        return Settings.model_validate(self._sections, context={"home": str(self.state_dir)})

    def ports(self) -> AgentPorts:
        """Return the ports on which the agent is built."""
        return AgentPorts(
            robot="robot",
            clock=self.clock,
            history=self.history,
            cloud=FakeCloud(self.store, self.gateway, self.profiles, self.keys),
            executor=self.executor,
            scheduler=ManualScheduler(),
            notifier=SystemdNotifier({}),
            hide=lambda *_, **__: None,
            built=BUILT,
        )

    @property
    def marked(self) -> Path:
        """The folder for markers that belong to no watched folder."""
        return self.state_dir / "markers"

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
        self.app.jobs.tick()
        for _ in range(most):
            if not self.executor.waiting:
                return
            self.executor.waiting.popleft()()

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, and let the agent work."""
        self.clock.advance(seconds)
        self.run()

    def discover_due(self) -> None:
        """Let discovery and markers do all work that is due."""
        while self.discover.next_step() <= self.clock.monotonic():
            self.app.engine.discovery.run_once(self.dispatch)
        self.app.jobs.handle_markers()

    def find_names(self) -> None:
        """Let discovery see and examine the files that lie on the disk now. Nothing is sent."""
        self.discover.rescan()
        # A recording that may get a sidecar is examined twice.
        for _ in range(4):
            self.discover_due()
            self.clock.advance(3)

    def run_due_work(self) -> None:
        """Run once all that works by itself: discovery, leases, dispatch, uploads, orphans."""
        self.discover_due()
        self._run_job(self.app.jobs.refresh)
        self.run()
        self._run_job(self.app.engine.connection.abort_orphans)

    def pass_time(self, seconds: float, steps: int = 4) -> None:
        """Let ``seconds`` pass in ``steps`` steps, and let the agent work after each."""
        for _ in range(steps):
            self.clock.advance(seconds / steps)
            self.run_due_work()

    def settle(self) -> None:
        """Let enough time pass that every recording is found and uploaded."""
        self.discover.rescan()
        self.pass_time(20, steps=10)

    def retaining(
        self, *, keep_seconds: float | None = None, min_free: float = 0, free: Free = free_space
    ) -> Retention:
        """Return the retention with these rules, as it is after a start of the agent."""
        engine, shared = self.app.engine, self.app.shared
        rules = {
            "delete_after_upload": keep_seconds is not None,
            "keep_hours": (keep_seconds or 0) / _SECONDS_PER_HOUR,
            "min_free_gib": min_free / _BYTES_PER_GIB,
        }
        section = engine.settings.retention.model_copy(update=rules)
        retention = build_retention(
            engine.settings.model_copy(update={"retention": section}),
            replace(shared, ports=replace(shared.ports, free_space=free)),
            engine.connection,
            engine.discovery,
            engine.dispatch,
        )
        assert retention is not None
        return retention

    def log(self, id_: int = 1) -> SyncLog:
        """Return a document in its present state."""
        return self.history.get(id_)

    def stored(self, log: SyncLog) -> bytes:
        """Return the bytes of its object in the bucket."""
        return self.store.content(log.require_session().bucket, log.object_key)

    def _run_job(self, job: Callable[[], Any]) -> None:
        """Run a job unless it runs already: the scheduler never runs a job beside itself."""
        if job.__qualname__ in self._running:
            return
        self._running.add(job.__qualname__)
        try:
            job()
        finally:
            self._running.remove(job.__qualname__)


class UploadedRobot(Robot):
    """A robot that has uploaded some recordings."""

    def __init__(self, folder: Path, *names: str) -> None:
        """Write and upload recordings with these ``names`` below its root."""
        super().__init__(folder)
        for seed, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_mcap(folder / name, size=1000, seed=seed)
        self.settle()
        assert [log.status for log in self.history.documents.values()] == ["completed"] * len(names)
