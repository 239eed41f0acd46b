"""The detection of programs that have a file open for writing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.files import writers
from agent.files.writers import has_writer
from tests.harness import recorders


def test_a_writer_is_seen_while_it_has_the_file_open(tmp_path: Path) -> None:
    path = recorders.unfinished(tmp_path / "a.mcap")
    assert has_writer(path) is False
    with path.open("ab"):
        assert has_writer(path) is True
    assert has_writer(path) is False


def test_a_writer_can_t_be_seen_where_the_kernel_gives_no_lease(tmp_path: Path) -> None:
    assert has_writer(tmp_path) is None
    with pytest.raises(FileNotFoundError):
        has_writer(tmp_path / "a.mcap")


def test_a_writer_that_comes_during_the_probe_harms_nobody(tmp_path: Path) -> None:
    """The kernel sends a signal to the holder of the lease.

    SIGIO would end the process, SIGURG does not.
    """
    path = recorders.unfinished(tmp_path / "a.mcap")
    program = (
        "import fcntl, sys, threading\n"
        "from pathlib import Path\n"
        "from agent.files import writers\n"
        "class Slow:\n"
        "    def __getattr__(self, name): return getattr(fcntl, name)\n"
        "    def fcntl(self, descriptor, command, value=0):\n"
        "        answer = fcntl.fcntl(descriptor, command, value)\n"
        "        if (command, value) == (fcntl.F_SETLEASE, fcntl.F_RDLCK):\n"
        "            print('held', flush=True)\n"
        "            sys.stdin.readline()\n"
        "        return answer\n"
        "writers.fcntl = Slow()\n"
        f"print(writers.has_writer(Path({str(path)!r})))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as probe:
        assert probe.stdin is not None
        assert probe.stdout is not None
        assert probe.stdout.readline() == "held\n"
        # This open breaks the lease. O_NONBLOCK makes it fail instead of waiting for the release.
        with pytest.raises(BlockingIOError):
            os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        assert probe.communicate("\n", timeout=10)[0] == "False\n"
        assert probe.returncode == 0


@pytest.mark.parametrize(("kind", "kept_out"), [("nfs4", None), ("cifs", None), ("ext4", False)])
def test_a_refused_lease_is_no_writer_where_a_server_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, kept_out: bool | None
) -> None:
    path = tmp_path / "a.mcap"
    path.touch()
    device = path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    place = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(
        f"22 1 0:99 / /x rw - tmpfs t rw\n23 1 {place} / / rw shared:1 - {kind} s rw\n"
    )
    monkeypatch.setattr(writers, "_MOUNTS", mounts)
    with path.open("ab"), path.open("rb") as reader:
        assert writers.keep_writers_out(reader.fileno()) is kept_out
