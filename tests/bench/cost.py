"""Table 1: CPU, memory and time of an upload on this machine alone.

A real MinIO over http and https; one large recording, and many. The agent is the resident process as it runs on a
robot, in bucket mode; each peer is its whole process. What the server needs is nobody's.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.bench.figures import Cell, Figure, Goal, Table, take_turns
from tests.bench.peers import PEERS, Cost, Peer
from tests.bench.stage import Bucket, make_recordings, minio, resident, scratch, size_of, upload

GIB = 1024**3
AGENT = "agent"
COLUMNS = ("what", "CPU s/GiB", "peak MiB", "seconds")
QUICK = ("mc", "boto3")  # what the short run compares many recordings with
PYTHON = tuple(peer.name for peer in PEERS if peer.python)
LEAST_CPU, TLS_CPU, PYTHON_CPU, TLS_WALL = 0.9, 1.3, 0.5, 1.5  # times a peer's
PEAK = 80  # MiB

Costs = Mapping[str, Sequence[Cost]]


def table(*, full: bool) -> Table:
    """1 x 4 GiB and 64 x 64 MiB; or an eighth and a sixteenth of that, the latter beside few peers."""
    if shutil.which("minio") is None:
        return Table(1, _TITLE, COLUMNS, [["no minio here: make servers", None, None, None]])
    sizes = [(1, 4096), (64, 64)] if full else [(1, 512), (16, 16)]
    rows: list[Sequence[Cell]] = []
    goals: list[Goal] = []
    with scratch(3 * max(count * mib for count, mib in sizes) << 20) as folder:
        for count, mib in sizes:
            made = make_recordings(folder / f"{count}x{mib}", count, mib)
            for scheme in ("http", "https"):
                peers = [peer for peer in PEERS if full or count == 1 or peer.name in QUICK]
                costs = _measure(folder / f"{scheme}-{made.name}", made, scheme, peers, full=full)
                rows += _rows(f"{count} x {mib} MiB, {scheme}", costs, peers, size_of(made) / GIB)
                if count == 1:
                    goals += _goals(scheme, costs)
                else:
                    goals.append(_memory(scheme, costs))
            shutil.rmtree(made)
    return Table(1, _TITLE, COLUMNS, rows, goals, [_NOTE])


def _measure(folder: Path, made: Path, scheme: str, peers: Sequence[Peer], *, full: bool) -> Costs:
    """What each of them costs, in turns."""
    with minio(folder / "server", tls=scheme == "https") as bucket, resident(bucket.server, folder / "agent") as agent:
        runs: dict[str, Callable[[], Cost]] = {AGENT: functools.partial(upload, agent, made)}
        for peer in peers:
            if peer.installed:
                runs[peer.name] = functools.partial(peer.upload, made, bucket.server, "peer", folder / "home")
        measures = {name: functools.partial(_clean, run, bucket, made) for name, run in runs.items()}
        found = take_turns(measures, rounds=5, within=float("inf") if full else 4 * len(measures), least=2)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _clean(run: Callable[[], Cost], bucket: Bucket, made: Path) -> Cost:
    """A run on an empty bucket, whose upload is checked."""
    cost = run()
    bucket.empty(size_of(made))
    return cost


def _rows(where: str, costs: Costs, peers: Sequence[Peer], gib: float) -> list[Sequence[Cell]]:
    rows: list[Sequence[Cell]] = [[f"{where}:", "", "", ""]]
    for name in (AGENT, *(peer.name for peer in peers)):
        if runs := costs.get(name):
            cpu, peak, wall = zip(*((run.cpu / gib, run.peak, run.wall) for run in runs), strict=True)
            rows.append([f"  {name}", Figure(cpu), Figure(peak), Figure(wall)])
        else:
            rows.append([f"  {name}: not installed", None, None, None])
    return rows


def _goals(scheme: str, costs: Costs) -> list[Goal]:
    cpu = {name: Figure.of(run.cpu for run in runs).median for name, runs in costs.items()}
    wall = {name: Figure.of(run.wall for run in runs).median for name, runs in costs.items()}
    if scheme == "http":
        return [
            _against("http, CPU", cpu, LEAST_CPU, ["mc"]),
            _against("http, time", wall, 1.0, ["mc"]),
            _memory(scheme, costs),
        ]
    return [
        _against("https, CPU", cpu, TLS_CPU, ["mc"]),
        _against("https, CPU", cpu, PYTHON_CPU, PYTHON),
        _against("https, time", wall, TLS_WALL, ["mc"]),
        _memory(scheme, costs),
    ]


def _against(what: str, found: Mapping[str, float], most: float, peers: Sequence[str]) -> Goal:
    """That the agent needs at most so many times what the best of the ``peers`` needs."""
    there = {name: found[name] for name in peers if name in found}
    if not there:
        return Goal(f"{what} ≤ {most} x {' or '.join(peers)}", "no such peer here", None)
    best = min(there, key=lambda name: there[name])
    times = found[AGENT] / there[best]
    rival = best if len(peers) == 1 else f"the best Python peer, {best}"
    return Goal(f"{what} ≤ {most} x {rival}", f"{times:.2f} x", times <= most)


def _memory(scheme: str, costs: Costs) -> Goal:
    peak = max(run.peak for run in costs[AGENT])
    return Goal(f"{scheme}, the agent's peak memory ≤ {PEAK} MiB", f"{peak:.0f} MiB", peak <= PEAK)


_TITLE = "CPU, memory and time of an upload, to MinIO on the same machine"
_NOTE = (
    "The agent is resident, with history, logs, metrics, watching and verification on: CPU of its process from the "
    "file's appearing to completed, time from its claim to completed, peak of its whole life. A peer is one run of its "
    "whole process."
)
