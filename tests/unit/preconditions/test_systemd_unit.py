"""Tests of the question whether an agent should be running on this robot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.preconditions import systemd_unit
from agent.preconditions.systemd_unit import UNIT, is_expected_to_run
from agent.preconditions.user import user_name


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
