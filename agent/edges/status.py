"""What a running agent tells other processes: one small file in the state folder, replaced atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_NAME = "status.json"


class StatusFile:
    """Written by the agent, read by its commands."""

    def __init__(self, state_dir: Path) -> None:
        """The file lies in ``state_dir``."""
        self._path = state_dir / _NAME
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
        """What the running agent wrote last; None when none runs."""
        try:
            told: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            os.kill(told["pid"], 0)
        except PermissionError:
            return told  # it runs as another user
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return told

    def remove(self) -> None:
        """The agent stops."""
        self._path.unlink(missing_ok=True)
