"""What a running process costs: CPU, wakeups and memory, as the kernel counts them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.agent_process import Agent

# The seconds between two reads of what the agent reports.
_NAP = 0.1


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """What a process has used since it began."""

    cpu: float  # seconds
    # The voluntary context switches of the living threads.
    wakeups: int

    def __sub__(self, earlier: ProcessUsage) -> ProcessUsage:
        return ProcessUsage(self.cpu - earlier.cpu, self.wakeups - earlier.wakeups)


def process_usage(pid: int) -> ProcessUsage:
    """Return the cost of a process.

    The time is in nanoseconds where the kernel counts them. The clock ticks of the kernel are too
    coarse for a process that costs next to nothing.
    """
    cpu, wakeups = 0.0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            cpu += int((task / "schedstat").read_text().split()[0]) / 1e9
            wakeups += int(field_of((task / "status").read_text(), "voluntary_ctxt_switches"))
        except OSError:
            # The thread has just ended.
            continue
    return ProcessUsage(cpu, wakeups)


def mib(pid: int, name: str) -> float:
    """Return ``VmRSS``, the memory held now, or ``VmHWM``, the most that was held, in MiB."""
    return int(field_of(Path(f"/proc/{pid}/status").read_text(), name).split()[0]) / 1024


def field_of(text: str, name: str) -> str:
    """Return the value of one field of a status file in /proc."""
    return next(
        line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{name}:")
    )


def pid_of(agent: Agent) -> int:
    """Return the id of the agent's process."""
    assert agent.process is not None
    return agent.process.pid


def last_status(agent: Agent) -> dict[str, Any]:
    """Return the last status that the agent wrote; {} before the first one."""
    try:
        document: dict[str, Any] = json.loads((agent.state / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return document


def files_of(agent: Agent) -> int:
    """Return how many complete files the agent knows."""
    return int(last_status(agent).get("files", {}).get("files", {}).get("complete", 0))


def wait_for(agent: Agent, ready: Any, seconds: float) -> None:
    """Wait until ``ready`` is true of the agent; fail after ``seconds``."""
    end = time.monotonic() + seconds
    while not ready(agent):
        processes = os.listdir("/proc")  # noqa: PTH208 - only the names
        if time.monotonic() > end or pid_of(agent) not in map(int, filter(str.isdigit, processes)):
            raise AssertionError(agent.said()[-4000:])
        time.sleep(_NAP)
