"""Tests of `config show`, of `config validate`, and of the error of a wrong configuration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.adapters.config import load
from tests.harness.console import Console


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path, "rescan_seconds = 7")


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_shown_with_its_origin_is_toml(console: Console, tmp_path: Path) -> None:
    shown = console.run("config", "show", "--origin").stdout
    again = tmp_path / "again.toml"
    again.write_text(shown)
    assert load(again, {}).settings == load(console.config, {}).settings
    assert f"rescan_seconds = 7.0  # {console.config}" in shown
    assert 'state_dir = "/' in shown


def test_a_number_looks_alike_whoever_set_it(console: Console) -> None:
    by_file = console.json("config", "show")
    console.configure("rescan_seconds = 60", "sidecar_wait_seconds = 5")
    by_hand = console.run("config", "show").stdout
    console.configure()
    by_default = console.run("config", "show").stdout
    assert by_hand == by_default
    assert {
        type(by_file["watch"][key])
        for key in ("rescan_seconds", "settle_seconds", "sidecar_wait_seconds")
    } == {float}


def test_programs_get_every_fault_as_json(console: Console) -> None:
    console.configure("rescan_seconds = 0", "colour = 1")
    result = console.run("config", "validate", "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, answer["valid"]) == (2, False)
    assert {fault["key"] for fault in answer["faults"]} == {"watch.rescan_seconds", "watch.colour"}
    assert all(
        fault["expected"] and fault["origin"] == str(console.config) for fault in answer["faults"]
    )


def test_a_file_that_is_not_there_has_no_lines_to_mend() -> None:
    result = command("status", "--config", "/nope")
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "/nope: there is no such file",
        "→ mend that file, or name another one with --config or KEYSTONE_AGENT_CONFIG",
    ]


def test_a_device_id_that_images_share_is_a_wrong_configuration(console: Console) -> None:
    result = command(
        "run", "--config", str(console.config), KEYSTONE_AGENT_AGENT__DEVICE_ID="localhost"
    )
    assert result.returncode == 2
    assert "agent.device_id says 'localhost'" in result.stderr
