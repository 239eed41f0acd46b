"""Tests of `status`: whether an agent runs, and what a stopped agent left behind."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.history import TinyHistory
from agent.adapters.status_file import StatusFile
from agent.model.errors import HistoryLockedError
from agent.model.sync_log import Fault
from tests.harness.console import QUEUED, Console

OFFLINE = Fault("offline", "refused", "CreateLogicalUpload: refused", "check the robot's network")


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


def command(console: Console, *arguments: str, **streams: Any) -> subprocess.CompletedProcess[str]:
    """Run the real command, whose standard output may be unusual."""
    environ = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments, "--config", str(console.config)],
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        timeout=60,
        check=False,
        **streams,
    )


def test_a_status_file_of_an_agent_that_was_killed_is_not_believed(console: Console) -> None:
    console.remember("/a.mcap")
    # The pid in the file is the pid of this test, which is alive.
    StatusFile(console.state).write({"gate": None, "uploads": []})
    assert console.json("status")["agent"] is None
    assert "agent     stopped" in console.run("status").stdout


def test_an_agent_runs_as_long_as_it_holds_its_history(console: Console) -> None:
    with console.running():
        assert f"running, process {os.getpid()}" in console.run("status").stdout
        StatusFile(console.state).remove()
        assert "agent     running\n" in console.run("status").stdout
    assert "agent     stopped" in console.run("status").stdout


def test_an_agent_starts_while_somebody_asks_whether_one_runs(console: Console) -> None:
    console.remember("/a.mcap")
    asker = os.open(console.state / "history" / "lock", os.O_RDONLY)
    fcntl.flock(asker, fcntl.LOCK_SH | fcntl.LOCK_NB)
    threading.Timer(0.2, os.close, [asker]).start()
    TinyHistory(console.state / "history", console.clock).close()


def test_a_second_agent_is_still_refused(console: Console) -> None:
    with console.running(), pytest.raises(HistoryLockedError):
        TinyHistory(console.state / "history", console.clock)


def test_a_stopped_agent_leaves_the_errors_of_what_waits(console: Console) -> None:
    console.remember("/a.mcap", error=OFFLINE)
    console.remember("/b.mcap", error=OFFLINE, status="failed", next_retry_at=QUEUED)
    console.remember("/c.mcap", error=OFFLINE, status="failed")
    console.remember("/d.mcap")
    answer = console.json("status")
    assert [(item["path"], item["status"]) for item in answer["waiting"]] == [
        ("/a.mcap", "pending"),
        ("/b.mcap", "failed"),
    ]
    shown = console.run("status").stdout
    assert shown.count("CreateLogicalUpload: refused") == 3
    assert "waits     /a.mcap\n" in shown
    assert "failed    /c.mcap\n" in shown


def test_what_was_taken_up_again_is_no_failure_any_more(console: Console) -> None:
    console.remember("/a.mcap", error=OFFLINE, status="failed")
    console.remember("/a.mcap")
    assert console.json("status")["failed"] == []


def test_files_that_wait_are_labelled_otherwise_than_documents(console: Console) -> None:
    console.remember("/b.mcap", error=OFFLINE, status="failed", next_retry_at=QUEUED)
    held = {"path": "/a.mcap", "state": "settling", "since": QUEUED, "message": "settling"}
    with console.running(held_files=[held], files={"files": {"waiting": 1, "complete": 2}}):
        lines = console.run("status").stdout.splitlines()
    assert [line.split("  ")[0] for line in lines if ".mcap" in line] == ["waits", "not yet"]
    assert "files     1 not yet, 2 complete" in lines
    assert QUEUED not in "\n".join(lines)


def test_the_reason_of_the_gate_stands_alone_and_once(console: Console) -> None:
    reason = "CreateLogicalUpload: refused"
    gate = {
        "reason": reason,
        "hint": "wait",
        "since": QUEUED,
        "next_probe": QUEUED,
        "cause": "cloud",
    }
    console.remember("/a.mcap", error=OFFLINE)
    with console.running(gate=gate):
        lines = console.run("status").stdout.splitlines()
    assert [line.strip() for line in lines if reason in line] == [reason]
    assert max(len(line) for line in lines) <= 80


def test_very_many_documents_that_wait_are_counted(console: Console) -> None:
    for number in range(25):
        console.remember(f"/{number}.mcap", error=OFFLINE)
    shown = console.run("status").stdout
    assert shown.count("waits     /") == 20
    assert "waits     5 more" in shown


@pytest.fixture
def closed_pipe() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("arguments", [("status",), ("history", "--json"), ("config", "show")])
def test_a_full_disk_behind_standard_output_is_one_line(
    arguments: tuple[str, ...], console: Console
) -> None:
    with Path("/dev/full").open("w") as full:
        result = command(console, *arguments, stdout=full)
    assert (result.returncode, result.stderr) == (1, "keystone-agent: No space left on device\n")


def test_a_reader_that_has_gone_is_no_bug(console: Console, closed_pipe: int) -> None:
    result = command(console, "status", stdout=closed_pipe)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") <= 1


def test_a_name_can_neither_move_the_cursor_nor_forge_a_line(console: Console) -> None:
    console.remember("/evil\x1b[2J\nforged.mcap")
    shown = console.run("history").stdout
    assert "$'/evil\\033[2J\\012forged.mcap'" in shown
    assert len(shown.splitlines()) == 1


def test_no_command_prints_a_character_that_acts_on_a_terminal(console: Console) -> None:
    name = "\x1b[2J\x7f\x9b1m\u202e\u2028$(id).mcap"
    path = console.root / name
    path.write_bytes(b"")
    console.remember(path, episode=name, status="failed")
    (console.state / "markers").mkdir()
    (console.state / "markers" / f"{name}.rejected").write_text("")
    for arguments in (["status"], ["ls"], ["scan"], ["why", path], ["history"]):
        for json in ([], ["--json"]):
            shown = console.run(*arguments, *json).output
            assert shown.replace("\n", "").isprintable(), (arguments, shown)
            assert json or "$'" in shown or arguments == ["scan"]
