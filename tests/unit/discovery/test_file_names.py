"""The names of the files that belong to a recording."""

from __future__ import annotations

from pathlib import Path

from agent.discovery.file_names import sidecar_path


def test_a_compressed_split_has_the_split_s_sidecar(tmp_path: Path) -> None:
    assert (
        sidecar_path(tmp_path / "a.b.mcap.zstd")
        == sidecar_path(tmp_path / "a.b.mcap")
        == tmp_path / "a.b.json"
    )
