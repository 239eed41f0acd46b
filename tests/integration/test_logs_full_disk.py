"""The log of a process whose disk is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL_DISK = """
import logging, sys
from pathlib import Path
from agent.adapters import logs
redactor = logs.start("INFO", Path(sys.argv[1]), 1, 3)
redactor.hide("very-secret-value")
for number in range(50):
    logging.getLogger("agent").info(
        "message %d very-secret-value", number, extra={"token": "t0ken"}
    )
logging.getLogger("agent").info("%d is no number", "this")
logs.stop()
print("went on")
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this kernel has no /dev/full")
def test_a_full_disk_stops_nothing_and_is_said_once(tmp_path: Path) -> None:
    mode = Path("/dev/full").stat().st_mode
    (tmp_path / "agent.log").symlink_to("/dev/full")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert Path("/dev/full").stat().st_mode == mode
    assert done.stderr.count("log files can't be written: OSError") == 1
    assert done.stderr.count("INFO    message") == 50
    assert "very-secret-value" not in done.stderr
    assert "t0ken" not in done.stderr
