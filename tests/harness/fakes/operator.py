"""An agent in memory that records the requests of operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.model.errors import RefusedError
from agent.model.values import Answer


class FakeOperator:
    """Implements ``ports.Operator``. It knows one recording, by its path and its episode id."""

    PATH = "/recordings/a.mcap"
    EPISODE = "episode-1"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.bound: dict[str, str] = {}
        self.paused = False
        self.asked_for: list[str] = []

    def status(self) -> Mapping[str, Any]:
        return {"version": "0", "gate": None, "uploads": [], "paused": self.paused}

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        return [self._answer(target, reason) for target in targets]

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        return [self._answer(self.PATH, reason)] if code in ("", "checksum") else []

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        return [self._answer(target, "") for target in targets]

    def pause(self) -> None:
        self.paused = True
        self.asked_for.append("pause")

    def resume(self) -> None:
        self.paused = False
        self.asked_for.append("resume")

    def rescan(self) -> None:
        self.asked_for.append("rescan")

    def assets(self) -> Mapping[str, str]:
        return dict(self.bound)

    def set_asset(self, robot: str, asset: str) -> None:
        if not asset:
            raise RefusedError("an asset id can't be empty", hint="name one")
        self.bound[robot] = asset

    def unset_asset(self, robot: str) -> None:
        self.bound[robot] = ""

    def _answer(self, target: str, reason: str) -> Answer:
        if target not in (self.PATH, self.EPISODE):
            return Answer(target, "not_found", f"nothing is known of {target}")
        again = any(asked == target for asked, _ in self.asked)
        self.asked.append((target, reason))
        return Answer(target, "already_queued" if again else "accepted", episode_id=self.EPISODE)
