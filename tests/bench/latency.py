"""Throughput by round trip and parts in flight: ``python -m tests.bench.latency [--store minio]``.

A real store behind a link on which each connection has 20 Mbit/s; what 16 of them have together is the whole link.
For "measured" each round trip begins with a pace that knows nothing, and shows a first and a second recording.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

from agent.edges.clock import RealClock
from agent.edges.store import MinioStore
from agent.flow.credentials import SessionKeys
from agent.flow.gate import Delays, Gate
from agent.flow.pace import MOST, Pace
from agent.flow.sender import Sender
from agent.flow.source import Source
from agent.model.nouns import Transfer, UploadSession, parts_of
from tests import servers
from tests.oracle import LEASE
from tests.test_parts_in_flight import File, SameKeys

MIB = 1024 * 1024
CONNECTION = 20e6 / 8  # bytes a second
LINK = MOST * CONNECTION
ROUND_TRIPS = (0.005, 0.05, 0.2)
FIXED = (1, 4, 10, 16)
_KEYS = itertools.count(1)


@contextlib.contextmanager
def link(target: str, round_trip: float) -> Iterator[str]:
    """The address of a slow link, in a process of its own."""
    command = [sys.executable, "-m", "tests.slowlink", target, "--round-trip", str(round_trip)]
    with subprocess.Popen(
        [*command, "--rate", str(CONNECTION)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.stdin.close()


def upload(endpoint: str, pace: Pace, size: int, file: int, ca_file: str) -> float:
    """Bytes a second of one recording's way into the bucket, from its first call to its last."""
    clock, key = RealClock(), f"{next(_KEYS)}.mcap"
    store = MinioStore(clock=clock, ca_file=ca_file, connections=MOST)
    target = store.at(UploadSession("l", "u", "recordings", endpoint, key, "us-east-1", 8 * MIB), lambda: LEASE)
    gate, keys = Gate(clock, Delays(1, 1, 0)), cast("SessionKeys", SameKeys())
    sender = Sender(target, keys, gate, pace, clock, who=1, transfer=Transfer(size), probe=False)
    began = time.monotonic()
    multipart = target.begin()
    target.complete(multipart, sender.send(multipart, parts_of(size, 8 * MIB), cast("Source", File(file))))
    seconds = time.monotonic() - began
    store.close()
    return size / seconds


def shown(rate: float) -> str:
    """Mbit/s, and the share of the link."""
    return f"{rate * 8 / 1e6:6.0f} {rate / LINK:5.0%}"


def row(endpoint: str, mib: int, file: int, ca_file: str) -> Sequence[str]:
    """One round trip with each width; few connections get less to carry, so that all take about as long."""
    cells = [shown(upload(endpoint, Pace(width), max(32, mib * width // MOST) * MIB, file, ca_file)) for width in FIXED]
    pace = Pace()
    rates = [upload(endpoint, pace, mib * MIB, file, ca_file) for _ in range(2)]
    return [*cells, *map(shown, rates), f"{pace.width:3}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="rclone", choices=servers.available())
    parser.add_argument("--mib", type=int, default=768)
    parser.add_argument("--tls", action="store_true")
    options = parser.parse_args()
    print(f"Mbit/s and share of a link of {LINK * 8 / 1e6:.0f} Mbit/s, 20 for each connection")
    print("round trip  " + "".join(f"{f'{width} parts':>13}" for width in FIXED) + "     measured:  1st          2nd")
    with tempfile.TemporaryDirectory(prefix="bench-latency-") as name, (Path(name) / "file").open("w+b") as file:
        os.truncate(file.fileno(), options.mib * MIB)
        folder = Path(name) / "server"
        (folder / "data" / "recordings").mkdir(parents=True)
        with servers.start(options.store, folder, tls=options.tls) as server:
            scheme, _, address = server.endpoint.partition("://")
            for round_trip in ROUND_TRIPS:
                with link(address, round_trip) as near:
                    cells = row(f"{scheme}://{near}", options.mib, file.fileno(), str(server.ca_file or ""))
                print(f"{round_trip * 1000:7.0f} ms  " + " ".join(cells) + " parts", flush=True)


if __name__ == "__main__":
    main()
