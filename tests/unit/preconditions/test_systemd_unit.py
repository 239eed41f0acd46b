"""Tests of the question whether an agent should be running on this robot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.adapters.config import Settings
from agent.adapters.failure_file import FailureFile
from agent.preconditions import host, systemd_unit
from agent.preconditions.host import HostChecks
from agent.preconditions.systemd_unit import UNIT, is_expected_to_run
from agent.preconditions.table import Note
from agent.preconditions.user import user_name
from tests.harness.fakes.clock import FakeClock


def enable(units: Path) -> None:
    (units / UNIT).touch()
    (units / "multi-user.target.wants").mkdir()
    (units / "multi-user.target.wants" / UNIT).symlink_to(units / UNIT)


def test_an_agent_is_expected_where_its_unit_is_enabled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_unit, "USER", user_name(os.geteuid()))
    assert not is_expected_to_run(tmp_path, tmp_path)
    enable(tmp_path)
    assert is_expected_to_run(tmp_path, tmp_path)
    assert not is_expected_to_run(tmp_path / "missing", tmp_path)


def test_an_agent_of_another_user_is_not_expected(tmp_path: Path) -> None:
    enable(tmp_path)
    assert not is_expected_to_run(tmp_path, tmp_path)


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
