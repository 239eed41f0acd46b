"""Tests of how `run` ends when it can't go on, and of output in foreign locales and the journal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.console import Console
from tests.harness.eventually import eventually


def command(
    console: Console, *arguments: str | Path, **environ: str
) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "agent", *map(str, arguments), "--config", str(console.config)]
    return subprocess.run(
        words, capture_output=True, env={**os.environ, **environ}, check=False, timeout=60
    )


@pytest.fixture
def console(tmp_path: Path) -> Console:
    console = Console(tmp_path)
    log = tmp_path / "log"
    log.mkdir()
    console.configure("[log]", f"dir = {json.dumps(str(log))}")
    return console


@pytest.mark.parametrize("level", ["INFO", "ERROR"])
def test_an_error_at_the_start_is_in_the_log_and_in_the_status_until_a_start_succeeds(
    console: Console, level: str
) -> None:
    console.configure("[log]", f"level = {level!r}", f"dir = {str(console.state.parent / 'log')!r}")
    # A file lies where the history must be a folder.
    (console.state / "history").write_text("")
    ended = command(console, "run")
    assert ended.returncode != 0
    reason = ended.stderr.decode().splitlines()[-2]
    (line,) = console.run("logs", "--level", "error", "--json").stdout.splitlines()
    assert json.loads(line)["event"] == "agent_failed"
    assert reason in json.loads(line)["message"]
    assert ended.stderr.decode().count(reason) == 1
    (console.state / "history").unlink()
    assert reason in console.run("status").stdout
    assert reason in console.json("status")["agent_failure"]["message"]
    assert any(reason in line for line in console.run("check").stdout.splitlines())

    words = [sys.executable, "-m", "agent", "run", "--config", str(console.config)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as agent:
        eventually((console.state / "status.json").exists)
        agent.terminate()
        assert agent.wait(30) == 0
    assert console.json("status")["agent_failure"] is None


def test_a_second_agent_that_is_refused_says_nothing_in_the_name_of_the_first(
    console: Console,
) -> None:
    with console.running():
        ended = command(console, "run")
    assert ended.returncode != 0
    assert console.run("logs", "--level", "error").stdout == ""
    assert console.json("status")["agent_failure"] is None


def test_a_wrong_configuration_is_in_the_default_log(console: Console, tmp_path: Path) -> None:
    console.config.write_text("[nonsense]\n")
    script = (
        "import sys\n"
        "from agent.adapters.config.sections import LogSettings\n"
        "from agent.cli.commands import run\n"
        "run.LogSettings = lambda: LogSettings(dir=sys.argv[1])\n"
        "run.run.main([])\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, tmp_path / "log"],
        env={**os.environ, "KEYSTONE_AGENT_CONFIG": str(console.config)},
        check=False,
        timeout=60,
    )
    assert "nonsense" in (tmp_path / "log" / "agent.log").read_text()


def test_the_agent_leaves_no_core_dump() -> None:
    script = (
        "import resource\n"
        "from agent.cli.commands.run import _leave_no_core_dumps\n"
        "hard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\n"
        "_leave_no_core_dumps()\n"
        "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, hard)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_all_output_is_utf_8_whatever_the_locale_is(console: Console) -> None:
    name = "Prüfstand 録音.mcap"
    (console.root / name).write_bytes(b"")
    locale = {
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "iso-8859-1",
    }
    (console.state.parent / "log" / "json").mkdir()
    (console.state.parent / "log" / "json" / "agent.jsonl").write_text(
        json.dumps({"message": name}, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    for arguments in (["ls"], ["ls", "--json"], ["why", console.root / name], ["logs"]):
        shown = command(console, *arguments, **locale)
        assert shown.stderr == b""
        assert name in shown.stdout.decode("utf-8")
    checked = command(console, "check", **locale)
    assert "→" in checked.stdout.decode("utf-8")
    assert b"Traceback" not in checked.stderr


def test_an_error_in_the_journal_has_its_priority(console: Console, tmp_path: Path) -> None:
    console.config.write_text("[nonsense]\n")
    words = [sys.executable, "-m", "agent", "run", "--config", str(console.config)]
    with (tmp_path / "journal").open("w+b") as journal:
        state = os.fstat(journal.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{state.st_dev}:{state.st_ino}"}
        subprocess.run(words, stderr=journal, env=environ, check=False, timeout=60)
        journal.seek(0)
        lines = journal.read().decode().splitlines()
    assert lines
    assert [line for line in lines if not line.startswith("<3>")] == []


def test_a_dumb_terminal_gets_plain_lines(console: Console) -> None:
    standing = {
        "recordings": {"pending": 0},
        "queue_length": 0,
        "waiting": [],
        "waiting_count": 0,
        "failed": [],
        "damaged_lines": 0,
        "orphaned_uploads": 0,
        "stuck_markers": [],
    }
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "agent", "status", "--watch", "--config", str(console.config)]
    with console.running(standing=standing, version="1", device_id="robot"):
        process = subprocess.Popen(
            words, stdout=theirs, stderr=subprocess.DEVNULL, env={**os.environ, "TERM": "dumb"}
        )
        os.close(theirs)
        shown = b""
        try:
            while b"queue" not in shown:
                shown += os.read(ours, 4096)
        finally:
            process.kill()
            process.wait()
            os.close(ours)
    assert b"\x1b" not in shown
    assert b"agent     running" in shown
