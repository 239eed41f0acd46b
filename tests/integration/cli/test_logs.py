"""Tests of `logs`: which lines are shown, and how a growing log is followed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.console import Console

MARCH = "2026-03-01T10:00:00.000Z"
MAY = "2026-05-01T10:00:00.000Z"


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path, "[log]", f"dir = {json.dumps(str(tmp_path / 'logs'))}")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "logs" / "json").mkdir(parents=True)
    return tmp_path / "logs" / "json" / "agent.jsonl"


def line(message: str, **values: Any) -> str:
    given = {
        "time": MAY,
        "level": "INFO",
        "event": "queued",
        "message": message,
        "episode_id": None,
        **values,
    }
    return json.dumps(given) + "\n"


def printed_lines(console: Console, *arguments: str) -> list[str]:
    return [
        shown["message"]
        for shown in map(json.loads, console.run("logs", "--json", *arguments).stdout.splitlines())
    ]


def test_a_line_has_the_local_time_and_what_belongs_to_it(console: Console, file: Path) -> None:
    file.write_text(line("queued\x1b[2J", path="/a b.mcap", document=3, exception="one\ntwo"))
    shown = console.run("logs").stdout.splitlines()
    assert shown[0].endswith(" INFO    queued: queued\\x1b[2J path='/a b.mcap' document=3")
    assert shown[1:] == ["    one", "    two"]


def test_lines_are_chosen_by_level_episode_time_and_number(console: Console, file: Path) -> None:
    file.write_text(
        line("old", time=MARCH)
        + line("detail", level="DEBUG", episode_id="e")
        + line("warning", level="WARNING", episode_id="e")
        + line("error", level="ERROR")
    )
    assert printed_lines(console) == ["old", "detail", "warning", "error"]
    assert printed_lines(console, "--level", "warning") == ["warning", "error"]
    assert printed_lines(console, "--episode", "e") == ["detail", "warning"]
    assert printed_lines(console, "--since", "2026-04-01") == ["detail", "warning", "error"]
    assert printed_lines(console, "--since", "2026-04-01", "-n", "1", "--level", "WARNING") == [
        "error"
    ]
    assert printed_lines(console, "-n", "2") == ["warning", "error"]


def test_a_hundred_lines_are_shown_unless_more_are_asked_for(console: Console, file: Path) -> None:
    file.write_text("".join(line(str(number)) for number in range(150)))
    assert printed_lines(console) == [str(number) for number in range(50, 150)]
    assert len(printed_lines(console, "--since", "2026-04-01")) == 150


def test_an_agent_that_logs_no_files_says_where_its_log_is(console: Console) -> None:
    console.configure("[log]", 'dir = ""')
    result = console.run("logs")
    assert result.exit_code == 1
    assert "journalctl" in result.stderr


def test_no_log_yet_is_no_failure(console: Console) -> None:
    result = console.run("logs")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no log lines match\n")


@pytest.fixture
def follower(console: Console) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "agent",
        "logs",
        "-f",
        "-n",
        "1",
        "--json",
        "--config",
        str(console.config),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def test_the_command_follows_a_rotated_log_until_it_is_interrupted(
    file: Path, follower: subprocess.Popen[str]
) -> None:
    assert follower.stdout is not None
    aside = file.with_name("agent.aside")
    aside.write_text(line("first") + line("second"))
    aside.rename(file)
    assert json.loads(follower.stdout.readline())["message"] in ("first", "second")
    os.rename(file, file.with_name("agent.2026.jsonl"))  # noqa: PTH104
    file.write_text(line("third"))
    message = ""
    while message != "third":
        message = json.loads(follower.stdout.readline())["message"]
    follower.send_signal(signal.SIGINT)
    assert follower.wait(20) == 0
