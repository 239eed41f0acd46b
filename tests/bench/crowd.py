"""Measure memory with the most parts in flight that are possible: ``python -m tests.bench.crowd``.

The real command uploads two recordings of 16 parts each at once, over http and over TLS.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import psutil

from agent.devcloud.cloud import DevCloud
from tests.bench.stage import peak_mib
from tests.harness.agent_process import Agent, running
from tests.harness.recorders import write_mcap

MIB = 1024 * 1024
PROMISED = 80  # MiB


def crowd(*, tls: bool, mib: int = 384) -> tuple[float, int]:
    """Return the peak memory in MiB, and the highest number of threads seen."""
    with tempfile.TemporaryDirectory(prefix="bench-crowd-") as name:
        folder = Path(name)
        cloud = DevCloud(folder / "cloud", tls=tls, bandwidth=60e6)
        with cloud, running(cloud.agent_files, folder, UPLOAD__PART_CONCURRENCY="16") as agent:
            for number in range(2):
                recording = write_mcap(folder / f"{number}.mcap", size=mib * MIB, seed=number)
                recording.rename(agent.root / recording.name)
            threads = [0]
            agent.wait(
                lambda logs: (
                    _watch(agent, threads) and sum(log.status == "completed" for log in logs) == 2
                ),
                300,
            )
            return peak_mib(agent), max(threads)


def _watch(agent: Agent, threads: list[int]) -> bool:
    assert agent.process is not None
    threads.append(psutil.Process(agent.process.pid).num_threads())
    return True


def main() -> int:
    """Print both measurements; return 1 where more memory is used than is promised."""
    peaks = []
    for tls in (False, True):
        peak, threads = crowd(tls=tls)
        peaks.append(peak)
        print(
            f"{'https' if tls else 'http ':5}  2 recordings, 16 parts each: peak {peak:.1f} "
            f"MiB, {threads} threads"
        )
    return 0 if max(peaks) < PROMISED else 1


if __name__ == "__main__":
    sys.exit(main())
