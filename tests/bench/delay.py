"""Table 3: from the recorder's close() to the first byte at the store, and to `completed`."""

from __future__ import annotations

import random
import tempfile
import time
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.devcloud.cloud import DevCloud
from agent.model.values import utc_seconds
from tests.bench.figures import Cell, Figure, Goal, Table
from tests.harness.agent_process import running
from tests.harness.recorders import write_mcap, write_sidecar

FIRST = "first byte, with a sidecar"
FIRST_ALONE = "first byte, without"
END = "completed, with a sidecar"
END_ALONE = "completed, without"

# The default settings, in seconds. The wait for a sidecar counts as time to settle, too.
_SETTLE = 2.0
_SIDECAR = 5.0


# The promise for 95 of 100 recordings, in seconds beyond the time to settle.
_PROMISED = 0.5

# The shortest and the longest pause between two recordings, in seconds.
_APART = (0.2, 0.5)
_SIZE = 256 * 1024


def table(*, full: bool) -> Table:
    """Measure with the real command, real notifications and a real S3 server.

    The recordings are closed one after the other.
    """
    count = 600 if full else 120
    with tempfile.TemporaryDirectory(prefix="bench-delay-") as name:
        delays = measure(Path(name), count)
    rows: list[Sequence[Cell]] = [
        [what, figure.median, figure.percentile(95), figure.percentile(99), figure.high]
        for what, figure in delays.items()
    ]
    beyond = max(
        delays[FIRST].percentile(95) - _SETTLE, delays[FIRST_ALONE].percentile(95) - _SIDECAR
    )
    text = f"first byte, p95 <= {_PROMISED} s beyond settling"
    notes = [
        (
            f"{count} recordings of {_SIZE // 1024} KiB, one each {_APART[0]} to {_APART[1]} s, "
            "half with a sidecar."
        ),
        (
            f"Seconds since the last close(); {_SETTLE:.0f} of them to settle, {_SIDECAR:.0f} "
            "where a sidecar may come."
        ),
        "All settings are the defaults.",
    ]
    goal = Goal(text, f"{beyond:.2f} s", beyond <= _PROMISED)
    return Table(
        3,
        "From close() to the store",
        ["seconds", "median", "p95", "p99", "most"],
        rows,
        [goal],
        notes,
    )


def measure(folder: Path, count: int) -> dict[str, Figure]:
    """Return the seconds from close() to the first part at the store, and to the document's end."""
    came: dict[str, float] = {}
    closed: dict[str, float] = {}
    rng = random.Random(1)
    defaults = {
        "WATCH__SETTLE_SECONDS": str(_SETTLE),
        "WATCH__SIDECAR_WAIT_SECONDS": str(_SIDECAR),
        "WATCH__RESCAN_SECONDS": "60",
    }
    with DevCloud(folder / "cloud") as cloud:
        _note_parts(cloud, came)
        contents = [
            write_mcap(folder / "made", size=_SIZE, seed=seed).read_bytes() for seed in range(count)
        ]
        with running(cloud.agent_files, folder, **defaults) as agent:
            agent.wait(lambda _: (agent.state / "status.json").exists())
            for number, content in enumerate(contents):
                path = agent.root / f"{number:04}.mcap"
                path.write_bytes(content)
                if number % 2:
                    write_sidecar(path)
                closed[str(path)] = time.time()
                time.sleep(rng.uniform(*_APART))
            logs = agent.wait_completed(count, 120)
    delays: dict[str, list[float]] = {name: [] for name in (FIRST, FIRST_ALONE, END, END_ALONE)}
    for log in logs:
        delays[FIRST if log.sidecar_sha256 else FIRST_ALONE].append(
            came[f"/{log.require_session().bucket}/{log.object_key}"] - closed[log.path]
        )
        delays[END if log.sidecar_sha256 else END_ALONE].append(
            utc_seconds(log.completed_at or "") - closed[log.path]
        )
    return {name: Figure.of(values) for name, values in delays.items()}


def _note_parts(cloud: DevCloud, came: dict[str, float]) -> None:
    """Note when the first part of each object reaches the store; its bytes follow."""
    assert cloud._store_proxy is not None
    admission = cloud._store_proxy.admission
    admit = admission.admit

    def noting(request: Any) -> Any:
        if request.method == "PUT" and "partNumber=" in request.query:
            came.setdefault(urllib.parse.unquote(request.path), time.time())
        return admit(request)

    admission.admit = noting  # type: ignore[method-assign] # the bench adds to it
