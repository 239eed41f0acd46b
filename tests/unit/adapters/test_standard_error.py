"""Tests of the priorities that lines have in the journal."""

from __future__ import annotations

import logging
import os
import sys
import tempfile

import pytest

from agent.adapters.standard_error import is_journal, with_priority


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, 7),
        (logging.INFO, 6),
        (logging.WARNING, 4),
        (logging.ERROR, 3),
        (logging.CRITICAL, 2),
    ],
)
def test_each_line_has_the_priority_of_its_level(level: int, priority: int) -> None:
    assert with_priority("one\ntwo", level) == f"<{priority}>one\n<{priority}>two"


def test_only_the_journals_own_socket_counts_as_the_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tempfile.TemporaryFile("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        state = os.fstat(file.fileno())
        assert is_journal({"JOURNAL_STREAM": f"{state.st_dev}:{state.st_ino}"})
        assert not is_journal({"JOURNAL_STREAM": f"{state.st_dev}:{state.st_ino + 1}"})
        assert not is_journal({})
    assert not is_journal({"JOURNAL_STREAM": "1:2"})
    monkeypatch.setattr(sys, "stderr", None)
    assert not is_journal({"JOURNAL_STREAM": "1:2"})
