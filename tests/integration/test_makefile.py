"""The Makefile on a machine whose Python is too old."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.harness.paths import REPOSITORY


def test_a_python_that_is_too_old_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    patched = "import sys; sys.version_info = (3, 9, 18); exec(sys.argv[1])"
    old.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{patched}' \"$2\"\n")
    old.chmod(0o755)
    venv = tmp_path / "venv"
    told = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-C",
            str(REPOSITORY),
            "demo",
            f"PYTHON={old}",
            f"VENV={venv}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert told.returncode == 2
    assert (
        f"Python 3.10 or newer is needed; {old} is 3.9. Name another one, as in: make demo"
        in told.stderr
    )
    assert not venv.exists()
