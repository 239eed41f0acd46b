"""Tests of the checks of the robot itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.adapters.config import Settings
from agent.adapters.failure_file import FailureFile
from agent.preconditions import host
from agent.preconditions.host import HostChecks
from agent.preconditions.table import Note
from tests.harness.fakes.clock import FakeClock


@pytest.mark.parametrize("expected", [False, True])
def test_a_stopped_agent_is_a_fault_only_where_it_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, expected: bool
) -> None:
    monkeypatch.setattr(host, "is_expected_to_run", lambda _: expected)
    settings = Settings.model_validate(
        {
            "agent": {"state_dir": str(tmp_path)},
            "log": {"dir": str(tmp_path)},
            "watch": {"roots": [str(tmp_path)]},
        }
    )
    checks = HostChecks(settings, FakeClock()).preconditions()
    check = next(each.check for each in checks if each.name == "agent")
    result = check()
    assert isinstance(result, Note)
    assert (result.says, result.ok) == ("not running", not expected)
    assert ("systemctl start keystone-agent" in result.advice) == expected


def test_the_time_since_which_an_agent_has_failed_is_a_field(tmp_path: Path) -> None:
    FailureFile(tmp_path).note("2026-11-28T10:00:00.000Z", "the disk is full")
    settings = Settings.model_validate(
        {"agent": {"state_dir": str(tmp_path)}, "watch": {"roots": [str(tmp_path)]}}
    )
    checks = HostChecks(settings, FakeClock()).preconditions()
    result = next(each.check for each in checks if each.name == "agent")()
    assert isinstance(result, Note)
    assert result.at == "2026-11-28T10:00:00.000Z"
    assert result.says == f"not running since {result.at}: the disk is full"
