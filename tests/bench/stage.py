"""Where the agent and its peers are measured: recordings, stores, and a resident agent."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject

from agent.devcloud.servers import free_port
from agent.model.sync_log import SyncLog
from tests.bench.peers import BUCKET, Cost
from tests.harness import s3_servers as servers
from tests.harness.agent_process import Agent
from tests.harness.recorders import write_mcap
from tests.harness.s3_servers import S3Server

MIB = 1024 * 1024

# The seconds between two reads of the history. Each read takes from the CPU that is shared.
_POLL_SECONDS = 0.2


@contextlib.contextmanager
def scratch(size: int) -> Iterator[Path]:
    """Make a folder for ``size`` bytes while the block lasts; TMPDIR says where.

    Raises:
        OSError: the folder's disk has not twice as much space free.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        free = shutil.disk_usage(name).free
        if free < 2 * size:
            raise OSError(
                f"{name} has {free / 2**30:.0f} GiB free, but {2 * size / 2**30:.0f} are "
                "needed: set TMPDIR"
            )
        yield Path(name)


def make_recordings(folder: Path, count: int, mib: int) -> Path:
    """Return the folder, filled with ``count`` recordings of ``mib`` MiB.

    The bytes of the recordings are then in the page cache.
    """
    folder.mkdir()
    for number in range(count):
        write_mcap(folder / f"{folder.name}-{number:02}.mcap", size=mib * MIB, seed=number)
    return folder


def size_of(folder: Path) -> int:
    """Return the bytes of all files in the folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


@dataclass(frozen=True, slots=True)
class Bucket:
    """A store with the bucket of the benchmarks, seen with root's keys."""

    server: S3Server
    # The folder of the server.
    folder: Path

    @property
    def library(self) -> Minio:
        """A client of the store that is none of the measured tools."""
        scheme, _, host = self.server.endpoint.partition("://")
        pool = (
            urllib3.PoolManager(ca_certs=str(self.server.ca_file)) if self.server.ca_file else None
        )
        keys = (self.server.access_key, self.server.secret_key)
        return Minio(host, *keys, secure=scheme == "https", region="us-east-1", http_client=pool)

    def empty(self, expected: int) -> None:
        """Clear the bucket; fail where its recordings had other bytes: less work is faster."""
        size = self.clear()
        assert size == expected, f"{size} bytes were uploaded of {expected}"

    def clear(self) -> int:
        """Delete everything in the bucket for good; return how many bytes its recordings had."""
        library = self.library
        found = list(library.list_objects(BUCKET, recursive=True))
        deletions = [DeleteObject(item.object_name or "") for item in found]
        assert not list(library.remove_objects(BUCKET, deletions))
        hidden = self.folder / "data" / ".minio.sys"
        for left in (*hidden.glob("tmp/.trash/*"), *hidden.glob("multipart/*")):
            # MinIO would keep these files until the disk is full.
            shutil.rmtree(left, ignore_errors=True)
        return sum(item.size or 0 for item in found if str(item.object_name).endswith(".mcap"))


@contextlib.contextmanager
def minio(folder: Path, *, tls: bool) -> Iterator[Bucket]:
    """Run MinIO with an empty bucket, while the block lasts."""
    with servers.start("minio", folder, tls=tls) as server:
        bucket = Bucket(server, folder)
        bucket.library.make_bucket(BUCKET)
        yield bucket


@contextlib.contextmanager
def sink(folder: Path, *, tls: bool) -> Iterator[Bucket]:
    """Run a store that keeps nothing (``sink.py``) in its own process, while the block lasts."""
    certificate = servers.certificate(folder / "certs") if tls else None
    command = [sys.executable, "-m", "tests.bench.sink", *([str(folder / "certs")] if tls else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{int(child.stdout.readline())}"
            yield Bucket(
                S3Server("sink", endpoint, ca_file=certificate.ca_file if certificate else None),
                folder,
            )
        finally:
            child.stdin.close()


@dataclass(frozen=True, slots=True)
class _Plain:
    """Configuration of an agent whose every setting is in its environment."""

    config_path: Path


@contextlib.contextmanager
def resident(server: S3Server, folder: Path, **settings: str) -> Iterator[Agent]:
    """Run an idle agent in bucket mode while the block lasts, with every feature for users enabled.

    The agent's settings are the defaults, except that the agent waits no longer than necessary for
    a file to settle.
    """
    folder.mkdir(parents=True)
    (folder / "agent.toml").touch()
    everything = {
        "CLOUD__MODE": "bucket",
        "CLOUD__TLS_CA_FILE": str(server.ca_file or ""),
        "AGENT__DEVICE_ID": "bench",
        "BUCKET__ENDPOINT": server.endpoint,
        "BUCKET__NAME": BUCKET,
        "METRICS__LISTEN": f"127.0.0.1:{free_port()}",
        "METRICS__TEXTFILE": str(folder / "agent.prom"),
        "WATCH__RESCAN_SECONDS": "60",
        "RETRY__BASE_SECONDS": "30",
        "RETRY__MAX_SECONDS": "1800",
        "RETRY__JITTER_SECONDS": "30",
        **settings,
    }
    agent = Agent(_Plain(folder / "agent.toml"), folder, **everything)
    agent.environ |= {
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
    }
    agent.start()
    try:
        agent.wait(lambda _: (agent.state / "status.json").exists())
        yield agent
    finally:
        if agent.process is not None:
            agent.stop()


def upload(agent: Agent, folder: Path) -> Cost:
    """Return what the resident ``agent`` needs to find and upload all recordings in ``folder``.

    The recordings are moved in and out. CPU is that of the agent's process from the moment they
    appear until the last one is completed. The time runs from the first claim, because waiting for
    a file to settle is no work. The peak is that of the whole life of the process.
    """
    files = sorted(folder.iterdir())
    for path in files:
        make_new(path)
    known = len(agent.documents())
    process = psutil.Process(pid_of(agent))
    before = _cpu(process)
    for path in files:
        path.rename(agent.root / path.name)
    logs = agent.wait(lambda logs: _all_done(logs[known:], len(files)), 1800, _POLL_SECONDS)[known:]
    cpu = _cpu(process) - before
    for path in files:
        (agent.root / path.name).rename(path)
    return Cost(wall=_seconds(logs), cpu=cpu, peak=peak_mib(agent))


def pid_of(agent: Agent) -> int:
    """Return the id of the agent's process."""
    assert agent.process is not None
    return agent.process.pid


def peak_mib(agent: Agent) -> float:
    """Return the most memory that the agent's process has had, in MiB."""
    status = Path(f"/proc/{pid_of(agent)}/status").read_text(encoding="utf-8")
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def make_new(path: Path) -> None:
    """Change a few bytes in the middle: a recording is not uploaded twice."""
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(os.urandom(16))


def _all_done(logs: Sequence[SyncLog], count: int) -> bool:
    failed = [f"{log.path}: {log.error}" for log in logs if log.status == "failed"]
    assert not failed, failed
    return sum(log.status == "completed" for log in logs) == count


def _seconds(logs: Sequence[SyncLog]) -> float:
    """Return the seconds from the first claim to the last end."""
    began = min(_moment(log.started_at) for log in logs)
    return (max(_moment(log.completed_at) for log in logs) - began).total_seconds()


def _moment(text: str | None) -> datetime:
    assert text
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
