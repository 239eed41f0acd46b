"""The names of the files that belong to a recording."""

from __future__ import annotations

from pathlib import Path

from agent.discovery.file_names import related, sidecar_path


def test_a_compressed_split_has_the_split_s_sidecar(tmp_path: Path) -> None:
    assert (
        sidecar_path(tmp_path / "a.b.mcap.zstd")
        == sidecar_path(tmp_path / "a.b.mcap")
        == tmp_path / "a.b.json"
    )


def test_a_sidecar_concerns_recordings_with_either_suffix() -> None:
    assert {"RUN.mcap", "RUN.MCAP"} <= related("RUN.json")
    assert related("RUN.MCAP.done") == related("RUN.json") - {"RUN.json"} | {"RUN.MCAP.done"}
