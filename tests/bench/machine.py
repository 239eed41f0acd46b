"""The machine and the versions that a benchmark was measured with."""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess

import psutil

from tests.bench.peers import versions


def machine() -> dict[str, str]:
    """Return what a reader must know to measure again.

    ``peers`` are the installed peers with their versions.
    """
    return {
        "CPU": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "peers": ", ".join(f"{name} {version}" for name, version in versions().items()) or "none",
        "date": dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
    }


def _cpu() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - not a path of the project
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _commit() -> str:
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"
