"""An old journal, and tools to let its upgrade fail or be killed at one of its steps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from agent.adapters.history import TinyHistory, to_json
from agent.adapters.journal.contents import FORMAT
from tests.harness.history_on_disk import opened
from tests.harness.paths import REPOSITORY

# This journal was written by the last agent that knew only format 1.
OLD = (REPOSITORY / "tests" / "data" / "journal.format-1").read_bytes()

# The system calls that count as steps.
STEPS = ("pwrite", "fsync", "fdatasync", "posix_fallocate", "rename")


def old_history(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "journal").write_bytes(OLD)
    return folder


def content(file: Path) -> bytes:
    return file.read_bytes().rstrip(b"\0")


def upgraded(folder: Path) -> bool:
    return b'{"format":%d,' % FORMAT in content(folder / "journal")


def all_of(history: TinyHistory) -> dict[str, Any]:
    return {
        "documents": [to_json(log) for log in history.newest_first()],
        "orphans": list(history.orphans()),
        "marker": history.marker("/data/a.mcap.resync"),
    }


def failing_at(
    step: int, fail: Callable[[], None]
) -> Callable[[str, Callable[..., Any]], Callable[..., Any]]:
    """Return a wrapper for system calls. The call number ``step`` does half its work and fails."""
    done = count(1)

    def wrap(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if next(done) == step:
                if name == "pwrite":
                    descriptor, data, offset = arguments
                    real(descriptor, data[: len(data) // 2], offset)
                fail()
            return real(*arguments)

        return call

    return wrap


def sound(folder: Path, before: dict[str, Any]) -> bool:
    """Assert that the journal is complete in the old or new format. Return whether it is new."""
    now_new = upgraded(folder)
    assert content(folder / "journal").startswith(OLD)
    copy = folder / "journal.format-1"
    assert copy.read_bytes() == OLD if copy.exists() else not now_new
    with opened(folder, read_only=True) as history:
        assert all_of(history) == before
        assert history.damage() == 0
    return now_new
