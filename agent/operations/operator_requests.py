"""What the running agent does when its operator asks, by the socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.model.atomic_file import put, sync_folder
from agent.model.touch_files import PAUSE
from agent.model.values import Answer, Ask
from agent.operations.asset_binding import Bindings
from agent.operations.requests import Requests


class OperatorRequests:
    """Implements ``ports.Operator`` with the parts of this agent."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Mapping[str, Any]],
        requests: Requests,
        bindings: Bindings,
        markers: Path,
        look_at_pause: Callable[[], None],
        tick: Callable[[], None],
        rescan: Callable[[], None],
        look_at_causes: Callable[[], None],
    ) -> None:
        """Joined by `app`.

        Args:
            snapshot: What only the running agent knows.
            requests: Who is asked for recordings.
            bindings: Which robot is which asset.
            markers: The folder of markers.
            look_at_pause: Heeds the marker of that name at once.
            tick: Starts what may start.
            rescan: Has everything looked at.
            look_at_causes: Lets go on what waited for what was just mended.
        """
        self._snapshot = snapshot
        self._requests = requests
        self._bindings = bindings
        self._markers = markers
        self._look_at_pause = look_at_pause
        self._tick = tick
        self._rescan = rescan
        self._look_at_causes = look_at_causes

    def status(self) -> Mapping[str, Any]:
        """The agent as it stands."""
        return {"pid": os.getpid(), **self._snapshot()}

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        """Upload these again."""
        return self._ask(targets, "resync", reason)

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Try again what failed."""
        answers = self._requests.failed(code, trigger="cli", reason=reason)
        self._tick()
        return answers

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        """Put these ahead."""
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
        """Leave the marker that a `touch` would leave, which is there for good."""
        pause(self._markers)
        self._look_at_pause()

    def resume(self) -> None:
        """Take it away."""
        resume(self._markers)
        self._look_at_pause()
        self._tick()

    def rescan(self) -> None:
        """Look at everything now."""
        self._rescan()

    def assets(self) -> Mapping[str, str]:
        """Robot id to asset id."""
        return self._bindings.known()

    def set_asset(self, robot: str, asset: str) -> None:
        """Bind a robot; what waits for that goes on at once."""
        self._bindings.bind(robot, asset)
        self._look_at_causes()

    def unset_asset(self, robot: str) -> None:
        """Unbind a robot."""
        self._bindings.unbind(robot)
        self._look_at_causes()


def pause(markers: Path) -> None:
    """Create the marker durably. Raises OSError."""
    if not (markers / PAUSE).exists():
        put(markers / PAUSE, b"", owner=markers)


def resume(markers: Path) -> None:
    """Remove the marker durably. Raises OSError."""
    (markers / PAUSE).unlink(missing_ok=True)
    sync_folder(markers)
