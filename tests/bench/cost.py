"""Table 1: CPU, memory and time of an upload on this machine alone.

The store is a real MinIO over http and https, or a store that throws everything away, where nothing
but the client limits the time. One large recording and many small ones are uploaded. The agent is
the resident process as it runs on a robot, in bucket mode. Each peer is measured as its whole
process. What the server needs is not counted.
"""

from __future__ import annotations

import functools
import itertools
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.bench.figures import Cell, Figure, Goal, Table, take_turns
from tests.bench.peers import BARE, PEERS, Cost, Peer
from tests.bench.stage import (
    Bucket,
    make_recordings,
    minio,
    resident,
    scratch,
    sink,
    size_of,
    upload,
)

GIB = 1024**3
AGENT = "agent"
SCHEMES = ("http", "https")
COLUMNS = ("what", "CPU s/GiB", "peak MiB", "seconds")

# The peers of the settings that have no goal which compares all peers.
FEW = ("mc", "boto3")
PYTHON = tuple(peer.name for peer in PEERS if peer.python)

# The goals: the agent needs at most so many times what the best peer needs.
LEAST_CPU = 0.9
TLS_CPU = 1.3
PYTHON_CPU = 0.5
TLS_WALL = 1.5

# A share of a time. A difference below this share is noise of the measurement.
NOISE = 0.03
PEAK = 80  # MiB

Costs = Mapping[str, Sequence[Cost]]


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What is uploaded, to which store, and by which peers."""

    count: int
    mib: int
    # The store is "MinIO", or "sink", which throws away what it gets.
    store: str
    scheme: str
    peers: Sequence[Peer]

    def __str__(self) -> str:
        return f"{self.count} x {self.mib} MiB, {self.store}, {self.scheme}"

    def serve(self, folder: Path) -> AbstractContextManager[Bucket]:
        """Serve the setting's store while the block lasts."""
        return (minio if self.store == "MinIO" else sink)(folder, tls=self.scheme == "https")


def table(*, full: bool) -> Table:
    """Measure 1 x 4 GiB and 64 x 64 MiB; an eighth and a sixteenth of these where not ``full``."""
    if shutil.which("minio") is None:
        return Table(1, _TITLE, COLUMNS, [["no minio here: make servers", None, None, None]])
    few = [peer for peer in PEERS if peer.name in FEW]
    large, many = ((1, 4096), (64, 64)) if full else ((1, 512), (16, 16))
    settings = [Setting(*large, "MinIO", scheme, PEERS) for scheme in SCHEMES]
    settings += [Setting(*large, "sink", scheme, [*few, BARE]) for scheme in SCHEMES]
    settings += [Setting(*many, "MinIO", scheme, few) for scheme in SCHEMES]
    found: dict[Setting, Costs] = {}
    rows: list[Sequence[Cell]] = []
    with scratch(3 * large[0] * large[1] << 20) as folder:
        for size, alike in itertools.groupby(
            settings, lambda setting: (setting.count, setting.mib)
        ):
            recordings = make_recordings(folder / "made", *size)
            for setting in alike:
                found[setting] = _measure(folder / "work", recordings, setting, full=full)
                rows += _rows(setting, found[setting], size_of(recordings) / GIB)
            shutil.rmtree(recordings)
    return Table(1, _TITLE, COLUMNS, rows, _goals(found), [_NOTE])


def _measure(folder: Path, recordings: Path, setting: Setting, *, full: bool) -> Costs:
    """Measure the costs of the agent and of each peer, in turns."""
    with (
        setting.serve(folder / "server") as bucket,
        resident(bucket.server, folder / "agent") as agent,
    ):
        runs: dict[str, Callable[[], Cost]] = {AGENT: functools.partial(upload, agent, recordings)}
        for peer in setting.peers:
            if peer.installed:
                runs[peer.name] = functools.partial(
                    peer.upload, recordings, bucket.server, "peer", folder / "home"
                )
        measures = {
            name: functools.partial(_clean, run, bucket, recordings) for name, run in runs.items()
        }
        found = take_turns(
            measures, rounds=5, within=float("inf") if full else 4 * len(measures), least=2
        )
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _clean(run: Callable[[], Cost], bucket: Bucket, recordings: Path) -> Cost:
    """Run on an empty bucket, and check what was uploaded."""
    cost = run()
    bucket.empty(size_of(recordings))
    return cost


def _rows(setting: Setting, costs: Costs, gib: float) -> list[Sequence[Cell]]:
    rows: list[Sequence[Cell]] = [[f"{setting}:", "", "", ""]]
    for name in (AGENT, *(peer.name for peer in setting.peers)):
        if runs := costs.get(name):
            cpu, peak, wall = zip(
                *((run.cpu / gib, run.peak, run.wall) for run in runs), strict=True
            )
            rows.append([f"  {name}", Figure(cpu), Figure(peak), Figure(wall)])
        else:
            rows.append([f"  {name}: not installed", None, None, None])
    return rows


def _goals(found: Mapping[Setting, Costs]) -> list[Goal]:
    """Return the goals for one large recording to MinIO.

    The runs against the sink explain what MinIO's server slows down.
    """
    large = {
        (setting.store, setting.scheme): costs
        for setting, costs in found.items()
        if setting.count == 1
    }
    cpu, wall = (
        {where: _medians(costs, what) for where, costs in large.items()} for what in ("cpu", "wall")
    )
    goals = []
    for scheme, most, peers in (
        ("http", LEAST_CPU, ["mc"]),
        ("https", TLS_CPU, ["mc"]),
        ("https", PYTHON_CPU, PYTHON),
    ):
        goal = _against(f"{scheme}, CPU", cpu["MinIO", scheme], most, peers)
        best = min(
            (cpu["MinIO", scheme][name] for name in peers if name in cpu["MinIO", scheme]),
            default=math.inf,
        )
        floor = cpu["sink", scheme][BARE.name] / best
        why = (
            f"{BARE.name}, sent to the sink without signature, HTTP library and history, cost "
            f"{floor:.2f} x"
        )
        goals.append(replace(goal, explanation=why if floor > most else ""))
    for scheme, most in (("http", 1.0), ("https", TLS_WALL)):
        alone = _against("", wall["sink", scheme], most + NOISE, ["mc"])
        why = f"the store's work; where it does none, {alone.measured}" if alone.met else ""
        goal = _against(f"{scheme}, time", wall["MinIO", scheme], most, ["mc"])
        goals.append(replace(goal, explanation=why))
    peak = max(run.peak for costs in found.values() for run in costs[AGENT])
    return [*goals, Goal(f"the agent's peak memory ≤ {PEAK} MiB", f"{peak:.0f} MiB", peak <= PEAK)]


def _medians(costs: Costs, what: str) -> dict[str, float]:
    return {
        name: Figure.of(getattr(run, what) for run in runs).median for name, runs in costs.items()
    }


def _against(what: str, found: Mapping[str, float], most: float, peers: Sequence[str]) -> Goal:
    """Return the goal that the agent needs at most ``most`` times what the best peer needs."""
    there = {name: found[name] for name in peers if name in found}
    if not there:
        return Goal(f"{what} ≤ {most} x {' or '.join(peers)}", "no such peer here", None)
    best = min(there, key=lambda name: there[name])
    times = found[AGENT] / there[best]
    rival = best if len(peers) == 1 else f"the best Python peer, {best}"
    return Goal(f"{what} ≤ {most} x {rival}", f"{times:.2f} x", times <= most)


_TITLE = "CPU, memory and time of an upload to a store on the same machine"
_NOTE = (
    "The agent is resident, with history, logs, metrics, watching and verification on: "
    "CPU of its process from the file's appearing to completed, "
    "time from its claim to completed, peak of its whole life. "
    "A peer is one run of its whole process. The sink throws away what it gets. "
    "The bytes alone: each read and digested, then read and sent, by one loop over one connection."
)
