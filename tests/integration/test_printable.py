"""Tests that names which are shown as shell words mean the same to a real shell."""

from __future__ import annotations

import os
import subprocess

import pytest

from agent.model.printable import shell_word


@pytest.mark.parametrize(
    "name",
    [
        *("plain.mcap", "a b", "$(id)", "`id`", "it's", "~", "", "a\nb\\", "'\x1b[2J'", "\x9b1"),
        os.fsdecode(b"\xff1.mcap"),
        "\u202e録音'",
    ],
)
def test_a_path_that_is_pasted_into_a_shell_is_that_path(name: str) -> None:
    script = f"printf %s {shell_word(name)}"
    shell = subprocess.run(["bash", "-c", script], capture_output=True, check=True, timeout=30)
    assert shell.stdout == os.fsencode(name)
