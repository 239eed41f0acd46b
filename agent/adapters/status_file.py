"""The status of the running agent, for other processes: one small file.

It changes every few seconds during an upload, which would wear out a robot's flash. So it lies in
the runtime directory that systemd gives to the service, which is in memory, and the state folder
has a link to it. Commands of any version read it by its name in the state folder. Without a runtime
directory the file itself lies in the state folder, and is written once a minute at most.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_NAME = "status.json"

# The name in the runtime directory. Another service that starts the agent hands down its own
# directory, in which it may have a file of the first name.
_RUNTIME_NAME = "keystone-agent-status.json"

# How often the file is written at most where it lies on a disk.
_DISK_INTERVAL_SECONDS = 60.0

# The lock that the running agent holds on its history, with flock(2). The kernel releases it when
# the process ends.
_LOCK = Path("history", "lock")


def runtime_directory(environ: Mapping[str, str]) -> Path | None:
    """Return the first runtime directory that systemd gave to this service, or None.

    None stands for a directory that this user can't write to, too: a process inherits the variable
    from its parent.
    """
    name = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if name.startswith("/") and os.access(name, os.W_OK | os.X_OK):
        return Path(name)
    return None


class StatusFile:
    """The file by which a running agent shows its status to the commands on the same robot.

    A command reads it without waking the agent up, and the agent pays only for a small file.

    The agent writes it from one thread. Any process may read it.
    """

    def __init__(
        self,
        state_dir: Path,
        runtime_dir: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Name the file by which commands find the status of the agent with ``state_dir``.

        Only the agent that writes needs the other arguments: the runtime directory of its service,
        and a function that returns the time in seconds.
        """
        self._path = state_dir / _NAME
        # The file itself. At its path in the state folder may be a link.
        self._target = runtime_dir / _RUNTIME_NAME if runtime_dir else self._path
        self._monotonic = monotonic
        self._next_write = float("-inf")
        self._lock = state_dir / _LOCK
        # The text that this process wrote last.
        self._written = ""

    def write(self, snapshot: dict[str, Any]) -> None:
        """Replace the file with ``snapshot``, if anything has changed.

        A change that comes too early for a file on a disk is written by a later call. The file is
        not synced to the disk: after a power cut the next agent writes a new one.

        Raises:
            OSError: The file can't be written.
        """
        text = json.dumps({"pid": os.getpid(), **snapshot}, ensure_ascii=False)
        if text == self._written or self._monotonic() < self._next_write:
            return
        aside = self._target.with_suffix(".tmp")
        # An agent that was killed may have left a link with this name.
        aside.unlink(missing_ok=True)
        aside.write_text(text, encoding="utf-8", errors="replace")
        aside.chmod(0o640)
        aside.replace(self._target)
        if self._target == self._path:
            self._next_write = self._monotonic() + _DISK_INTERVAL_SECONDS
        else:
            self._link()
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
        self._target.unlink(missing_ok=True)

    def _link(self) -> None:
        """Let the path in the state folder lead to the file, if it does not yet. Raises OSError."""
        if self._path.is_symlink() and self._path.readlink() == self._target:
            return
        aside = self._path.with_suffix(".tmp")
        aside.unlink(missing_ok=True)
        aside.symlink_to(self._target)
        aside.replace(self._path)

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
