"""What the running agent does when its operator asks, by the socket."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from agent.flow.binding import Bindings
from agent.model.durable import put, sync_folder
from agent.model.nouns import Answer, Trigger

_PAUSE = "pause"


class Requests(Protocol):
    """How recordings are asked for; each answer is durable."""

    def resync(self, target: str, trigger: Trigger, reason: str) -> Sequence[Answer]:
        """Upload again: an absolute path of a file or folder, or an episode id."""
        ...

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Try again what failed, with this error code where it is not ""."""
        ...

    def first(self, target: str, trigger: Trigger) -> Sequence[Answer]:
        """Put it ahead of the queue."""
        ...


class Unserved:
    """Requests before anybody serves them."""

    def resync(self, target: str, trigger: Trigger, reason: str) -> Sequence[Answer]:
        """Refused."""
        del trigger, reason
        return [Answer(target, "rejected", "this agent does not serve requests")]

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Nothing."""
        del code, reason
        return []

    def first(self, target: str, trigger: Trigger) -> Sequence[Answer]:
        """Refused."""
        return self.resync(target, trigger, "")


class Desk:
    """Implements ``ports.Operator`` with the parts of this agent."""

    def __init__(
        self,
        *,
        snapshot: Callable[[], Mapping[str, Any]],
        requests: Requests,
        bindings: Bindings,
        markers: Path,
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
            tick: Starts what may start.
            rescan: Has everything looked at.
            look_at_causes: Lets go on what waited for what was just mended.
        """
        self._snapshot = snapshot
        self._requests = requests
        self._bindings = bindings
        self._markers = markers
        self._tick = tick
        self._rescan = rescan
        self._look_at_causes = look_at_causes

    def status(self) -> Mapping[str, Any]:
        """The agent as it stands."""
        return {"pid": os.getpid(), **self._snapshot()}

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        """Upload these again."""
        answers = [answer for target in targets for answer in self._requests.resync(target, "cli", reason)]
        self._tick()
        return answers

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Try again what failed."""
        answers = self._requests.resync_failed(code, reason)
        self._tick()
        return answers

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        """Put these ahead."""
        answers = [answer for target in targets for answer in self._requests.first(target, "cli")]
        self._tick()
        return answers

    def pause(self) -> None:
        """Leave the marker that a `touch` would leave, which is there for good."""
        pause(self._markers)
        self._tick()

    def resume(self) -> None:
        """Take it away."""
        resume(self._markers)
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
    if not (markers / _PAUSE).exists():
        put(markers / _PAUSE, b"", owner=markers)


def resume(markers: Path) -> None:
    """Remove the marker durably. Raises OSError."""
    (markers / _PAUSE).unlink(missing_ok=True)
    sync_folder(markers)
