"""Small files that are written atomically: a reader finds the whole file or none."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.model import atomic_file


def test_a_file_is_replaced_with_its_mode_and_owner(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 4711)
    path = tmp_path / "x"
    for text in (b"old", b"new"):
        atomic_file.put(path, text, owner=tmp_path, mode=0o604)
    state = path.stat()
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(state.st_mode) == 0o604
    assert (state.st_uid, state.st_gid) == (tmp_path.stat().st_uid, tmp_path.stat().st_gid)
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_that_others_laid_aside_is_written_to(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    (tmp_path / ".x.new").symlink_to(theirs)
    atomic_file.put(tmp_path / "x", b"mine", owner=tmp_path)
    assert theirs.read_text() == "theirs"
    assert not (tmp_path / "x").is_symlink()


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(IsADirectoryError):
        atomic_file.put(tmp_path / "x", b"mine", owner=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_it_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[str, bool]] = []
    fsync = os.fsync

    def seen(descriptor: int) -> None:
        synced.append(
            (Path(f"/proc/self/fd/{descriptor}").readlink().name, (tmp_path / "x").exists())
        )
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    atomic_file.put(tmp_path / "x", b"mine", owner=tmp_path)
    assert synced == [(".x.new", False), (tmp_path.name, True)]
