"""Runs the real command as a process against the embedded cloud, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from agent.adapters.clock import RealClock
from agent.adapters.history import TinyHistory
from agent.model.sync_log import SyncLog
from tests.harness.phase import phase_of

# How often a waiting test reads the history.
_POLL_SECONDS = 0.05


class Configured(Protocol):
    """Anything that has a configuration file for an agent."""

    @property
    def config_path(self) -> Path:
        """The configuration file."""
        ...


class Agent:
    """`keystone-agent run` with a configuration of its own below ``folder``."""

    def __init__(
        self, cloud: Configured, folder: Path, *, program: str = "agent", **settings: str
    ) -> None:
        """Prepare folders and settings; ``start`` starts the process.

        ``program`` is the module that runs the agent. ``settings`` are environment variables
        without their prefix, for example ``WATCH__SETTLE_SECONDS="0.2"``.
        """
        self.state = folder / "state"
        self.root = folder / "recordings"
        self.logs = folder / "logs"
        runtime = folder / "run"
        for made in (self.root, runtime):
            made.mkdir(parents=True, exist_ok=True)
        quick = {
            "AGENT__STATE_DIR": str(self.state),
            "WATCH__ROOTS": json.dumps([str(self.root)]),
            "LOG__DIR": str(self.logs),
            "WATCH__SETTLE_SECONDS": "0.2",
            "WATCH__SIDECAR_WAIT_SECONDS": "0.2",
            "WATCH__RESCAN_SECONDS": "2",
            "RETRY__BASE_SECONDS": "0.5",
            "RETRY__MAX_SECONDS": "1",
            "RETRY__JITTER_SECONDS": "0",
            **settings,
        }
        inherited = {
            name: text
            for name, text in os.environ.items()
            if not name.startswith("KEYSTONE_AGENT_")
        }
        self.environ = {
            **inherited,
            **{f"KEYSTONE_AGENT_{name}": text for name, text in quick.items()},
            # As systemd gives it to the service. Without it the status is written once a minute.
            "RUNTIME_DIRECTORY": str(runtime),
        }
        self.config = str(cloud.config_path)
        self._program = program
        # A test of an upgrade sets the folder of another version's package here.
        self.home: Path | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self._errors = folder / "stderr"

    def start(self) -> None:
        """Start the process."""
        command = [sys.executable, "-m", self._program, "run", "--config", self.config]
        with self._errors.open("ab") as errors:
            self.process = subprocess.Popen(
                command, env=self.environ, stderr=errors, stdout=errors, cwd=self.home
            )

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end of the process, and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process = None
        return code

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command with the same configuration and return its result."""
        return subprocess.run(
            [sys.executable, "-m", "agent", *arguments, "--config", self.config],
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=self.home,
        )

    def said(self) -> str:
        """Return all that the process printed."""
        return self._errors.read_text()

    def documents(self) -> list[SyncLog]:
        """Return the documents of the history, oldest first, as another process reads them."""
        history = TinyHistory(self.state / "history", RealClock(), read_only=True)
        try:
            return list(history.newest_first())[::-1]
        finally:
            history.close()

    def wait(
        self,
        until: Callable[[list[SyncLog]], Any],
        seconds: float = 60,
        every: float = _POLL_SECONDS,
    ) -> list[SyncLog]:
        """Read the history until ``until`` is true of its documents, and return these.

        Fails after ``seconds``, or as soon as the agent ends, and shows documents and output.
        """
        pause = threading.Event()
        for _ in range(int(seconds / every)):
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the agent ended: {self.said()}")
            documents = self.documents() if (self.state / "history").exists() else []
            if until(documents):
                return documents
            pause.wait(every)
        shown = "\n".join(
            f"{log.id} {log.status} {phase_of(log)} {log.path} {log.error}" for log in documents
        )
        raise AssertionError(f"not within {seconds} s:\n{shown}\n{self.said()[-4000:]}")

    def wait_completed(self, count: int, seconds: float = 60) -> list[SyncLog]:
        """Wait until ``count`` documents are completed, and return all documents."""
        return self.wait(
            lambda logs: sum(log.status == "completed" for log in logs) >= count, seconds
        )


@contextmanager
def running(
    cloud: Configured, folder: Path, *, program: str = "agent", **settings: str
) -> Iterator[Agent]:
    """Run an agent during the block. The arguments are those of :class:`Agent`."""
    agent = Agent(cloud, folder, program=program, **settings)
    agent.start()
    try:
        yield agent
    finally:
        if agent.process is not None:
            agent.stop()
