"""Tests of `status --watch` in a terminal of 80 columns, and without a terminal.

The agent is real.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyte
import pytest

from agent.adapters.control import ControlServer
from agent.adapters.status_file import StatusFile
from agent.cli.status_screen import StatusScreen
from agent.devcloud.cloud import DevCloud
from agent.observe.history_summary import summarize_history
from tests.harness.agent_process import Agent, running
from tests.harness.console import QUEUED, Console
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.history import MemoryHistory
from tests.harness.fakes.operator import FakeOperator
from tests.harness.recorders import unfinished, write_mcap

MIB = 1024 * 1024
COLUMNS = 80
LINES = 24


class Terminal:
    """A command on a pty, and the screen that the command draws."""

    def __init__(self, command: list[str], environ: dict[str, str]) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        unsized = {name: text for name, text in environ.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**unsized, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(slave)
        self.screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self.screen)

    def wait(self, until: Callable[[list[str]], Any], seconds: float = 60) -> list[str]:
        """Let the command draw until ``until`` is true of the lines."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._read():
            lines = [line.rstrip() for line in self.screen.display]
            if until(lines):
                return lines
        raise AssertionError("\n".join(self.screen.display))

    def end(self) -> int:
        """Press Ctrl-C, read the rest of the output, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        while self._read():
            pass
        return self.process.wait(20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self) -> bool:
        """Return whether more output may come."""
        if not select.select([self._master], [], [], 1)[0]:
            return True
        try:
            self._stream.feed(os.read(self._master, 65536))
        except OSError:
            # The command has closed its end of the pty.
            return False
        return True


def watching(agent: Agent, *more: str) -> list[str]:
    return [sys.executable, "-m", "agent", "status", "--watch", *more, "--config", agent.config]


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    with (
        DevCloud(tmp_path / "cloud", bandwidth=3 * MIB) as cloud,
        running(cloud.agent_files, tmp_path / "a-rather-long-name-of-a-folder") as agent,
    ):
        agent.wait(lambda _: StatusFile(agent.state).read())
        yield agent


def upload_rows(lines: Sequence[str]) -> list[str]:
    """Return the lines of the screen that show an upload with its progress, rate and time left."""
    row = re.compile(r"/run-\d\.mcap +\S+ +([1-9]\d?)% +[1-9][\d.]* [kM]B/s +\d.* left$")
    return [line for line in lines if row.search(line)]


def test_two_uploads_can_be_watched_on_80_columns(agent: Agent) -> None:
    for number in range(3):
        write_mcap(agent.root / f"run-{number}.mcap", size=40 * MIB, seed=number)
    unfinished(agent.root / "growing.mcap")
    terminal = Terminal(watching(agent), agent.environ)
    try:
        lines = terminal.wait(lambda lines: len(upload_rows(lines)) == 2)
        uploads = upload_rows(lines)
        assert [re.findall(r"run-\d", line)[0] for line in uploads] == ["run-0", "run-1"]
        assert re.fullmatch(r"keystone-agent .* \d\d:\d\d:\d\d", lines[0])
        assert {len(line) for line in uploads} == {COLUMNS}
        labels = [line[:9].strip() for line in lines[4:] if line and not line.startswith(" ")]
        assert labels == ["agent", "gate", "documents", "queue", "lease", "recording", "files"]
        assert [line for line in lines[5:] if "…" in line] == []
        whole = " ".join(line[10:] for line in lines)
        assert f"{agent.root}/growing.mcap" in whole.replace(" ", "")
        assert "no change since" in whole
        assert terminal.end() == 0
    finally:
        terminal.close()


def test_without_a_terminal_each_change_is_a_block_of_plain_lines(agent: Agent) -> None:
    process = subprocess.Popen(
        watching(agent),
        env=agent.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        # The upload begins only when the command watches, however slowly the command starts.
        lines = [process.stdout.readline()]
        write_mcap(agent.root / "run.mcap", size=12 * MIB)
        for line in process.stdout:
            lines.append(line)
            if "1 completed" in line:
                break
        assert agent.stop() == 0
        rest, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 3
    assert errors == "the agent has stopped\n"
    text = "".join(lines) + rest
    assert "\x1b" not in text
    blocks = [block.partition("\n")[2] for block in text.split("\n\n")]
    assert all(first != second for first, second in itertools.pairwise(blocks))
    assert any(re.search(r"^uploads   \[#+\.*\] +\d+% .*/run\.mcap$", line) for line in lines)


def test_programs_get_an_object_a_line(agent: Agent) -> None:
    process = subprocess.Popen(
        watching(agent, "--json"), env=agent.environ, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        document = json.loads(process.stdout.readline())
        answer = json.loads(agent.command("status", "--json").stdout)
        assert list(document) == list(answer)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


class ChangingOperator(FakeOperator):
    """An agent that answers something new at every request."""

    def status(self) -> Mapping[str, Any]:
        self.asked_for.append("status")
        return {
            "looks": len(self.asked_for),
            "standing": summarize_history(MemoryHistory(FakeClock())),
        }


def test_the_socket_is_listened_to_until_the_agent_stops(tmp_path: Path) -> None:
    console = Console(tmp_path)
    server = ControlServer(console.state, ChangingOperator())
    server.start()
    command = [
        sys.executable,
        "-m",
        "agent",
        "status",
        "--watch",
        "--json",
        "--config",
        str(console.config),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        objects = [json.loads(process.stdout.readline()) for _ in range(2)]
        server.stop(1)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert [item["agent"]["looks"] for item in objects] == [1, 2]
    assert (process.returncode, errors) == (3, "the agent has stopped\n")


def test_nothing_can_be_watched_where_no_agent_runs(tmp_path: Path) -> None:
    result = Console(tmp_path).run("status", "--watch")
    assert (result.exit_code, result.stderr) == (3, "the agent is not running\n")


def answer(**agent: Any) -> dict[str, Any]:
    known = {"version": "0", "device_id": "r", "gate": None, "uploads": [], "files": {}, **agent}
    return {
        "agent": known,
        **summarize_history(MemoryHistory(FakeClock())),
        "rejected_markers": [],
        "full_disk": None,
    }


def drawn(answer: dict[str, Any], width: int, height: int) -> list[str]:
    from rich.console import Console as Rich  # noqa: PLC0415
    from rich.screen import Screen  # noqa: PLC0415

    console = Rich(width=width, height=height, legacy_windows=False)
    with console.capture() as capture:
        console.print(Screen(StatusScreen(answer)))
    return capture.get().splitlines()


def test_what_does_not_fit_the_terminal_is_counted() -> None:
    many = [
        {"path": f"/{number}.mcap", "state": "settling", "since": QUEUED, "message": "settling"}
        for number in range(30)
    ]
    lines = drawn(answer(held_files=many), 80, 12)
    assert len(lines) == 12
    assert re.match(r"… \d+ more lines: keystone-agent status", lines[-1])


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_end_of_a_name_is_seen_however_narrow_the_terminal(width: int) -> None:
    upload = {
        "path": "/data/" + "録音/" * 20 + "\x1b[2Jend.mcap",
        "file_size": 100,
        "bytes_sent": 50,
        "bytes_per_second": 1e6,
        "seconds_left": None,
    }
    lines = drawn(answer(uploads=[upload]), width, 20)
    (row,) = [line for line in lines if "50%" in line]
    assert "p" in row.partition("━")[0]
    assert "\x1b" not in row
