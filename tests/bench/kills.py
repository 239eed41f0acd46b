"""Kill the real command again and again: ``python -m tests.bench.kills [--kills 200] [--seed N]``.

SIGKILL comes at seeded random moments over uploads in all phases. The embedded cloud has a narrow
link and adds a round trip to every call, while new recordings keep coming. Afterwards each
recording must be in the bucket exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minio import Minio
from minio.error import S3Error

from agent.adapters.clock import RealClock
from agent.adapters.history import TinyHistory
from agent.devcloud.byte_rate import ByteRate
from agent.devcloud.cloud import DevCloud
from agent.devcloud.servers import REGION
from agent.model.sync_log import SyncLog
from tests.bench.uploads import sha256
from tests.harness.agent_process import Agent
from tests.harness.phase import phase_of
from tests.harness.recorders import write_mcap, write_sidecar

MIB = 1024 * 1024

# The smallest part that S3 takes.
PART = 5 * MIB

# The number of recordings in flight.
RECORDINGS = 2

# The number of parts in flight of each recording.
PARTS = 4
AT_ONCE = RECORDINGS * PARTS

# The least and the greatest size of a small recording, in bytes.
SMALL = (MIB // 2, 12 * MIB)

# The same of a large recording, which has more parts than are sent at once.
LARGE = (24 * MIB, 48 * MIB)

# The rate of the link, in bytes a second.
BANDWIDTH = 24 * MIB

# The seconds that each call takes at least. Without them no kill would hit the phases without
# bytes.
ROUND_TRIP = 0.08

# The least number of recordings that wait.
BACKLOG = 4
_CALLS = (
    "create_logical_upload",
    "get_upload_recovery",
    "reissue_upload_credentials",
    "abort_upload",
    "complete_upload",
)


class _Meter(ByteRate):
    """The link to the store; it counts the bytes that pass."""

    def __init__(self, bytes_per_second: float) -> None:
        super().__init__(bytes_per_second)
        self.passed = 0
        self._counting = threading.Lock()

    def take(self, size: int) -> None:
        with self._counting:
            self.passed += size
        super().take(size)


@dataclass
class KillResults:
    """The results of all kills."""

    store: str
    recordings: int = 0
    stored_bytes: int = 0
    passed_bytes: int = 0
    # The phases of the uploads that were in flight at each kill.
    phases: Counter[str] = field(default_factory=Counter)
    # The most bytes that a single kill cost.
    most_lost: int = 0
    # The number of histories that had a damaged line after a kill.
    unsound: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    corrupted: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)

    @property
    def sent_again(self) -> int:
        """The bytes that passed the link beyond one copy of each recording."""
        return self.passed_bytes - self.stored_bytes

    def good(self, kills: int) -> bool:
        """Whether the results are as promised."""
        faults = (self.lost, self.duplicated, self.corrupted, self.orphaned, self.unsound)
        within = self.sent_again <= kills * AT_ONCE * PART and self.most_lost <= AT_ONCE * PART
        return within and not any(faults)

    def __str__(self) -> str:
        shares = ", ".join(f"{phase} {count}" for phase, count in self.phases.most_common())
        lines = {
            "store": self.store,
            "recordings": f"{self.recordings}, {self.stored_bytes / MIB:.0f} MiB",
            "in flight at the kills": shares,
            "lost": len(self.lost),
            "duplicated": len(self.duplicated),
            "corrupted": len(self.corrupted),
            "orphaned multiparts": len(self.orphaned),
            "damaged histories": self.unsound,
            "most that one kill cost": (
                f"{self.most_lost / MIB:.1f} MiB of {AT_ONCE * PART / MIB:.0f} allowed"
            ),
            "bytes sent again": (
                f"{self.sent_again / MIB:.0f} MiB, "
                f"{self.sent_again / max(self.passed_bytes, 1):.1%}"
            ),
        }
        named = [*self.lost, *self.duplicated, *self.corrupted, *self.orphaned]
        return "\n".join(
            [f"{name:25} {told}" for name, told in lines.items()]
            + [f"  {fault}" for fault in named]
        )


class KillBenchmark:
    """One agent, its cloud, and the recordings that keep coming."""

    def __init__(self, folder: Path, seed: int, *, store: str = "auto") -> None:
        """Prepare the folders; the same ``seed`` gives the same recordings and the same moments."""
        self._folder = folder
        self._random = random.Random(seed)
        self._nap = threading.Event()
        self.cloud = DevCloud(
            folder / "cloud", store=store, part_size_bytes=PART, bandwidth=BANDWIDTH
        )
        self._calls = 0
        for name in _CALLS:
            setattr(self.cloud.rules, name, self._far_away(getattr(self.cloud.rules, name)))
        self._files: list[Path] = []
        (folder / "aside").mkdir()

    def run(self, kills: int) -> KillResults:
        """Kill the agent ``kills`` times, let it finish undisturbed, and compare."""
        with self.cloud:
            front = self.cloud._store_proxy
            assert front is not None
            self._meter = front.pace = _Meter(BANDWIDTH)
            front.admission.admit = self._far_away(front.admission.admit)  # type: ignore[method-assign] # the bench adds to it
            agent = Agent(
                self.cloud.agent_files,
                self._folder,
                UPLOAD__MAX_CONCURRENT=str(RECORDINGS),
                UPLOAD__PART_CONCURRENCY=str(PARTS),
            )
            tally = KillResults(self.cloud.store_kind)
            try:
                self._kill(agent, tally, kills)
                agent.start()
                agent.wait(
                    lambda logs: (
                        len(logs) >= len(self._files) and not any(log.open for log in logs)
                    ),
                    300,
                )
                agent.stop()
            finally:
                if agent.process is not None:
                    agent.stop(signal.SIGKILL)
            self._compare(agent, tally)
        return tally

    def _kill(self, agent: Agent, tally: KillResults, kills: int) -> None:
        gone = 0
        for _ in range(kills):
            self._keep_coming(agent)
            agent.start()
            self._wait_for_a_moment(agent)
            agent.stop(signal.SIGKILL)
            self._quiet()
            phases: list[str] = [
                phase_of(log) or "claimed"
                for log in agent.documents()
                if log.status == "in_progress"
            ]
            tally.phases.update(phases or ["nothing"])
            tally.unsound += _damage(agent) > 0
            before, gone = gone, self._meter.passed - self._arrived()
            tally.most_lost = max(tally.most_lost, gone - before)

    def _wait_for_a_moment(self, agent: Agent) -> None:
        """Wait, mostly until some time after the agent's first call, sometimes within its start."""
        if self._random.random() < 0.1:
            self._nap.wait(self._random.uniform(0, 1))
            return
        calls, patience = self._calls, time.monotonic() + 30
        while self._calls == calls and time.monotonic() < patience:
            assert agent.process is not None
            assert agent.process.poll() is None, agent.said()
            self._nap.wait(0.01)
        self._nap.wait(self._random.uniform(0, 2.5))

    def _keep_coming(self, agent: Agent) -> None:
        """Add recordings, so that the agent has work until it is killed.

        Some are moved in, and some have sidecars.
        """
        done = sum(log.status == "completed" for log in agent.documents()) if self._files else 0
        for _ in range(max(0, BACKLOG - (len(self._files) - done))):
            number = len(self._files)
            size = self._random.randint(*(LARGE if self._random.random() < 0.3 else SMALL))
            aside = write_mcap(
                self._folder / "aside" / f"rec-{number:04}.mcap", size=size, seed=number
            )
            path = agent.root / aside.name
            with_sidecar, moved = self._random.random() < 0.3, self._random.random() < 0.5
            if with_sidecar:
                write_sidecar(path)
            if moved:
                aside.rename(path)
            else:
                shutil.copyfile(aside, path)
                aside.unlink()
            self._files.append(path)

    def _quiet(self) -> None:
        """Wait until the store proxy has no connection of the killed agent left."""
        front = self.cloud._store_proxy
        assert front is not None
        patience = time.monotonic() + 10
        while front._server._open and time.monotonic() < patience:
            self._nap.wait(0.01)

    def _arrived(self) -> int:
        """Return the bytes that the store keeps: of objects, and of parts of multipart uploads."""
        client = self._client()
        objects = sum(
            item.size or 0 for item in client.list_objects(self.cloud.bucket, recursive=True)
        )
        return objects + sum(
            part.size or 0
            for key, multipart in self._multiparts()
            for part in client._list_parts(self.cloud.bucket, key, multipart).parts
        )

    def _multiparts(self) -> list[tuple[str, str]]:
        """Return key and id of every multipart upload in the bucket.

        MinIO lists only the multipart uploads of an exact key.
        """
        found = []
        for session in self.cloud.sessions():
            # rclone answers with an error where there is no multipart upload.
            with contextlib.suppress(S3Error):
                listed = self._client()._list_multipart_uploads(
                    self.cloud.bucket, prefix=session.object_key
                )
                found += [(session.object_key, upload.upload_id or "") for upload in listed.uploads]
        return found

    def _client(self) -> Minio:
        """Return a client of the store behind the proxy, with root's keys."""
        assert self.cloud._store is not None
        endpoint = self.cloud._store.endpoint
        return Minio(
            endpoint.netloc,
            access_key=endpoint.access_key,
            secret_key=endpoint.secret_key,
            secure=endpoint.secure,
            region=REGION,
        )

    def _far_away(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def after_a_round_trip(*arguments: Any) -> Any:
            self._calls += 1
            self._nap.wait(ROUND_TRIP / 2)
            answer = call(*arguments)
            self._nap.wait(ROUND_TRIP / 2)
            return answer

        return after_a_round_trip

    def _compare(self, agent: Agent, tally: KillResults) -> None:
        logs = agent.documents()
        completed = [log for log in logs if log.status == "completed"]
        by_path = {Path(log.path): log for log in completed}
        tally.recordings = len(self._files)
        tally.stored_bytes = sum(path.stat().st_size for path in self._files)
        tally.passed_bytes = self._meter.passed
        tally.lost = [str(path) for path in self._files if path not in by_path]
        tally.duplicated = _twice(completed)
        tally.duplicated += sorted(
            set(self.cloud.objects()) - {log.object_key for log in completed}
        )
        tally.corrupted = [
            str(path)
            for path, log in by_path.items()
            if self.cloud.object_sha256(log.object_key) != sha256(path) or path not in self._files
        ]
        tally.orphaned = [f"{key} {multipart}" for key, multipart in self._multiparts()]
        tally.unsound += _damage(agent) > 0


def _twice(completed: list[SyncLog]) -> list[str]:
    times = Counter(log.fingerprint for log in completed)
    return [log.path for log in completed if times[log.fingerprint] > 1]


def _damage(agent: Agent) -> int:
    if not (agent.state / "history").exists():
        return 0
    history = TinyHistory(agent.state / "history", RealClock(), read_only=True)
    try:
        return history.damage()
    finally:
        history.close()


def main() -> int:
    """Print the results; return 1 where anything differs from what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--store", default="auto")
    options = parser.parse_args()
    print(f"seed                      {options.seed}", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-kills-") as name:
        tally = KillBenchmark(Path(name), options.seed, store=options.store).run(options.kills)
    print(f"{'kills':25} {options.kills} in {time.monotonic() - began:.0f} s\n{tally}")
    return 0 if tally.good(options.kills) else 1


if __name__ == "__main__":
    sys.exit(main())
