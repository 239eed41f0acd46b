"""A robot that consists of files, and commands that run on it.

No agent runs. A test can pretend that one does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from agent.adapters.config import WatchSettings
from agent.adapters.history import TinyHistory
from agent.adapters.status_file import StatusFile
from agent.cli import cli
from agent.cli.opening import Opener
from agent.cli.options import fingerprint_at
from agent.model.sync_log import SyncLog
from tests.harness.fakes.clock import FakeClock

QUEUED = "2026-05-01T10:00:00.000Z"


class Console:
    """A robot with folders and a configuration below ``folder``."""

    def __init__(self, folder: Path, *lines: str) -> None:
        """Write a configuration with ``lines`` in its section [watch]."""
        self.root = folder / "recordings"
        self.state = folder / "state"
        self.config = folder / "agent.toml"
        self.clock = FakeClock()
        self.root.mkdir()
        self.state.mkdir()
        self.configure(*lines)

    def configure(self, *lines: str) -> None:
        """Write the configuration again, with ``lines`` in its section [watch]."""
        text = [
            "[agent]",
            f"state_dir = {json.dumps(str(self.state))}",
            "[watch]",
            f"roots = [{json.dumps(str(self.root))}]",
            *lines,
        ]
        self.config.write_text("\n".join(text) + "\n")

    def run(self, *arguments: str | Path) -> Result:
        """Run a command. Unexpected exceptions are raised here."""
        given = [str(argument) for argument in arguments]
        return CliRunner().invoke(
            cli, [*given, "--config", str(self.config)], catch_exceptions=False
        )

    def json(self, *arguments: str | Path) -> Any:
        """Return what a command prints as JSON."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def why(self, path: str | Path) -> list[dict[str, Any]]:
        """Return the rules that `why` reports for one path."""
        (report,) = self.json("why", path)
        rules: list[dict[str, Any]] = report["rules"]
        return rules

    def remember(self, path: Path | str, *, episode: str = "", **fields: Any) -> SyncLog:
        """Add a document for ``path`` with these fields to the history, and return it."""
        mark = (
            fields.pop("fingerprint", "")
            or fingerprint_at(Path(path), Opener(WatchSettings(roots=(self.root,))))
            or f"5-{path}"
        )
        given = {
            "episode_id": episode or Path(path).stem,
            "mtime": QUEUED,
            "queued_at": QUEUED,
            **fields,
        }
        with self._writer() as history:
            return history.add(
                SyncLog(id=0, path=str(path), file_size=5, fingerprint=mark, **given)
            )

    @contextmanager
    def running(self, **snapshot: Any) -> Iterator[None]:
        """Pretend during the block that an agent runs that has published ``snapshot``."""
        with self._writer():
            StatusFile(self.state).write({"gate": None, "uploads": [], "files": {}, **snapshot})
            yield

    @contextmanager
    def _writer(self) -> Iterator[TinyHistory]:
        history = TinyHistory(self.state / "history", self.clock)
        try:
            yield history
        finally:
            history.close()
