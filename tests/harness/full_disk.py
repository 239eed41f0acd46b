"""A small real file system that can be filled to its last byte."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@contextmanager
def tmpfs(folder: Path) -> Iterator[Callable[[], AbstractContextManager[object]]]:
    """Mount a file system of 3 MiB. The value is a context manager that keeps it full."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"can't mount a tmpfs: {mounted.stderr.decode().strip()}")

    @contextmanager
    def full() -> Iterator[None]:
        with (folder / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017 - only this error means a full disk
        yield
        (folder / "filler").unlink()

    try:
        yield full
    finally:
        subprocess.run(["umount", folder], check=True)
