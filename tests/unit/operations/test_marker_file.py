"""Tests of reading and answering one marker file."""

from __future__ import annotations

from pathlib import Path

from agent.operations.marker_file import leave_reason


def test_the_reason_of_a_rejection_has_no_character_that_acts_on_a_terminal(tmp_path: Path) -> None:
    leave_reason(tmp_path / "a.resync", "it names \x1b[2J\x9b\u202e\udcff\nand more")
    written = (tmp_path / "a.resync.rejected").read_text("utf-8")
    assert written == "it names \\x1b[2J\\x9b\\u202e\\udcff\nand more\n"
