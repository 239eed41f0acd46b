"""Table 4: CPU, wakeups and memory of the real command while nothing is uploaded.

All agents run at once, each with folders of its own. The table therefore takes no longer than the
slowest agent.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from agent.devcloud.cloud import DevCloud
from agent.devcloud.servers import free_port
from tests.bench.figures import Cell, Goal, Table
from tests.bench.many import recordings, uploaded, with_markers
from tests.bench.process_usage import files_of, last_status, mib, pid_of, process_usage, wait_for
from tests.harness.agent_process import Agent

RECORDER = """
import sys, time
block, size, began, written = bytes(5_000_000), 2**30, time.monotonic(), 0
with open(sys.argv[1], "wb", buffering=0) as file:
    file.write(b"\\x89MCAP0\\r\\n")
    while True:
        if file.write(block) and file.tell() > size:
            file.seek(8)
        written += len(block)
        time.sleep(max(0, began + written / 1e8 - time.monotonic()))
"""
# The default time between two scans, in seconds.
_PERIOD = 60

# The seconds in which an agent that has just started comes to rest.
_IDLE = 20.0

# The seconds within which a requested scan has ended.
_SCAN = 6.0
_DEFAULTS = {
    "WATCH__SETTLE_SECONDS": "2",
    "WATCH__SIDECAR_WAIT_SECONDS": "5",
    "RETRY__BASE_SECONDS": "30",
    "RETRY__MAX_SECONDS": "1800",
    "RETRY__JITTER_SECONDS": "30",
}


@dataclass(frozen=True, slots=True)
class IdleScene:
    """The files that an agent finds, and how to see that the agent knows all of them."""

    name: str
    prepare: Callable[[Agent], object]
    ready: Callable[[Agent], bool]
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IdleCost:
    """The cost of one agent.

    ``share`` is the share of one core, with scans as often as by default. Memory is in MiB.
    """

    share: float
    scan: float  # CPU seconds
    # The number of wakeups in a second.
    wakeups: float
    memory: float
    peak: float


def table(*, full: bool) -> Table:
    """Measure all scenes at once."""
    scenes = [
        IdleScene("nothing", lambda _: None, lambda agent: bool(last_status(agent))),
        IdleScene("a recorder at 100 MB/s", lambda _: None, lambda agent: bool(last_status(agent))),
        known_recordings(10_000),
        IdleScene(
            "10,000 queued, paused",
            _queued,
            lambda agent: last_status(agent)["standing"]["queue_length"] == 10_000,
        ),
        IdleScene(
            "10,000 markers that wait",
            _marked,
            lambda agent: len(last_status(agent).get("waiting_markers", ())) == 20,
        ),
        *([known_recordings(100_000)] if full else []),
    ]
    with (
        tempfile.TemporaryDirectory(prefix="bench-idle-") as name,
        DevCloud(Path(name) / "cloud") as cloud,
    ):
        costs = measure(cloud, Path(name), scenes, full=full)
    rows: list[Sequence[Cell]] = [
        [scene, cost.share * 100, cost.scan * 1000, cost.wakeups, cost.memory, cost.peak]
        for scene, cost in costs.items()
    ]
    few, many = costs["10,000 known files"], costs.get("100,000 known files")
    goals = [
        _goal("idle <= 0.2 % of a core with 10,000 files", "%", few.share * 100, 0.2),
        _goal("peak <= 80 MiB with 10,000 documents", "MiB", few.peak, 80),
        _goal(
            "idle <= 1 % of a core with 100,000 files", "%", many.share * 100 if many else None, 1
        ),
        _goal(
            "peak <= 110 MiB with 100,000 documents, metrics on",
            "MiB",
            many.peak if many else None,
            110,
        ),
    ]
    how = (
        f"CPU and wakeups over {2 * _PERIOD} s with the scans in them."
        if full
        else f"CPU of {_IDLE:.0f} s without a scan, and of one each {_PERIOD} s that spares no "
        "file: an upper bound."
    )
    notes = [
        how,
        (
            "Wakeups: voluntary context switches of all threads. Known files are uploaded, each "
            "with its document."
        ),
        "Memory as the kernel counts it (VmRSS, VmHWM), shared libraries and all.",
        "The recorder writes over its file after 1 GiB. Agents of all rows run at once.",
    ]
    columns = ["with", "CPU %", "a scan ms", "wakeups/s", "MiB", "peak MiB"]
    return Table(4, "What idling costs", columns, rows, goals, notes)


def known_recordings(count: int) -> IdleScene:
    """Return a scene of ``count`` uploaded recordings; with metrics where they are very many."""
    return IdleScene(
        f"{count:,} known files",
        lambda agent: uploaded(agent.state, recordings(agent.root, count)),
        lambda agent: files_of(agent) == count,
        {"METRICS__LISTEN": f"127.0.0.1:{free_port()}"} if count > 10_000 else {},
    )


def measure(
    cloud: DevCloud, folder: Path, scenes: Sequence[IdleScene], *, full: bool
) -> dict[str, IdleCost]:
    """Prepare the agents one after the other, then let all of them run and come to rest."""
    period = str(_PERIOD if full else 3600)
    agents = {}
    for number, scene in enumerate(scenes):
        settings = {**_DEFAULTS, "WATCH__RESCAN_SECONDS": period, **scene.settings}
        agent = agents[scene.name] = Agent(cloud.agent_files, folder / str(number), **settings)
        scene.prepare(agent)
    with contextlib.ExitStack() as ending, ThreadPoolExecutor(len(scenes)) as pool:
        for agent in agents.values():
            agent.start()
            ending.callback(agent.stop)
        for scene in scenes:
            wait_for(agents[scene.name], scene.ready, 900)
        ending.enter_context(_recorder(agents["a recorder at 100 MB/s"].root / "growing.mcap"))
        time.sleep(_IDLE)
        return dict(
            zip(
                agents, pool.map(_over_scans if full else _scan_apart, agents.values()), strict=True
            )
        )


def _over_scans(agent: Agent) -> IdleCost:
    """Measure over two periods, including their scans."""
    pid = pid_of(agent)
    before = process_usage(pid)
    time.sleep(2 * _PERIOD)
    spent = process_usage(pid) - before
    quiet = spent.cpu / (2 * _PERIOD)
    return IdleCost(quiet, _a_scan(agent, quiet), spent.wakeups / (2 * _PERIOD), *_memory(pid))


def _scan_apart(agent: Agent) -> IdleCost:
    """Measure the idle time and one scan, each alone."""
    pid = pid_of(agent)
    before = process_usage(pid)
    time.sleep(_IDLE)
    spent = process_usage(pid) - before
    quiet = spent.cpu / _IDLE
    scan = _a_scan(agent, quiet)
    return IdleCost(quiet + scan / _PERIOD, scan, spent.wakeups / _IDLE, *_memory(pid))


def _a_scan(agent: Agent, quiet: float) -> float:
    """Return the CPU seconds of one requested scan, beyond what the same idle time costs."""
    pid, marker = pid_of(agent), agent.state / "markers" / "rescan"
    before = process_usage(pid)
    marker.touch()
    time.sleep(_SCAN)
    # The agent removes the marker file when the scan has ended.
    assert not marker.exists()
    return max(0.0, (process_usage(pid) - before).cpu - quiet * _SCAN)


def _memory(pid: int) -> tuple[float, float]:
    return mib(pid, "VmRSS"), mib(pid, "VmHWM")


def _queued(agent: Agent) -> None:
    recordings(agent.root, 10_000)
    markers = agent.state / "markers"
    markers.mkdir(parents=True)
    (markers / "pause").touch()


def _marked(agent: Agent) -> None:
    list(with_markers(recordings(agent.root, 10_000)))


@contextlib.contextmanager
def _recorder(path: Path) -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", RECORDER, str(path)]) as child:
        try:
            yield
        finally:
            child.kill()


def _goal(text: str, unit: str, measured: float | None, most: float) -> Goal:
    if measured is None:
        return Goal(text, "only in the full run", None)
    return Goal(text, f"{measured:.2f} {unit}", measured <= most)
