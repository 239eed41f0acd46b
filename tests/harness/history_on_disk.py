"""Opens the real history in a folder, and limits the size of files."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.adapters.history import TinyHistory
from tests.harness.fakes.clock import FakeClock


@contextmanager
def opened(folder: Path, *, read_only: bool = False, reserve: int = 65536) -> Iterator[TinyHistory]:
    history = TinyHistory(folder, FakeClock(), read_only=read_only, reserve=reserve)
    try:
        yield history
    finally:
        history.close()


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
