"""Table 7: the first scan of 100,000 recordings, by a new agent and by one that knows them."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.devcloud.cloud import DevCloud
from tests.bench.figures import Cell, Table
from tests.bench.many import recordings, uploaded
from tests.bench.process_usage import files_of, last_status, mib, pid_of, process_usage, wait_for
from tests.harness.agent_process import Agent

_MANY = 100_000
_FEWER = 10_000
_SETTINGS = {
    "WATCH__SETTLE_SECONDS": "2",
    "WATCH__SIDECAR_WAIT_SECONDS": "2",
    "WATCH__RESCAN_SECONDS": "3600",
}


def table(*, full: bool) -> Table:
    """Measure the real command.

    The table also shows the least time that listing the folders and a stat of each file take.
    """
    count = _MANY if full else _FEWER
    rows: list[Sequence[Cell]] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-scan-") as name,
        DevCloud(Path(name) / "cloud") as cloud,
    ):
        folder = Path(name)
        agent = Agent(cloud.agent_files, folder, **_SETTINGS)
        paths = recordings(agent.root, count)
        rows.append(["os.walk and stat, Python alone", *_floor(agent.root, count)])
        (agent.state / "markers").mkdir(parents=True)
        (agent.state / "markers" / "pause").touch()
        rows.append(["all new: examined, queued durably", *_start(agent, count, _queued(count))])
        later = Agent(
            cloud.agent_files,
            folder / "later",
            **_SETTINGS,
            WATCH__ROOTS=agent.environ["KEYSTONE_AGENT_WATCH__ROOTS"],
        )
        uploaded(later.state, paths)
        rows.append(
            [
                "all uploaded: examined, known",
                *_start(later, count, lambda seen: files_of(seen) == count),
            ]
        )
    columns = [f"{count:,} recordings", "watching s", "done s", "files/s", "CPU s", "peak MiB"]
    notes = [
        (
            "Since the process was started; `done`: every file is known, settled (2 s, in it) and "
            "in the history."
        ),
        (
            "Each file is opened, its end checked and its fingerprint taken: so none is sent "
            "twice whatever its name."
        ),
    ]
    return Table(7, f"Start with {count:,} recordings on the disk", columns, rows, (), notes)


def _start(agent: Agent, count: int, done: Callable[[Agent], bool]) -> Sequence[Cell]:
    began = time.monotonic()
    agent.start()
    try:
        wait_for(agent, lambda seen: bool(last_status(seen)), 60)
        watching = time.monotonic() - began
        wait_for(agent, done, 1800)
        seconds = time.monotonic() - began
        pid = pid_of(agent)
        return [watching, seconds, count / seconds, process_usage(pid).cpu, mib(pid, "VmHWM")]
    finally:
        agent.stop()


def _queued(count: int) -> Callable[[Agent], bool]:
    return lambda agent: last_status(agent).get("standing", {}).get("queue_length") == count


def _floor(root: Path, count: int) -> Sequence[Cell]:
    """Measure the least time in this process; its memory is not compared."""
    began, cpu, seen = time.monotonic(), time.process_time(), 0
    for folder, _, names in os.walk(root):
        for name in names:
            seen += os.stat(f"{folder}/{name}").st_size > 0  # noqa: PTH116 - os.stat is the fastest call
    seconds = time.monotonic() - began
    if seen != count:
        sys.exit(f"{seen} files of {count}")
    return [None, seconds, count / seconds, time.process_time() - cpu, None]
