"""Carries out what commands ask of the running agent, by its socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.model.values import Answer, Ask
from agent.operations.asset_binding import Bindings
from agent.operations.pause_marker import pause, resume
from agent.operations.requests import Requests


class OperatorRequests:
    """Implements ``ports.Operator`` with the parts of this agent.

    The threads of the local socket call the methods, several at once.
    """

    def __init__(
        self,
        *,
        snapshot: Callable[[], Mapping[str, Any]],
        requests: Requests,
        bindings: Bindings,
        markers: Path,
        check_pause: Callable[[], None],
        tick: Callable[[], None],
        rescan: Callable[[], None],
        check_causes: Callable[[], None],
    ) -> None:
        """Join the parts.

        Args:
            snapshot: Returns what only the running agent knows.
            requests: Queues recordings.
            bindings: Says which robot is which asset.
            markers: The folder of markers.
            check_pause: Heeds the marker ``pause`` at once.
            tick: Starts the uploads that may start.
            rescan: Requests a full scan.
            check_causes: Retries what waits for a file that was just changed.
        """
        self._snapshot = snapshot
        self._requests = requests
        self._bindings = bindings
        self._markers = markers
        self._check_pause = check_pause
        self._tick = tick
        self._rescan = rescan
        self._check_causes = check_causes

    def status(self) -> Mapping[str, Any]:
        """Return the status of the agent; JSON."""
        return {"pid": os.getpid(), **self._snapshot()}

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        """Upload these recordings again: absolute paths of files or folders, or episode ids."""
        return self._ask(targets, "resync", reason)

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Try again all recordings that failed, with this error code where it is not ""."""
        answers = self._requests.failed(code, trigger="cli", reason=reason)
        self._tick()
        return answers

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        """Put these recordings ahead of the queue, the last named one last."""
        return self._ask(targets, "first", "")

    def _ask(self, targets: Sequence[str], ask: Ask, reason: str) -> Sequence[Answer]:
        answers = [
            answer
            for target in targets
            for answer in self._requests.ask(target, ask=ask, trigger="cli", reason=reason)
        ]
        self._tick()
        return answers

    def pause(self) -> None:
        """Create the marker ``pause``, which also holds after a restart. Raises OSError."""
        pause(self._markers)
        self._check_pause()

    def resume(self) -> None:
        """Remove the marker ``pause``, and start what may start. Raises OSError."""
        resume(self._markers)
        self._check_pause()
        self._tick()

    def rescan(self) -> None:
        """Search all watched folders now."""
        self._rescan()

    def assets(self) -> Mapping[str, str]:
        """Return robot id to asset id as it is in force; "" is a robot unbound."""
        return self._bindings.known()

    def set_asset(self, robot: str, asset: str) -> None:
        """Bind a robot to an asset, and retry at once what waited for that.

        Raises what :meth:`Bindings.bind` raises.
        """
        self._bindings.bind(robot, asset)
        self._check_causes()

    def unset_asset(self, robot: str) -> None:
        """Leave the robot known but unbound. Raises what :meth:`Bindings.unbind` raises."""
        self._bindings.unbind(robot)
        self._check_causes()
