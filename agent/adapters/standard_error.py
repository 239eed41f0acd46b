"""Gives lines on standard error their priority, where systemd's journal reads them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping

# The levels of logging, and their priorities in syslog(3), the most serious ones first.
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG_PRIORITY = 7


def is_journal(environ: Mapping[str, str]) -> bool:
    """Return whether standard error of this process goes to the journal itself.

    systemd names device and inode of the journal's socket in JOURNAL_STREAM. Child processes and
    shells inherit the variable, but may have another standard error.
    """
    try:
        state = os.fstat(sys.stderr.fileno())
    # Standard error may be closed, or be no file at all.
    except (OSError, ValueError, AttributeError):
        return False
    return environ.get("JOURNAL_STREAM") == f"{state.st_dev}:{state.st_ino}"


def with_priority(text: str, level: int) -> str:
    """Return ``text`` with the prefix that tells the journal the priority, on each line.

    Args:
        text: One line or more, without a line break at the end.
        level: A level of the module logging.
    """
    priority = next((number for least, number in _PRIORITIES if level >= least), _DEBUG_PRIORITY)
    return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))
