"""Very many recordings in nested folders, and a history in which they are uploaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from agent.adapters.clock import RealClock
from agent.adapters.history import TinyHistory
from agent.files.fingerprint import fingerprint
from agent.model.sync_log import SyncLog
from agent.model.values import utc_text
from tests.bench.history import recording
from tests.harness.recorders import write_mcap

_IN_A_FOLDER = 500

# The number of documents in one transaction.
_AT_ONCE = 2000


def recordings(root: Path, count: int) -> Sequence[Path]:
    """Write ``count`` complete recordings of a few hundred bytes, 500 in a folder.

    Each recording has bytes of its own.
    """
    one, other = (
        write_mcap(root / "made.tmp", size=64, seed=seed, crc=False).read_bytes() for seed in (0, 1)
    )
    (root / "made.tmp").unlink()
    at = next(place for place, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    content, paths = bytearray(one), []
    for number in range(count):
        folder = root / f"day-{number // 10_000:03}" / f"session-{number // _IN_A_FOLDER:04}"
        if number % _IN_A_FOLDER == 0:
            folder.mkdir(parents=True)
        content[at : at + 8] = number.to_bytes(8, "big")
        path = folder / f"recording_2026-09-21_{number:06}.mcap"
        path.write_bytes(content)
        paths.append(path)
    return paths


def uploaded(state: Path, paths: Sequence[Path]) -> None:
    """Write the history of an agent that has uploaded all of them, as after its next compaction."""
    history = TinyHistory(state / "history", RealClock())
    logs = ((number, _document(number, path)) for number, path in enumerate(paths))
    while batch := list(islice(logs, _AT_ONCE)):
        with history.transaction():
            for number, document in batch:
                log = history.add(document)
                session = replace(
                    log.require_session(), phase="opening", multipart_upload_id=f"{number:096x}"
                )
                history.move(log.id, "claimed", session=session)
                session = replace(
                    session, phase="completing", etag=f'"{number:032x}-1"', part_count=1
                )
                history.move(log.id, "done", session=session)
    history._storage.compact()
    history.close()


def _document(number: int, path: Path) -> SyncLog:
    descriptor = os.open(path, os.O_RDONLY)
    state = os.fstat(descriptor)
    mark = str(fingerprint(descriptor, state.st_size))
    os.close(descriptor)
    return replace(
        recording(number),
        episode_id=f"task-{path.stem}",
        path=str(path),
        file_size=state.st_size,
        mtime=utc_text(state.st_mtime),
        fingerprint=mark,
    )


def with_markers(paths: Sequence[Path]) -> Iterator[Path]:
    """Cut off the ends of these recordings, and request each again.

    The markers wait until the recordings are finished.
    """
    for path in paths:
        os.truncate(path, path.stat().st_size - 20)
        marker = path.with_name(f"{path.name}.resync")
        marker.touch()
        yield marker
