"""Table 2: how much of a link an upload fills.

A real MinIO over https stands behind emulated links. A process of its own emulates a round trip, a
rate for all connections together, and a smaller rate for each connection, as in a distant network
that gives every connection its share. The kernel's own emulation (netem) is not in every kernel. A
raw stream is measured, too, because the emulation must not be what limits the tools.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench import stage
from tests.bench.figures import Cell, Figure, Goal, Table, take_turns
from tests.bench.peers import PEERS, Cost, Peer
from tests.bench.stage import MIB
from tests.harness.s3_servers import S3Server

# The rate of the whole link, in bytes a second.
ALL = 200e6 / 8

# The rate of one connection, in bytes a second. Eight connections fill the link.
EACH = 25e6 / 8

# The number of streams of the raw measurement.
STREAMS = 16

# The least share of the link that the agent must fill, in per cent.
LEAST = 95

# A share of a share. A difference below this value is noise of the measurement.
NOISE = 0.03

# The fastest peer on a link. rclone, which sends files side by side, fills half of what mc fills.
PEER = "mc"
AGENT = "agent"
FIRST = "agent, its first"
RAW = "raw stream"

# The part size that the agent chooses for recordings of this size.
PART = 8 * MIB

# The calls that an upload of the agent makes one after the other, beside its parts. Connecting
# counts as two of them.
CALLS = 9

# The default number of recordings at once. The benchmark sends as many.
AT_ONCE = 2
_TITLE = "Share of an emulated link that an upload fills, %"


@dataclasses.dataclass(frozen=True, slots=True)
class LinkProperties:
    """The properties of an emulated link."""

    name: str
    round_trip: float  # seconds
    # Every fourth connection is reset after so many bytes.
    reset_after: int | None = None


LINKS = (
    LinkProperties("5 ms", 0.005),
    LinkProperties("50 ms", 0.05),
    LinkProperties("200 ms", 0.2),
    LinkProperties("50 ms, resets", 0.05, 6 * MIB),
)


class Emulated:
    """An emulated link that runs."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self.address = self._said()

    def passed(self) -> int:
        """Return the number of bytes that were sent to the server."""
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        return int(self._said())

    def _said(self) -> str:
        assert self._child.stdout is not None
        return self._child.stdout.readline().strip()


@contextlib.contextmanager
def emulated(link: LinkProperties, target: str) -> Iterator[Emulated]:
    """Run that link to ``target`` in a process of its own, while the block lasts."""
    options = ["--round-trip", str(link.round_trip), "--each", str(EACH), "--all", str(ALL)]
    options += ["--reset-after", str(link.reset_after)] if link.reset_after else []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.harness.slow_link", target, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        try:
            yield Emulated(child)
        finally:
            child.stdin.close()


@dataclasses.dataclass(frozen=True, slots=True)
class Filled:
    """How much of a link was filled, in per cent.

    One value counts the recordings' own bytes, and the other all bytes that were sent.
    """

    share: float
    busy: float
    seconds: float


def table(*, full: bool) -> Table:
    """Measure two recordings of 384 MiB in five runs; or two of 64 MiB in one run."""
    columns = ("tool", *(link.name for link in LINKS))
    if shutil.which("minio") is None:
        return Table(2, _TITLE, columns, [["no minio here: make servers", *(None for _ in LINKS)]])
    mib = 384 if full else 64
    peers = [peer for peer in PEERS if peer.name == PEER]
    with stage.scratch(3 * AT_ONCE * mib * MIB) as folder:
        recordings = stage.make_recordings(folder / "made", AT_ONCE, mib)
        with stage.minio(folder / "server", tls=True) as bucket:
            found = [
                _measure(link, bucket, recordings, peers, rounds=5 if full else 1) for link in LINKS
            ]
    names = [RAW, AGENT, FIRST, *(peer.name for peer in peers)]
    rows = [[_named(name, peers), *(_cell(filled.get(name)) for filled in found)] for name in names]
    goals = [
        goal for link, filled in zip(LINKS, found, strict=True) for goal in _goals(link, filled)
    ]
    note = (
        f"{ALL * 8 / 1e6:.0f} Mbit/s in all, {EACH * 8 / 1e6:.0f} for a connection; {AT_ONCE} "
        f"x {mib} MiB, https. "
        "With resets every fourth connection is reset after 6 MiB. The agent's first upload "
        "on a link has yet to find "
        "how many parts fill it."
    )
    return Table(2, _TITLE, columns, rows, goals, [note])


def _measure(
    link: LinkProperties,
    bucket: stage.Bucket,
    recordings: Path,
    peers: Sequence[Peer],
    *,
    rounds: int,
) -> Mapping[str, Sequence[Filled]]:
    """Measure all tools on one link, in turns; a tool that gave up has no result."""
    size = stage.size_of(recordings)
    home = bucket.folder.parent / "home"
    with emulated(link, bucket.server.endpoint.partition("://")[2]) as near:
        server = dataclasses.replace(bucket.server, endpoint=f"https://{near.address}")
        with _agent(server, bucket.folder.parent / link.name) as upload:
            first = _fill(functools.partial(upload, recordings), near, bucket, size)
            runs = {AGENT: functools.partial(upload, recordings)}
            runs |= {
                peer.name: functools.partial(peer.upload, recordings, server, "peer", home)
                for peer in peers
                if peer.installed
            }
            measures = {
                name: functools.partial(_fill, run, near, bucket, size)
                for name, run in runs.items()
            }
            turns = take_turns(measures, rounds=rounds)
    found = {name: [one for one in filled if one is not None] for name, filled in turns.items()}
    raw = _raw(link, min(size // 2, 128 * MIB))
    return {**found, FIRST: [first] if first else [], RAW: [Filled(raw, raw, 0)]}


@contextlib.contextmanager
def _agent(server: S3Server, folder: Path) -> Iterator[Callable[[Path], Cost]]:
    with stage.resident(server, folder) as agent:
        yield functools.partial(stage.upload, agent)


def _fill(
    run: Callable[[], Cost], near: Emulated, bucket: stage.Bucket, size: int
) -> Filled | None:
    before = near.passed()
    try:
        cost = run()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        bucket.clear()
        return None
    sent = near.passed() - before
    bucket.empty(size)
    return Filled(100 * size / cost.wall / ALL, 100 * sent / cost.wall / ALL, cost.wall)


def _raw(link: LinkProperties, size: int) -> float:
    """Return what plain streams fill where no connection is reset."""
    with socket.create_server(("127.0.0.1", 0), backlog=STREAMS) as server:
        target = f"127.0.0.1:{server.getsockname()[1]}"
        with emulated(dataclasses.replace(link, reset_after=None), target) as near:
            host, _, port = near.address.partition(":")
            began = time.monotonic()
            senders = [
                threading.Thread(target=_pour, args=(host, int(port), size // STREAMS))
                for _ in range(STREAMS)
            ]
            for sender in senders:
                sender.start()
            drains = [
                threading.Thread(target=_drain, args=(server.accept()[0],)) for _ in range(STREAMS)
            ]
            for drain in drains:
                drain.start()
            for each in (*senders, *drains):
                each.join()
            return 100 * (size // STREAMS) * STREAMS / (time.monotonic() - began) / ALL


def _pour(host: str, port: int, size: int) -> None:
    block = bytes(64 * 1024)
    with socket.create_connection((host, port)) as stream:
        for start in range(0, size, len(block)):
            stream.sendall(block[: size - start])


def _drain(stream: socket.socket) -> None:
    with stream:
        while stream.recv(1 << 18):
            pass


def _named(name: str, peers: Sequence[Peer]) -> str:
    absent = any(peer.name == name and not peer.installed for peer in peers)
    return f"{name}: not installed" if absent else name


def _cell(filled: Sequence[Filled] | None) -> Cell:
    if filled is None:
        return None
    return Figure.of(one.share for one in filled) if filled else "gave up"


def _goals(link: LinkProperties, found: Mapping[str, Sequence[Filled]]) -> list[Goal]:
    shares = {
        name: Figure.of(one.share for one in filled).median
        for name, filled in found.items()
        if filled
    }
    rivals = {name: share for name, share in shares.items() if name not in {AGENT, FIRST, RAW}}
    agent = shares[AGENT]
    # Every tool must send again what a reset destroys. With resets, all bytes that are sent count.
    busy = Figure.of(one.busy for one in found[AGENT]).median if link.reset_after else agent
    seconds = Figure.of(one.seconds for one in found[AGENT]).median
    waits = 100 * CALLS * link.round_trip / seconds
    why = f"so short an upload waits {waits:.0f} % of its time for {CALLS} calls"
    # The part that is sent again ends after all others.
    alone = 100 * PART / EACH / seconds if link.reset_after else 0.0
    if alone:
        why += f", and {alone:.0f} % for the part that was cut last"
    why = why if busy + waits + alone >= LEAST else ""
    goals = [Goal(f"{link.name}: the agent fills ≥ {LEAST} %", f"{busy:.0f} %", busy >= LEAST, why)]
    if rivals:
        best = max(rivals, key=lambda name: rivals[name])
        times = agent / rivals[best]
        goals.append(
            Goal(
                f"{link.name}: not behind the best peer, {best}",
                f"{times:.2f} x",
                times >= 1 - NOISE,
            )
        )
    return goals
