"""The detection of programs that have a file open for writing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.files import writers
from agent.files.writers import has_writer
from tests.harness import recorders


def test_a_writer_is_seen_while_it_has_the_file_open(tmp_path: Path) -> None:
    path = recorders.unfinished(tmp_path / "a.mcap")
    assert has_writer(path) is False
    with path.open("ab"):
        assert has_writer(path) is True
    assert has_writer(path) is False


def test_a_writer_can_t_be_seen_where_the_kernel_gives_no_lease(tmp_path: Path) -> None:
    assert has_writer(tmp_path) is None
    with pytest.raises(FileNotFoundError):
        has_writer(tmp_path / "a.mcap")


@pytest.mark.parametrize(("kind", "kept_out"), [("nfs4", None), ("cifs", None), ("ext4", False)])
def test_a_refused_lease_is_no_writer_where_a_server_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kept_out: bool | None
) -> None:
    path = tmp_path / "a.mcap"
    path.touch()
    device = path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    place = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(
        f"22 1 0:99 / /x rw - tmpfs t rw\n23 1 {place} / / rw shared:1 - {kind} s rw\n"
    )
    monkeypatch.setattr(writers, "_MOUNTS", mounts)
    with path.open("ab"), path.open("rb") as reader:
        assert writers.keep_writers_out(reader.fileno()) is kept_out
