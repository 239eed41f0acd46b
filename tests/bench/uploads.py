"""Upload bursts of recordings beside a busy recorder.

Usage: ``python -m tests.bench.uploads [--recordings 200] [--most-mib 64]``.

The real command runs against the embedded cloud. Recordings are written in place, moved in,
hard-linked in, and written in new nested folders. At the same time a recorder appends 50 MB/s to
another file in the same folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from agent.devcloud.cloud import DevCloud
from tests.bench.stage import peak_mib, pid_of
from tests.harness.agent_process import Agent, running
from tests.harness.recorders import write_mcap

MIB = 1024 * 1024
RECORDER = """
import sys, time
block = bytes(5_000_000)
with open(sys.argv[1], "ab", buffering=0) as file:
    file.write(b"\\x89MCAP0\\r\\n")
    while True:
        file.write(block)
        time.sleep(0.1)
"""
# The seconds during which nothing is uploaded and only the recorder works.
WATCHED = 15.0


def main() -> int:
    """Run the bursts and print the results; return 1 where anything is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=int, default=200)
    parser.add_argument("--most-mib", type=int, default=64)
    parser.add_argument("--store", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-uploads-") as name:
        folder = Path(name)
        with (
            DevCloud(folder / "cloud", store=options.store) as cloud,
            running(cloud.agent_files, folder) as agent,
        ):
            growing = agent.root / "growing.mcap"
            recorder = subprocess.Popen([sys.executable, "-c", RECORDER, str(growing)])
            try:
                watching = _cpu_share(agent, WATCHED)
                files, seconds = _bursts(agent, folder, options.recordings, options.most_mib)
                faults = _compare(cloud, agent, files, growing)
            finally:
                recorder.kill()
                recorder.wait()
            memory = peak_mib(agent)
            total = sum(path.stat().st_size for path in files)
            print(f"store                       {cloud.store_kind}")
            print(f"recordings                  {len(files)}, {total / MIB:.0f} MiB")
            print(f"time from first to last     {seconds:.1f} s, {total / MIB / seconds:.0f} MiB/s")
            print(f"CPU while only watching     {watching:.2%} of a core, recorder at 50 MB/s")
            print(f"peak memory of the agent    {memory:.1f} MiB")
            print(f"differences                 {len(faults)}")
            for fault in faults:
                print(f"  {fault}")
    return 1 if faults or watching > 0.01 or memory > 80 else 0


def _cpu_share(agent: Agent, seconds: float) -> float:
    """Return the CPU time of the agent's process per second of time, once the agent has started."""
    agent.wait(lambda _: (agent.state / "status.json").exists())
    process = psutil.Process(pid_of(agent))
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    return float(after.user + after.system - before.user - before.system) / seconds


def sha256(path: Path) -> str:
    """Return the digest of a file, which is read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def _bursts(agent: Agent, folder: Path, count: int, most_mib: int) -> tuple[list[Path], float]:
    """Add the recordings in bursts of 20, in four ways in turn."""
    rng = random.Random(1)
    outside = folder / "outside"
    outside.mkdir()
    files: list[Path] = []
    began = time.monotonic()
    for number in range(count):
        size = rng.randint(1, most_mib) * MIB - rng.randint(0, 4096)
        files.append(_drop(agent.root, outside, number, size))
        if number % 20 == 19:
            agent.wait(lambda logs, half=number // 2: _completed(logs) >= half, 600)  # type: ignore[misc] # a default binds the value
    agent.wait(lambda logs: _completed(logs) == count, 900)
    return files, time.monotonic() - began


def _completed(logs: list) -> int:  # type: ignore[type-arg] # a list of documents
    return sum(log.status == "completed" for log in logs)


def _drop(root: Path, outside: Path, number: int, size: int) -> Path:
    name = f"rec-{number:03}.mcap"
    way = number % 4
    if way == 0:
        return write_mcap(root / name, size=size, seed=number)
    if way == 1:
        nested = root / f"day-{number}" / "shift" / "line"
        nested.mkdir(parents=True)
        return write_mcap(nested / name, size=size, seed=number)
    recording = write_mcap(outside / name, size=size, seed=number)
    if way == 2:
        return recording.rename(root / name)
    os.link(recording, root / name)
    return root / name


def _compare(cloud: DevCloud, agent: Agent, files: list[Path], growing: Path) -> list[str]:
    logs = agent.documents()
    times = Counter(log.path for log in logs)
    faults = [f"{path}: {count} documents" for path, count in times.items() if count != 1]
    faults += [f"{growing} has a document" for log in logs if log.path == str(growing)]
    keys = {log.path: log.object_key for log in logs if log.status == "completed"}
    for path in files:
        if cloud.object_sha256(keys[str(path)]) != sha256(path):
            faults.append(f"{path}: other bytes in the bucket")
    if len(cloud.objects()) != len(files):
        faults.append(f"{len(cloud.objects())} objects for {len(files)} recordings")
    return faults


if __name__ == "__main__":
    sys.exit(main())
