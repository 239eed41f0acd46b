"""Table 5: what a history with many full documents costs, beside plain TinyDB and SQLite."""

from __future__ import annotations

import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from tinydb import TinyDB

from agent.adapters.history import TinyHistory, to_json
from agent.model.states import Event
from agent.model.sync_log import DocumentSession, SyncLog
from tests.bench.figures import Cell, Goal, Table
from tests.harness.fakes.clock import FakeClock

KINDS = ("agent", "SQLite", "TinyDB")
SIZES = (100, 1_000, 10_000, 100_000)

# The number of documents that have not ended. A robot that keeps up has few of them.
OPEN = 50
REPEATS = 500

# The number of repeats for operations that take long.
ONCE = 5
PROMISED = {
    "path ms": 5.0,
    "episode ms": 5.0,
    "bytes ms": 5.0,
    "memory MiB": 30.0,
    # The time of a transition, fsync included, in multiples of one among the fewest documents.
    "ratio": 1.5,
    "open s": 2.0,
    "list s": 3.0,
}


def recording(number: int) -> SyncLog:
    """Return a document as robots have them: about 1.3 KiB."""
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
        session=DocumentSession(
            bucket="recordings",
            object_key=f"robot-0001/2026-09-21/{name}",
            logical_upload_id=f"lu-{number:032x}",
            upload_id=f"u-{number:032x}",
            part_size_bytes=8 << 20,
        ),
    )


def fill(folder: Path, documents: int) -> None:
    """Fill a history in which all but the last documents have been uploaded."""
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
    session = replace(log.require_session(), phase="opening", multipart_upload_id=f"{log.id:096x}")
    history.move(log.id, "claimed", session=session)
    history.move(
        log.id,
        "done",
        session=replace(
            session,
            phase="completing",
            etag='"0123456789abcdef0123456789abcdef-179"',
            checksum="q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=-179",
            part_count=179,
        ),
        bytes_sent=log.file_size,
        duration_seconds=187.25,
        credential_refreshes=1,
    )


def milliseconds(work: Callable[[int], object], repeats: int = REPEATS) -> float:
    """Return the median of many runs, in milliseconds."""
    taken = []
    for number in range(repeats):
        before = time.perf_counter()
        work(number)
        taken.append((time.perf_counter() - before) * 1000)
    return statistics.median(taken)


def seconds(work: Callable[[], object]) -> float:
    """Return the median of a few runs, in seconds."""
    return milliseconds(lambda _: work(), ONCE) / 1000


def ratio(history: TinyHistory, documents: int) -> tuple[float, float]:
    """Return the median of a transition, and its multiple of one among the fewest documents.

    The two histories take turns, because other load on this machine then slows both down alike.
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
    """Measure the agent's history in this process of its own."""
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
        "journal MiB": history._storage.size / 2**20,
        "open s": seconds(reopen),
        "list s": seconds(listed),
        "compact s": seconds(history._storage.compact),
    }
    history.close()
    return row


def peer(folder: Path, documents: int, kind: str) -> dict[str, Any]:
    """Measure the same work in plain TinyDB, or in SQLite with the same durability."""
    process = psutil.Process()
    memory = process.memory_info().rss
    opened = _tinydb if kind == "TinyDB" else _sqlite
    move = opened(folder, documents)
    repeats = 3 if kind == "TinyDB" and documents > SIZES[1] else REPEATS
    # No two paths are equal.
    taken = milliseconds(lambda number: move(documents - number // 2 % OPEN, f"{number}"), repeats)
    grown = (process.memory_info().rss - memory) / 2**20
    return {
        "documents": documents,
        "move ms": taken,
        "memory MiB": grown,
        "open s": seconds(lambda: opened(folder, documents)),
    }


def _tinydb(folder: Path, documents: int) -> Callable[[int, str], object]:
    file = folder / "tinydb.json"
    if not file.exists():
        file.write_text(
            json.dumps({"sync_logs": {str(log["id"]): log for log in _documents(documents)}})
        )
    table = TinyDB(file).table("sync_logs")
    assert len(table) == documents
    return lambda id_, status: table.update({"status": status}, doc_ids=[id_])


def _sqlite(folder: Path, documents: int) -> Callable[[int, str], object]:
    base = sqlite3.connect(folder / "sqlite.db", isolation_level=None)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.execute(
        "CREATE TABLE IF NOT EXISTS logs (id INTEGER PRIMARY KEY, open, path, episode, "
        "fingerprint, body)"
    )
    if not base.execute("SELECT count(*) FROM logs").fetchone()[0]:
        base.execute("BEGIN")
        for log in _documents(documents):
            names = (log["path"], log["episode_id"], log["fingerprint"])
            state = log["status"] != "completed"
            base.execute(
                "INSERT INTO logs VALUES (?,?,?,?,?,?)", (log["id"], state, *names, json.dumps(log))
            )
        for column in ("open", "path", "episode", "fingerprint"):
            base.execute(f"CREATE INDEX by_{column} ON logs ({column})")
        base.execute("COMMIT")
    assert (
        len([json.loads(body) for (body,) in base.execute("SELECT body FROM logs WHERE open")])
        == OPEN
    )

    def move(id_: int, status: str) -> None:
        base.execute("BEGIN IMMEDIATE")
        (body,) = base.execute("SELECT body FROM logs WHERE id = ?", (id_,)).fetchone()
        base.execute(
            "UPDATE logs SET body = ? WHERE id = ?",
            (json.dumps({**json.loads(body), "status": status}), id_),
        )
        base.execute("COMMIT")

    return move


def _documents(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        status = "completed" if number < count - OPEN else "pending"
        yield {**to_json(recording(number)), "id": number + 1, "status": status}


def table(*, full: bool) -> Table:
    """Measure the agent's history, TinyDB and SQLite, each size in a process of its own."""
    sizes = SIZES if full else SIZES[:-1]
    ours = [_apart("agent", documents) for documents in sizes]
    rows: list[Sequence[Cell]] = []
    for kind in KINDS:
        found = ours if kind == "agent" else [_apart(kind, documents) for documents in sizes]
        rows += [
            [
                f"{kind} {row['documents']:,}",
                row["move ms"],
                row.get("ratio", row["move ms"] / found[0]["move ms"]),
                row["open s"] * 1000,
                row["memory MiB"],
            ]
            for row in found
        ]
    goals = [
        Goal(f"{name} <= {most:g}", f"{worst:.2f}", worst <= most)
        for name, most in PROMISED.items()
        for worst in [max(row[name] for row in ours)]
    ]
    notes = [
        (
            f"Medians of {REPEATS} transitions, {OPEN} of the documents open. Documents of 1.3 "
            "KiB and more."
        ),
        (
            "Each transition of agent and SQLite (WAL, synchronous=FULL) is synced; TinyDB's "
            "JSONStorage syncs nothing."
        ),
        (
            "`x of 100` of the agent is of transitions that take turns with those among 100 "
            "documents, in one process."
        ),
    ]
    columns = ["documents", "transition ms", "x of 100", "start ms", "MiB"]
    return Table(5, f"The history with up to {sizes[-1]:,} documents", columns, rows, goals, notes)


def _apart(kind: str, documents: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="bench-history-") as folder:
        if kind == "agent":
            fill(Path(folder) / "history", documents)
        command = [sys.executable, "-m", "tests.bench.history", kind, folder, str(documents)]
        result: dict[str, Any] = json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
        return result


def main() -> None:
    """Measure one kind in a folder, and print the result as JSON."""
    kind, folder, documents = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    print(
        json.dumps(
            measure(folder / "history", documents)
            if kind == "agent"
            else peer(folder, documents, kind)
        )
    )


if __name__ == "__main__":
    main()
