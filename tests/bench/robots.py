"""A fleet after a power cut.

Usage: ``python -m tests.bench.robots [--robots 1000] [--jitter 30] [--store minio]``.

All robots are switched on at the same moment, in a few processes. Each has an id, a state folder
and a recording of its own, and runs the agent's real features. At the first power-on no robot has a
key, so each one enrols and uploads. Then the power comes back a second time. The program prints
what the one embedded cloud saw of the robots.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import logging
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.adapters.clock import RealClock
from agent.adapters.config import Settings
from agent.adapters.history import TinyHistory
from agent.adapters.store import MinioStore
from agent.adapters.systemd import SystemdNotifier
from agent.assembly.app import App
from agent.assembly.cloud_adapters import CloudAdapters
from agent.assembly.ports import AgentPorts
from agent.devcloud.cloud import DevCloud
from agent.model.ports import Clock
from agent.model.sync_log import SyncLog
from agent.model.values import Recording
from tests.harness import s3_servers as servers
from tests.harness.recorders import write_mcap
from tests.harness.robot import DeferredExecutor, ManualScheduler

KIB = 1024

# The seconds that a fleet has from its power-on.
PATIENCE = 240.0

# The most seconds that a fleet takes to make its folders and objects.
BUILDING = 300.0

# The seconds between two turns of a robot that has no next date.
TICK = 1.0
_RPCS = (
    "init_device",
    "exchange_credential",
    "create_logical_upload",
    "get_upload_recovery",
    "complete_upload",
)


class UpTime(RealClock):
    """The clocks of a robot that was switched on when its power came, later than this machine."""

    def __init__(self) -> None:
        super().__init__()
        self.switch_on()

    def switch_on(self) -> None:
        """Start to count the time since the robot was switched on."""
        self._on = super().monotonic()

    def monotonic(self) -> float:
        return super().monotonic() - self._on


@dataclass(frozen=True, slots=True)
class RobotOutcome:
    """The result of one power-on for one robot."""

    robot: str
    enrolled: bool
    file: Path
    # The key is "" where nothing was uploaded.
    object_key: str


class _OpenedCloud(CloudAdapters):
    """The adapters of the cloud, with a store that was opened before the power comes."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        super().__init__({}, clock, _hide, connections=2)
        self._opened_store = super().store(settings)

    def store(self, settings: Settings) -> MinioStore:
        del settings
        return self._opened_store


def _hide(*_secrets: str, lasting: bool = False) -> None:
    """Hide nothing, because the keys of this fleet are no secrets."""
    del lasting


class FleetRobot:
    """One agent, built by the assembly of the running agent.

    One thread does in turns what the scheduler does in the real agent.
    """

    def __init__(self, folder: Path, jitter: float, number: int) -> None:
        """Make, before the power comes, what would slow down a thousand robots on one machine."""
        self.id = folder.name
        root = folder / "recordings"
        self.file = write_mcap(root / f"{number}.mcap", size=16 * KIB, seed=hash((self.id, number)))
        state = folder / "state"
        self._settings = Settings.model_validate(
            {
                "agent": {"state_dir": state, "device_id": self.id},
                "watch": {"roots": [root]},
                "cloud": {"dp_config": state / "dp-config.json"},
                "upload": {"max_concurrent": 1, "part_concurrency": 1},
                "retry": {"jitter_seconds": jitter},
            },
            context={"home": str(folder)},
        )
        self._clock = UpTime()
        self._executor = DeferredExecutor()
        self._ports = AgentPorts(
            robot=self.id,
            clock=self._clock,
            history=TinyHistory(state / "history", self._clock, reserve=16 * KIB),
            cloud=_OpenedCloud(self._settings, self._clock),
            executor=self._executor,
            scheduler=ManualScheduler(),
            notifier=SystemdNotifier({}),
            hide=_hide,
        )

    def live(self) -> RobotOutcome:
        """Run from the power-on until the recording is uploaded or the time is over."""
        clock = self._clock
        clock.switch_on()
        app = App(self._settings, self._ports)
        app.prepare()
        connection, discovery = app.engine.connection, app.engine.discovery
        assert connection.enrolling is not None
        found = discovery.examiner.look(self.file, sidecar_overdue=True)
        assert isinstance(found, Recording)
        queued = discovery.intake.accept(found)
        assert queued is not None
        log: SyncLog = queued
        nap = threading.Event()
        while log.open and clock.monotonic() < PATIENCE:
            closed = app.gate.closed()
            date = closed.next_probe if closed else None
            nap.wait(TICK if date is None else max(0.01, min(date - clock.monotonic(), PATIENCE)))
            connection.enrolling.enrol_if_due()
            app.jobs.tick()
            while self._executor.waiting:
                self._executor.waiting.popleft()()
            log = app.history.get(queued.id)
        enrolled = self.id in connection.backend.profiles.load()
        connection.close()
        app.history.close()
        return RobotOutcome(self.id, enrolled, self.file, log.object_key if log.synced else "")


class _WarningCollector(logging.Handler):
    """Collects every warning of a robot as an error, because nothing is broken here."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def run_robots(
    folders: Sequence[Path], jitter: float, number: int, power: Any
) -> tuple[list[RobotOutcome], list[str]]:
    """Run some robots of the fleet in this process, each in a thread.

    Return the results of the robots and the warnings that they logged.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # No robot uses TLS here. Without this line each store would read all certificate authorities.
    os.environ["SSL_CERT_FILE"] = os.devnull
    collector = _WarningCollector()
    logging.getLogger("agent").addHandler(collector)
    robots = [FleetRobot(folder, jitter, number) for folder in folders]
    on = threading.Barrier(len(robots) + 1)

    def one(robot: FleetRobot) -> RobotOutcome:
        on.wait()
        return robot.live()

    with ThreadPoolExecutor(len(robots)) as threads:
        results = [threads.submit(one, robot) for robot in robots]
        power.wait(BUILDING)
        on.wait()
        return [outcome.result() for outcome in results], collector.texts


class CallRecorder:
    """Which devices called the platform, and when."""

    def __init__(self, platform: DevCloud) -> None:
        """Count the calls of ``platform``, which must not run yet."""
        self._platform = platform
        # Each entry is the time of a call, and the device or the key that called.
        self._calls: list[tuple[float, str]] = []
        for name in _RPCS:
            setattr(platform.rules, name, self._noting(getattr(platform.rules, name)))

    def _noting(self, rpc: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(rpc)
        def answer(request: Any, device: str = "") -> Any:
            who = device or getattr(request, "device_id", "") or request.credential
            self._calls.append((time.monotonic(), who))
            return rpc(request, device) if device else rpc(request)

        return answer

    def since(self, moment: float) -> tuple[list[float], int, int]:
        """Return when robots were first seen, all calls, and the calls of the busiest second.

        The times are in seconds since ``moment``, in order.
        """
        names = {device.api_key: device.id for device in self._platform.devices()}
        calls = [
            (when - moment, names.get(who, who)) for when, who in self._calls if when >= moment
        ]
        first = {who: when for when, who in reversed(calls)}
        busiest = Counter(int(when) for when, _ in calls).most_common(1)
        return sorted(first.values()), len(calls), busiest[0][1] if busiest else 0


@dataclass(frozen=True, slots=True)
class FleetResult:
    """The results of one power-on of the fleet."""

    robots: int
    enrolled: int
    uploaded: int
    equal: int
    errors: Sequence[str]
    # The seconds from power-on until the platform saw each robot, in order.
    first: Sequence[float]
    calls: int
    # The number of calls in the busiest second.
    busiest: int
    seconds: float

    @property
    def good(self) -> bool:
        """Whether every robot enrolled and uploaded without an error."""
        return not self.errors and {self.enrolled, self.uploaded, self.equal, len(self.first)} == {
            self.robots
        }

    def __str__(self) -> str:
        p95 = self.first[int(len(self.first) * 0.95)] if self.first else 0.0
        middle = statistics.median(self.first) if self.first else 0.0
        seen = (
            f"{min(self.first, default=0):.1f} / {middle:.1f} / {p95:.1f} / "
            f"{max(self.first, default=0):.1f} s"
        )
        return (
            f"errors {len(self.errors)}, enrolled {self.enrolled}, uploaded {self.uploaded}, "
            f"bytes equal {self.equal}\n"
            f"first seen by the platform, min / median / p95 / max: {seen} after power-on\n"
            f"busiest second: {self.busiest} of {self.calls} calls; the last upload ended "
            f"after {self.seconds:.1f} s"
        )


class RobotFleet:
    """The robots, and the cloud that they share."""

    def __init__(
        self, folder: Path, platform: DevCloud, robots: int, *, jitter: float, processes: int
    ) -> None:
        """Prepare the folders of the robots; ``platform`` already runs."""
        self._platform, self._jitter, self._processes = platform, jitter, processes
        self._folders = [folder / f"robot-{number:04}" for number in range(robots)]
        places = dict.fromkeys(("auth", "gateway", "deviceInit"), platform.gateway_url)
        for each in self._folders:
            (each / "state").mkdir(parents=True)
            (each / "recordings").mkdir()
            (each / "state" / "dp-config.json").write_text(json.dumps({"endpoints": places}))

    def power_on(self, recorder: CallRecorder, number: int) -> FleetResult:
        """Switch all robots on at once, each with its recording of that ``number``."""
        shares = [self._folders[first :: self._processes] for first in range(self._processes)]
        # gRPC does not survive a fork.
        context = multiprocessing.get_context("spawn")
        with context.Manager() as manager, ProcessPoolExecutor(self._processes, context) as pool:
            power = manager.Barrier(self._processes + 1)
            futures = [
                pool.submit(run_robots, share, self._jitter, number, power) for share in shares
            ]
            power.wait(BUILDING)
            began = time.monotonic()
            results, errors = zip(*(each.result() for each in futures), strict=True)
            seconds = time.monotonic() - began
        outcomes: list[RobotOutcome] = list(itertools.chain(*results))
        first, calls, busiest = recorder.since(began)
        return FleetResult(
            robots=len(self._folders),
            enrolled=sum(outcome.enrolled for outcome in outcomes),
            uploaded=sum(bool(outcome.object_key) for outcome in outcomes),
            equal=sum(
                self._platform.read_object(outcome.object_key) == outcome.file.read_bytes()
                for outcome in outcomes
                if outcome.object_key
            ),
            errors=list(itertools.chain(*errors)),
            first=first,
            calls=calls,
            busiest=busiest,
            seconds=seconds,
        )


@contextmanager
def switched_on(
    robots: int, *, jitter: float, store: str = "auto", processes: int = 2
) -> Iterator[Iterator[FleetResult]]:
    """Run a fleet's power-ons, one after the other."""
    with tempfile.TemporaryDirectory(prefix="bench-robots-") as name:
        platform = DevCloud(Path(name) / "cloud", store=store, devices=())
        recorder = CallRecorder(platform)
        with platform:
            fleet = RobotFleet(
                Path(name), platform, robots, jitter=jitter, processes=min(processes, robots)
            )
            yield (fleet.power_on(recorder, number) for number in itertools.count(1))


def main() -> int:
    """Print both power-ons; return 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--robots", type=int, default=1000)
    parser.add_argument("--jitter", type=float, default=30, help="retry.jitter_seconds")
    parser.add_argument("--store", default="auto", choices=["auto", *servers.available()])
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    options = parser.parse_args()
    began = time.monotonic()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    good = True
    with switched_on(
        options.robots, jitter=options.jitter, store=options.store, processes=options.processes
    ) as power_ons:
        for state, outcome in zip(("without a key", "with a key"), power_ons, strict=False):
            print(
                f"{outcome.robots} robots {state}, jitter {options.jitter:g} s\n{outcome}\n",
                flush=True,
            )
            for error in outcome.errors[:10]:
                print(f"  {error}")
            good = good and outcome.good
    print(f"all of it took {time.monotonic() - began:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
