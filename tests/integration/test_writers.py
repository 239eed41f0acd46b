"""A program that opens a file while the agent probes it for writers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import recorders


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
