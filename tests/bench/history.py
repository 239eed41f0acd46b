"""What the history costs: ``python -m tests.bench.history [--full]``."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from agent.edges.history import TinyHistory
from agent.model.nouns import SyncLog
from tests.fakes.clock import FakeClock

SIZES = (100, 1_000, 10_000)
FULL = 100_000
OPEN = 50  # documents that have not ended; a robot that keeps up has few
REPEATS = 200


def recording(number: int) -> SyncLog:
    """A document as they are on a robot: about 1.3 KiB."""
    name = f"session_{number // 50:06}/episode_{number:06}_0.mcap"
    return SyncLog(
        id=0,
        episode_id=f"task-2026-09-{number:08}",
        path=f"/data/recordings/2026-09-21/{name}",
        file_size=1_500_000_000 + number,
        mtime="2026-09-21T14:13:20.000Z",
        fingerprint=f"{1_500_000_000 + number}-{number:064x}",
        sidecar_sha256=f"{number:064x}",
        queued_at="2026-09-21T14:13:22.000Z",
        device_id="robot-0001",
        asset_id="asset-0001",
        raw_tags={f"tag_{index}": "a value of usual length" for index in range(10)},
        bucket="recordings",
        object_key=f"robot-0001/2026-09-21/{name}",
        logical_upload_id=f"lu-{number:032x}",
        upload_id=f"u-{number:032x}",
        part_size_bytes=8 << 20,
    )


def fill(folder: Path, documents: int) -> None:
    """All but the last have been uploaded."""
    history = TinyHistory(folder, FakeClock())
    for first in range(0, documents, 1000):
        with history.transaction():
            for number in range(first, min(first + 1000, documents)):
                log = history.add(recording(number))
                if number < documents - OPEN:
                    history.move(log.id, "claimed")
                    history.move(log.id, "done", etag='"0123456789abcdef-179"', bytes_sent=log.file_size)
    history._storage.compact()
    history.close()


def milliseconds(work: Callable[[int], object]) -> float:
    """The median of many runs."""
    taken = []
    for number in range(REPEATS):
        before = time.perf_counter()
        work(number)
        taken.append((time.perf_counter() - before) * 1000)
    return statistics.median(taken)


def measure(folder: Path, documents: int) -> dict[str, Any]:
    """Open the history of this process's own, and use it."""
    process = psutil.Process()
    memory = process.memory_info().rss
    before = time.perf_counter()
    history = TinyHistory(folder, FakeClock())
    opened = time.perf_counter() - before
    memory = process.memory_info().rss - memory
    row = {
        "documents": documents,
        "journal MiB": history._storage._end / 2**20,
        "open s": opened,
        "memory MiB": memory / 2**20,
        "lookup ms": milliseconds(lambda number: history.newest(recording(number * documents // REPEATS).fingerprint)),
        "update ms": milliseconds(lambda number: history.amend(documents - number % OPEN, bytes_sent=number + 1)),
    }
    history.close()
    return row


def main() -> None:
    """Print a table; each size is measured in a process of its own."""
    if "--one" in sys.argv:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]))))
        return
    sizes = (*SIZES, FULL) if "--full" in sys.argv else SIZES
    for number, documents in enumerate(sizes):
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder) / "history", documents)
            command = [sys.executable, "-m", "tests.bench.history", "--one", f"{folder}/history", str(documents)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if number == 0:
            print(*(f"{name:>12}" for name in row))
        print(*(f"{value:>12.2f}" if isinstance(value, float) else f"{value:>12,}" for value in row.values()))


if __name__ == "__main__":
    main()
