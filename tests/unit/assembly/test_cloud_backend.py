"""Tests of what stands for the cloud, without any request."""

from __future__ import annotations

from pathlib import Path

from agent.adapters.assets import AssetFile
from agent.adapters.config import Settings
from agent.assembly import cloud_backend
from agent.assembly.cloud_adapters import CloudAdapters
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.history import MemoryHistory


def hide(*_secrets: str, **_options: bool) -> None:
    """Hide nothing, because nothing is logged here."""


def test_only_find_files_takes_a_profile_file_at_another_path(tmp_path: Path) -> None:
    clock = FakeClock()
    settings = Settings.model_validate(
        {"agent": {"state_dir": tmp_path / "state"}, "watch": {"roots": [tmp_path / "data"]}}
    )
    backend = cloud_backend.build(
        settings,
        CloudAdapters({"HOME": str(tmp_path)}, clock, hide, connections=1),
        robot="robot-1",
        assets=AssetFile(tmp_path, {}),
        history=MemoryHistory(clock),
        clock=clock,
        hide=hide,
    )
    before = backend.stamp()
    file = tmp_path / ".archebase" / "config.json"
    file.parent.mkdir()
    file.write_text("{}")
    assert backend.stamp() == before
    assert backend.stamp() == before
    backend.find_files()
    assert backend.stamp() != before
