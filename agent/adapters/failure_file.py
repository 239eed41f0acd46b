"""The file STATE_DIR/failure.json: the error with which the agent ended last.

The log alone can't tell it: where ``log.level`` is ERROR, a start that succeeds writes nothing.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from agent.model.atomic_file import put

_NAME = "failure.json"


class FailureFile:
    """Keeps why the agent ended by an error, until it starts again.

    The agent writes the file and removes it. Any command may read it.
    """

    def __init__(self, state_dir: Path) -> None:
        """Name the file of the agent with this state folder."""
        self._path = state_dir / _NAME

    def note(self, at: str, message: str) -> None:
        """Keep the UTC time ``at`` and the text of the error. Raises OSError."""
        content = json.dumps({"at": at, "message": message})
        put(self._path, content.encode(), owner=self._path.parent)

    def remove(self) -> None:
        """Remove the file, if there is one. Raises OSError."""
        self._path.unlink(missing_ok=True)

    def read(self) -> dict[str, str] | None:
        """Return ``at`` and ``message``; None where there is no failure that can be read."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(self._path.read_bytes())
            return {"at": str(content["at"]), "message": str(content["message"])}
        return None
