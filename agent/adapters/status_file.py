"""What a running agent tells other processes: one small file in the state folder, replaced atomically."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

_NAME = "status.json"
_LOCK = Path(
    "history", "lock"
)  # of the history's writer, as flock(2); the kernel lets go of it with the process


class StatusFile:
    """Written by the agent, read by its commands."""

    def __init__(self, state_dir: Path) -> None:
        """The file lies in ``state_dir``."""
        self._path = state_dir / _NAME
        self._lock = state_dir / _LOCK
        self._written = ""

    def write(self, snapshot: dict[str, Any]) -> None:
        """Replace the file if anything has changed. Raises OSError. Nothing depends on its surviving power loss."""
        text = json.dumps({"pid": os.getpid(), **snapshot}, ensure_ascii=False)
        if text == self._written:
            return
        aside = self._path.with_suffix(".tmp")
        aside.write_text(text, encoding="utf-8", errors="replace")
        aside.chmod(0o640)
        aside.replace(self._path)
        self._written = text

    def read(self) -> dict[str, Any] | None:
        """What the running agent wrote last, {} before it wrote anything; None when none runs."""
        if not self._held():
            return None
        try:
            told = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def remove(self) -> None:
        """The agent stops, or starts after one that was killed."""
        self._path.unlink(missing_ok=True)

    def _held(self) -> bool:
        """Whether a process holds the history's lock: a pid may long be another program's, or out of sight."""
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # the second from some network file systems
            return True
        else:
            return False
        finally:
            os.close(descriptor)
