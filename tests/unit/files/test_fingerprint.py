"""The fingerprint of a file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from agent.files.fingerprint import fingerprint
from agent.model.errors import FileChangedError
from agent.model.values import Fingerprint


def fingerprint_of(path: Path) -> Fingerprint:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return fingerprint(descriptor, path.stat().st_size)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("size", [0, 1, 3 * 65536])
def test_a_small_file_s_fingerprint_covers_all_of_it(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(os.urandom(size))
    assert fingerprint_of(path) == Fingerprint(size, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("size", [3 * 65536 + 1, 1_000_000])
def test_a_large_file_s_fingerprint_covers_first_middle_and_last_64_kib(
    tmp_path: Path, size: int
) -> None:
    content = os.urandom(size)
    path = tmp_path / "a"
    path.write_bytes(content)
    middle = (size - 65536) // 2
    windows = content[:65536] + content[middle : middle + 65536] + content[-65536:]
    assert fingerprint_of(path) == Fingerprint(size, hashlib.sha256(windows).hexdigest())


def test_a_fingerprint_of_a_file_that_shrank_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(FileChangedError):
            fingerprint(descriptor, 6)
    finally:
        os.close(descriptor)
