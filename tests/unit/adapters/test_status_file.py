"""Tests of where the status of the agent lies, and how often it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.history import TinyHistory
from agent.adapters.status_file import StatusFile, runtime_directory
from tests.harness.fakes.clock import FakeClock


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def shown(state: Path) -> Any:
    """Return what a command of any version reads."""
    return json.loads((state / "status.json").read_text())["number"]


def test_in_the_runtime_directory_each_change_is_written_and_the_state_folder_stays(
    state: Path, runtime: Path
) -> None:
    file = StatusFile(state, runtime)
    file.write({"number": 0})
    before = state.stat().st_mtime_ns
    for number in range(1, 100):
        file.write({"number": number})
        assert shown(state) == number
    assert state.stat().st_mtime_ns == before
    assert [path.is_symlink() for path in state.iterdir()] == [True]
    assert (runtime / "keystone-agent-status.json").stat().st_mode & 0o777 == 0o640


def test_in_the_state_folder_changes_are_written_once_a_minute(state: Path) -> None:
    clock = FakeClock()
    file = StatusFile(state, None, clock.monotonic)
    seen = []
    for number in range(181):
        file.write({"number": number})
        seen.append(shown(state))
        clock.advance(1)
    assert sorted(set(seen)) == [0, 60, 120, 180]


def test_a_command_finds_the_status_in_both_places(state: Path, runtime: Path) -> None:
    history = TinyHistory(state / "history", FakeClock())
    try:
        for place in (runtime, None, runtime):
            StatusFile(state, place).write({"number": str(place)})
            status = StatusFile(state).read()
            assert status is not None
            assert status["number"] == str(place)
    finally:
        history.close()


def test_an_agent_of_an_earlier_version_puts_its_file_in_the_place_of_the_link(
    state: Path, runtime: Path
) -> None:
    StatusFile(state, runtime).write({"number": 1})
    # Version 0.1 deletes the file at its start, and writes it in this way.
    (state / "status.json").unlink()
    (state / "status.tmp").write_text('{"number": 2}')
    (state / "status.tmp").replace(state / "status.json")
    assert shown(state) == 2
    assert not (state / "status.json").is_symlink()
    StatusFile(state, runtime).write({"number": 3})
    assert shown(state) == 3


def test_a_link_that_a_killed_agent_left_half_made_is_not_followed(
    state: Path, runtime: Path
) -> None:
    (state / "status.tmp").symlink_to(runtime / "keystone-agent-status.json")
    StatusFile(state).write({"number": 1})
    assert not (state / "status.json").is_symlink()
    assert list(runtime.iterdir()) == []


def test_nothing_is_left_when_the_agent_stops(state: Path, runtime: Path) -> None:
    file = StatusFile(state, runtime)
    file.write({"number": 1})
    file.remove()
    file.remove()
    assert [*state.iterdir(), *runtime.iterdir()] == []


def test_only_a_directory_that_can_be_written_to_is_the_runtime_directory(tmp_path: Path) -> None:
    assert runtime_directory({"RUNTIME_DIRECTORY": f"{tmp_path}:/other"}) == tmp_path
    assert runtime_directory({"RUNTIME_DIRECTORY": str(tmp_path / "missing")}) is None
    assert runtime_directory({"RUNTIME_DIRECTORY": "relative"}) is None
    assert runtime_directory({}) is None
