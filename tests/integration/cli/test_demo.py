"""Tests of `demo` and `devcloud`: nothing is left behind, and each error is one line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

_HIDE = """
import sys
from agent.devcloud import servers
{line}
from agent.__main__ import main
main()
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose temporary files are easy to find."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp")}


def leftover_files(environ: dict[str, str]) -> list[str]:
    return sorted(path.name for path in Path(environ["TMPDIR"]).iterdir())


def processes_below(folder: str) -> list[list[str]]:
    """Return the command lines of the processes that work below ``folder``."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if any(folder in word for word in line):
            found.append(line)
    return found


def command(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_interrupted_leaves_nothing_behind(
    number: int, environ: dict[str, str]
) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-u", "-m", "agent", "demo", "--seconds", "30"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:
        lines.append(line)
        if line.startswith("recording"):
            break
    assert any("removed at the end" in line for line in lines)
    assert any("recorder" in " ".join(line) for line in processes_below(environ["TMPDIR"]))
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=60)
    assert (demo.returncode, errors.strip()) == (1, "Aborted!")
    assert leftover_files(environ) == []
    assert processes_below(environ["TMPDIR"]) == []


def test_a_recording_may_be_large_and_short(tmp_path: Path) -> None:
    from agent.devcloud.recorder import record  # noqa: PLC0415 - it needs the extra

    path = tmp_path / "a.mcap"
    pauses: list[float] = []
    record(path, seconds=0.1, mebibytes=40, pause=pauses.append)
    assert len(pauses) >= 5, "no single picture of 20 MiB"
    assert path.stat().st_size == pytest.approx(40 * 1024 * 1024, rel=0.01)


@pytest.mark.parametrize("option", ["--gateway-port", "--store-port"])
def test_a_port_that_is_taken_is_one_clear_line(option: str, environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = command(environ, "-m", "agent", "devcloud", option, port)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("Error: the embedded cloud can't start:")
    assert f"127.0.0.1:{port}" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert leftover_files(environ) == []


def test_a_folder_that_can_not_be_one_is_one_clear_line(
    environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    result = command(environ, "-m", "agent", "devcloud", "--folder", str(tmp_path / "file"))
    assert (result.returncode, result.stderr) == (
        1,
        f"Error: the embedded cloud can't start: {tmp_path}/file: File exists\n",
    )


def test_a_store_that_is_not_there_leaves_no_folder(environ: dict[str, str]) -> None:
    result = command(environ, "-m", "agent", "devcloud", "--store", "nonsense")
    assert result.returncode == 1
    assert (
        result.stderr
        == "Error: the embedded cloud can't start: no program for the store 'nonsense' here\n"
    )
    assert leftover_files(environ) == []


@pytest.mark.parametrize("name", ["demo", "devcloud"])
def test_without_any_s3_server_nothing_is_begun(name: str, environ: dict[str, str]) -> None:
    code = _HIDE.format(line="servers.rclone_program = servers.shutil.which = lambda *_: None")
    result = command(environ, "-c", code, name)
    assert result.returncode == 1
    assert "install keystone-agent[devcloud]" in result.stderr
    assert "Traceback" not in result.stderr
    assert leftover_files(environ) == []


def test_without_its_extra_the_demo_says_what_to_install(environ: dict[str, str]) -> None:
    result = command(environ, "-c", _HIDE.format(line="sys.modules['mcap'] = None"), "demo")
    assert (result.returncode, result.stderr) == (
        1,
        "Error: mcap is not installed: pip install 'keystone-agent[devcloud]'\n",
    )
    assert leftover_files(environ) == []


def test_a_cloud_says_where_it_stays_and_ends_in_order(environ: dict[str, str]) -> None:
    cloud = subprocess.Popen(
        [sys.executable, "-u", "-m", "agent", "devcloud"],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert cloud.stdout is not None
    lines = []
    for line in cloud.stdout:
        lines.append(line)
        if line.startswith("[log]"):
            break
    cloud.send_signal(signal.SIGTERM)
    cloud.communicate(timeout=60)
    assert cloud.returncode == 0
    (folder,) = leftover_files(environ)
    assert any(folder in line and "stays there" in line for line in lines)
    assert processes_below(environ["TMPDIR"]) == []
