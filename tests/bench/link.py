"""Measure a long upload with short leases, and memory by part size: ``python -m tests.bench.link``.

The real command runs against the embedded cloud, whose store proxy passes 20 MB/s and refuses each
lease after 20 s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from agent.devcloud.cloud import DevCloud
from agent.model.sync_log import SyncLog
from tests.bench.stage import peak_mib
from tests.bench.uploads import sha256
from tests.harness.agent_process import running
from tests.harness.recorders import write_mcap

MIB = 1024 * 1024


def upload(
    mib: int, *, tls: bool, store: str, part_mib: int, bandwidth: float, lease: float
) -> tuple[SyncLog, float]:
    """Return one recording's document and the agent's peak memory in MiB.

    The function fails where the bytes differ.
    """
    with tempfile.TemporaryDirectory(prefix="bench-link-") as name:
        folder = Path(name)
        cloud = DevCloud(
            folder / "cloud",
            store=store,
            tls=tls,
            lease_seconds=lease,
            part_size_bytes=part_mib * MIB,
            bandwidth=bandwidth,
        )
        with cloud, running(cloud.agent_files, folder) as agent:
            recording = write_mcap(folder / "made.mcap", size=mib * MIB)
            file = recording.rename(agent.root / "long.mcap")
            (log,) = agent.wait_completed(1, 900)
            assert cloud.object_sha256(log.object_key) == sha256(file), "other bytes in the bucket"
            return log, peak_mib(agent)


def main() -> int:
    """Print both tables; return 1 where anything differs from what is promised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--store", default="auto")
    options = parser.parse_args()
    good = True
    print("link of 20 MB/s, leases of 20 s")
    for tls in (False, True):
        log, memory = upload(
            options.mib, tls=tls, store=options.store, part_mib=8, bandwidth=20e6, lease=20
        )
        print(
            f"  {'https' if tls else 'http ':5}  {options.mib} MiB in "
            f"{log.duration_seconds:.0f} s, "
            f"{log.credential_refreshes} refreshes, {log.require_session().part_count} parts of "
            f"{log.require_session().part_size_bytes // MIB} MiB, "
            f"peak {memory:.1f} MiB, sent {log.bytes_sent / log.file_size:.3f} of its size"
        )
        good = good and log.credential_refreshes >= 2
    print("memory by part size")
    for tls in (False, True):
        peaks = {
            part: upload(
                options.mib, tls=tls, store=options.store, part_mib=part, bandwidth=0, lease=3600
            )[1]
            for part in (8, 64)
        }
        print(
            f"  {'https' if tls else 'http ':5}  8 MiB: {peaks[8]:.1f} MiB, 64 MiB: "
            f"{peaks[64]:.1f} MiB"
        )
        good = good and abs(peaks[64] - peaks[8]) <= 5
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
