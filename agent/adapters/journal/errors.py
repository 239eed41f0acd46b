"""Translates errors of the operating system over the journal's files into the agent's errors."""

from __future__ import annotations

import errno
from pathlib import Path

from agent.model.errors import AgentError, HistoryFullError

# A full disk, a spent quota, and a file that may not become larger.
NO_SPACE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def not_writable(path: Path, error: OSError) -> HistoryFullError:
    """Return the error of a journal at ``path`` that could not be written."""
    message = f"{path} can't be written: {error.strerror}"
    if error.errno in NO_SPACE_ERRNOS:
        return HistoryFullError(message)
    return HistoryFullError(message, code="disk_error", hint="check the disk and its file system")


def not_usable(path: Path, error: OSError) -> AgentError:
    """Return the error of a journal at ``path`` that could not be opened."""
    if error.errno in NO_SPACE_ERRNOS:
        return not_writable(path, error)
    return AgentError(
        f"the history {path} can't be opened: {error.strerror}",
        code="history_unusable",
        hint="its folder must belong to the user who runs the agent",
    )


def read_only(path: Path) -> AgentError:
    """Return the error of a write to the journal at ``path``, which was opened for reading."""
    return AgentError(f"{path} was opened for reading only", code="read_only")
