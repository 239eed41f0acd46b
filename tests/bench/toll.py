"""What a running process costs: CPU, wakeups and memory, as the kernel counts them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.agent_process import Agent

_NAP = 0.1  # seconds between two looks at what the agent tells


@dataclass(frozen=True, slots=True)
class Toll:
    """What has come together since the process began."""

    cpu: float  # seconds
    wakeups: int  # voluntary context switches of the threads that live

    def __sub__(self, earlier: Toll) -> Toll:
        return Toll(self.cpu - earlier.cpu, self.wakeups - earlier.wakeups)


def toll(pid: int) -> Toll:
    """By nanoseconds where the kernel tells them: its clock ticks are too coarse for what costs next to nothing."""
    cpu, wakeups = 0.0, 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            cpu += int((task / "schedstat").read_text().split()[0]) / 1e9
            wakeups += int(field_of((task / "status").read_text(), "voluntary_ctxt_switches"))
        except OSError:
            continue  # it has just ended
    return Toll(cpu, wakeups)


def mib(pid: int, name: str) -> float:
    """``VmRSS``, what it holds now, or ``VmHWM``, the most that it has held."""
    return int(field_of(Path(f"/proc/{pid}/status").read_text(), name).split()[0]) / 1024


def field_of(text: str, name: str) -> str:
    """One line of a status file in /proc."""
    return next(
        line.partition(":")[2].strip() for line in text.splitlines() if line.startswith(f"{name}:")
    )


def pid_of(agent: Agent) -> int:
    """Its process."""
    assert agent.process is not None
    return agent.process.pid


def told(agent: Agent) -> dict[str, Any]:
    """What the agent wrote down of itself last; {} before that."""
    try:
        document: dict[str, Any] = json.loads((agent.state / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return document


def files_of(agent: Agent) -> int:
    """How many complete files it knows."""
    return int(told(agent).get("files", {}).get("files", {}).get("complete", 0))


def wait_for(agent: Agent, ready: Any, seconds: float) -> None:
    """Until ``ready`` is true of the agent; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not ready(agent):
        processes = os.listdir("/proc")  # noqa: PTH208 - only the names
        if time.monotonic() > end or pid_of(agent) not in map(int, filter(str.isdigit, processes)):
            raise AssertionError(agent.said()[-4000:])
        time.sleep(_NAP)
