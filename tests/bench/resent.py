"""Table 6: what is sent again after kill -9.

A real MinIO stands behind a link that counts the bytes to the server. Each tool is killed in the
middle of its upload and then started again with the same command. The agent does what it does at
every start, without a request to resume.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import stage
from tests.bench.figures import Cell, Figure, Goal, Table, take_turns
from tests.bench.peers import PEERS, Peer
from tests.harness.agent_process import Agent
from tests.harness.s3_servers import S3Server
from tests.harness.slow_link import SlowLink, slow_link

MIB = 1024 * 1024

# The agent's default.
PART = 8  # MiB

# The share of the recording after which the tool is killed. At exactly half, parts that began
# together would also have ended together.
MOMENT = 0.45
COLUMNS = ("tool", "sent again, MiB", "of what had been sent, %", "connections in use")
_TITLE = "Sent again after kill -9 in the middle of an upload"


@dataclasses.dataclass(frozen=True, slots=True)
class Loss:
    """What one kill cost, in MiB."""

    again: float
    # The MiB that had been sent before the kill.
    before: float
    # The connections in use at the moment of the kill. Each of them carries a part.
    connections: int


def table(*, full: bool) -> Table:
    """Measure one recording of 512 MiB, or of 128 where not ``full``."""
    if shutil.which("minio") is None:
        return Table(6, _TITLE, COLUMNS, [["no minio here: make servers", None, None, None]])
    mib, rate = (512, 100 * MIB) if full else (128, 80 * MIB)
    with stage.scratch(12 * mib * MIB) as folder:
        recordings = stage.make_recordings(folder / "made", 1, mib)
        with (
            stage.minio(folder / "server", tls=False) as bucket,
            _behind(bucket.server, rate) as (link, server),
            stage.resident(server, folder / "agent") as agent,
        ):
            kills: dict[str, Callable[[], Loss]] = {
                "agent": functools.partial(_agent, agent, recordings, link)
            }
            for peer in PEERS:
                if peer.installed:
                    kills[peer.name] = functools.partial(
                        _peer, peer, recordings, link, server, folder / "home"
                    )
            measures = {
                name: functools.partial(_clean, kill, bucket, recordings)
                for name, kill in kills.items()
            }
            found = take_turns(measures, rounds=5, within=float("inf") if full else 35, least=1)
    rows: list[list[Cell]] = []
    for name in ("agent", *(peer.name for peer in PEERS)):
        if losses := found.get(name):
            shares = Figure.of(100 * loss.again / loss.before for loss in losses)
            width = Figure.of(loss.connections for loss in losses)
            rows.append([name, Figure.of(loss.again for loss in losses), shares, width])
        else:
            rows.append([f"{name}: not installed", None, None, None])
    worst = max(found["agent"], key=lambda loss: loss.again / loss.connections)
    goal = Goal(
        f"the agent sends again at most the parts in flight, of {PART} MiB",
        f"at worst {worst.again:.1f} MiB with {worst.connections} in flight",
        worst.again <= worst.connections * PART,
    )
    note = (
        f"A recording of {mib} MiB over http, killed when {MOMENT:.0%} have been sent, then the "
        "same command again."
    )
    return Table(6, _TITLE, COLUMNS, rows, [goal], [note])


@contextlib.contextmanager
def _behind(server: S3Server, rate: float) -> Iterator[tuple[SlowLink, S3Server]]:
    """Return a link to the server, and the server as clients see it behind the link."""
    with slow_link(server.endpoint.partition("://")[2], rate=rate) as link:
        yield link, dataclasses.replace(server, endpoint=f"http://{link.address}")


def _clean(kill: Callable[[], Loss], bucket: stage.Bucket, recordings: Path) -> Loss:
    loss = kill()
    bucket.empty(stage.size_of(recordings))
    return loss


def _agent(agent: Agent, recordings: Path, link: SlowLink) -> Loss:
    (path,) = recordings.iterdir()
    stage.make_new(path)
    known, began = len(agent.documents()), link.passed
    path = path.rename(agent.root / path.name)
    _await_moment(link, began, path.stat().st_size)
    connections, _ = link.busy, agent.stop(signal.SIGKILL)
    before = _drained(link) - began
    agent.start()
    agent.wait(lambda logs: len(logs) > known and logs[-1].status == "completed", 120)
    path = path.rename(recordings / path.name)
    return _loss(link.passed - began, path, before, connections)


def _peer(peer: Peer, recordings: Path, link: SlowLink, server: S3Server, home: Path) -> Loss:
    began = link.passed
    with peer.start(recordings, server, "peer", home) as child:
        _await_moment(link, began, stage.size_of(recordings))
        connections = link.busy
        assert child.poll() is None, f"{peer.name} was through before it was killed"
        os.killpg(child.pid, signal.SIGKILL)
    before = _drained(link) - began
    peer.upload(recordings, server, "peer", home)
    (path,) = recordings.iterdir()
    return _loss(link.passed - began, path, before, connections)


def _loss(passed: int, path: Path, before: int, connections: int) -> Loss:
    return Loss(max(0.0, passed - path.stat().st_size) / MIB, before / MIB, max(1, connections))


def _drained(link: SlowLink) -> int:
    """Return how much has passed, once the kernel's buffers are empty."""
    passed, nap = -1, threading.Event()
    while passed != link.passed:
        passed = link.passed
        nap.wait(0.3)
    return passed


def _await_moment(link: SlowLink, began: int, size: int) -> None:
    nap = threading.Event()
    for _ in range(60_000):
        if link.passed - began >= size * MOMENT:
            return
        nap.wait(0.002)
    raise AssertionError("nothing was sent in two minutes")
