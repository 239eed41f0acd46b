"""The status of the running agent, for other processes: one small file in the state folder."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

_NAME = "status.json"

# The lock that the running agent holds on its history, with flock(2). The kernel releases it when
# the process ends.
_LOCK = Path("history", "lock")


class StatusFile:
    """The file by which a running agent shows its status to the commands on the same robot.

    A command reads it without waking the agent up, and the agent pays only for a small file.

    The agent writes it from one thread. Any process may read it.
    """

    def __init__(self, state_dir: Path) -> None:
        """Name the file in ``state_dir``."""
        self._path = state_dir / _NAME
        self._lock = state_dir / _LOCK
        # The text that this process wrote last.
        self._written = ""

    def write(self, snapshot: dict[str, Any]) -> None:
        """Replace the file with ``snapshot``, if anything has changed.

        The file is not synced to the disk: after a power cut the next agent writes a new one.

        Raises:
            OSError: The file can't be written.
        """
        text = json.dumps({"pid": os.getpid(), **snapshot}, ensure_ascii=False)
        if text == self._written:
            return
        aside = self._path.with_suffix(".tmp")
        aside.write_text(text, encoding="utf-8", errors="replace")
        aside.chmod(0o640)
        aside.replace(self._path)
        self._written = text

    def read(self) -> dict[str, Any] | None:
        """Return what the running agent wrote last, or None when no agent runs.

        The result is {} when the agent has written nothing yet, and when the file can't be used.
        """
        if not self._agent_runs():
            return None
        try:
            status = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return status if isinstance(status, dict) else {}

    def remove(self) -> None:
        """Delete the file. The agent does this when it stops, and when it starts.

        An agent that was killed has left its file. Raises OSError.
        """
        self._path.unlink(missing_ok=True)

    def _agent_runs(self) -> bool:
        """Return whether a process holds the lock of the history.

        The pid in the file does not tell this. It may belong to another program by now, or to a
        process in a container that can't be seen from here.
        """
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Some network file systems raise PermissionError when the lock is held.
        except (BlockingIOError, PermissionError):
            return True
        else:
            return False
        finally:
            os.close(descriptor)
