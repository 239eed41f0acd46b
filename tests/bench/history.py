"""What the history costs with so many full documents: ``python -m tests.bench.history [--short]``.

Each size is measured in a process of its own; times are medians. 1 where it is more than is promised.
"""

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
from agent.model.states import Event
from tests.fakes.clock import FakeClock

SIZES = (100, 1_000, 10_000, 100_000)
OPEN = 50  # documents that have not ended; a robot that keeps up has few
REPEATS = 500
ONCE = 5  # so often is measured what takes long
PROMISED = {
    "path ms": 5.0,
    "episode ms": 5.0,
    "bytes ms": 5.0,
    "memory MiB": 30.0,
    "ratio": 1.5,  # of a transition, fsync included, to one among the fewest documents
    "open s": 2.0,
    "list s": 3.0,
}


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
                    complete(history, log)
    history._storage.compact()
    history.close()


def complete(history: TinyHistory, log: SyncLog) -> None:
    """Fill every field that an upload fills."""
    history.move(log.id, "claimed", phase="opening", multipart_upload_id=f"{log.id:096x}")
    history.move(
        log.id,
        "done",
        phase="completing",
        etag='"0123456789abcdef0123456789abcdef-179"',
        checksum="q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=-179",
        part_count=179,
        bytes_sent=log.file_size,
        duration_seconds=187.25,
        credential_refreshes=1,
    )


def milliseconds(work: Callable[[int], object], repeats: int = REPEATS) -> float:
    """The median of many runs."""
    taken = []
    for number in range(repeats):
        before = time.perf_counter()
        work(number)
        taken.append((time.perf_counter() - before) * 1000)
    return statistics.median(taken)


def seconds(work: Callable[[], object]) -> float:
    """The median of a few runs."""
    return milliseconds(lambda _: work(), ONCE) / 1000


def ratio(history: TinyHistory, documents: int) -> tuple[float, float]:
    """The median of a transition, and how many times that among the fewest documents it is.

    They take turns: so whatever else this machine does slows both down alike.
    """
    taken: list[tuple[float, ...]] = []
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder) / "history", SIZES[0])
        small = TinyHistory(Path(folder) / "history", FakeClock())
        for number in range(REPEATS):
            event: Event = "gate_closed" if number % 2 else "claimed"
            times = []
            for there, among in ((history, documents), (small, SIZES[0])):
                before = time.perf_counter()
                there.move(among - number // 2 % OPEN, event)
                times.append((time.perf_counter() - before) * 1000)
            taken.append(tuple(times))
        small.close()
    here, few = (statistics.median(times) for times in zip(*taken, strict=True))
    return here, here / few


def measure(folder: Path, documents: int) -> dict[str, Any]:
    """Open the history in this process of its own, and use it."""
    process = psutil.Process()
    memory = process.memory_info().rss
    history = TinyHistory(folder, FakeClock())

    def some(number: int) -> SyncLog:
        return recording(number * documents // REPEATS)

    def reopen() -> None:
        nonlocal history
        history.close()
        history = TinyHistory(folder, FakeClock())

    def listed() -> None:
        assert len(json.dumps(list(history.shown()))) > documents * 1500

    row = {
        "documents": documents,
        "path ms": milliseconds(lambda number: history.at_path(Path(some(number).path))),
        "episode ms": milliseconds(lambda number: history.of_episode(some(number).episode_id)),
        "bytes ms": milliseconds(lambda number: history.newest(some(number).fingerprint)),
        "memory MiB": (process.memory_info().rss - memory) / 2**20,
        "move ms": (move := ratio(history, documents))[0],
        "ratio": move[1],
        "journal MiB": history._storage._end / 2**20,
        "open s": seconds(reopen),
        "list s": seconds(listed),
        "compact s": seconds(history._storage.compact),
    }
    history.close()
    return row


def main() -> int:
    """Print the table."""
    if "--one" in sys.argv:
        print(json.dumps(measure(Path(sys.argv[2]), int(sys.argv[3]))))
        return 0
    rows: list[dict[str, Any]] = []
    for documents in SIZES[:-1] if "--short" in sys.argv else SIZES:
        with tempfile.TemporaryDirectory() as folder:
            fill(Path(folder) / "history", documents)
            command = [sys.executable, "-m", "tests.bench.history", "--one", f"{folder}/history", str(documents)]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(row)
        if len(rows) == 1:
            print(*(f"{name:>11}" for name in rows[0]))
        print(*(f"{value:>11.2f}" if isinstance(value, float) else f"{value:>11,}" for value in rows[-1].values()))
    return 0 if all(row[name] <= most for row in rows for name, most in PROMISED.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
