"""An operator to ask while no agent runs: what is asked for is left on disk, and done when one starts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import click

from agent.adapters.assets import AssetFile
from agent.adapters.config import Settings, profile_path
from agent.adapters.control import Control
from agent.adapters.history import TinyHistory
from agent.adapters.profiles import ProfileFile
from agent.cli.options import opened_history
from agent.model.atomic_file import give, put
from agent.model.errors import AgentError, CloudError, NotRunningError
from agent.model.ports import Operator
from agent.model.values import Answer, Ask, SyncLog
from agent.operations.asset_binding import Bindings
from agent.operations.operator_requests import pause, resume

_LATER = "no agent runs here: it is done when one starts"


@contextmanager
def operator(settings: Settings) -> Iterator[Operator]:
    """The running agent, else who keeps for it what is asked.

    Raises AgentError when this user may not ask the one that runs.
    """
    try:
        control = Control(settings.agent.state_dir)
    except NotRunningError:
        with opened_history(settings) as documents:
            yield OfflineOperator(settings, documents)
        return
    with closing(control):
        yield control


class OfflineOperator:
    """Implements ``ports.Operator``. What it leaves belongs to STATE_DIR's owner, as far as this user may say so."""

    def __init__(self, settings: Settings, history: TinyHistory) -> None:
        """``history`` tells which episodes there are."""
        self._state_dir = settings.agent.state_dir
        self._history = history
        platform = settings.cloud.mode == "platform"
        self._bindings = Bindings(
            AssetFile(self._state_dir, settings.assets.map),
            ProfileFile(profile_path(settings, os.environ)) if platform else None,
        )
        self._numbers = count()

    def status(self) -> NoReturn:
        """Nobody knows."""
        raise NotRunningError(f"no agent runs in {self._state_dir}")

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        """A request for each target that there is."""
        return [self._leave("resync", target, reason) for target in targets]

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """A request for each recording whose newest document failed."""
        return [
            self._leave("resync", log.path if os.path.lexists(log.path) else log.episode_id, reason)
            for log in self._history.newest_first("failed")
            if self._is_newest(log) and log.error is not None and code in ("", log.error.code)
        ]

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        """A request for each target that there is."""
        return [self._leave("first", target, "") for target in targets]

    def pause(self) -> None:
        """The marker that the agent looks for."""
        pause(self._markers())

    def resume(self) -> None:
        """Take that marker away."""
        resume(self._markers())

    def rescan(self) -> None:
        """The first thing that an agent does by itself."""

    def assets(self) -> Mapping[str, str]:
        """What is in force when an agent starts."""
        return self._bindings.known()

    def set_asset(self, robot: str, asset: str) -> None:
        """Bind it here and now; where this user can't, or can't see the profiles, the agent does."""
        self._need_state_dir()
        try:
            self._bindings.bind(robot, asset)
        except (PermissionError, CloudError):
            self._request({"ask": "asset", "robot": robot, "asset": asset})
            click.echo(_LATER, err=True)

    def unset_asset(self, robot: str) -> None:
        """Unbind it here and now; where this user can't, the agent does."""
        self._need_state_dir()
        try:
            self._bindings.unbind(robot)
        except PermissionError:
            self._request({"ask": "asset", "robot": robot, "asset": None})
            click.echo(_LATER, err=True)

    def _is_newest(self, log: SyncLog) -> bool:
        newest = self._history.newest(log.fingerprint)
        return newest is not None and newest.id == log.id

    def _leave(self, ask: Ask, target: str, reason: str) -> Answer:
        documents = [] if target.startswith("/") else self._history.of_episode(target)
        if not documents and not (target.startswith("/") and os.path.lexists(target)):
            what = (
                "nothing lies there"
                if target.startswith("/")
                else "no such file, and no such episode"
            )
            return Answer(target, "not_found", what)
        self._request({"ask": ask, "target": target, "reason": reason})
        return Answer(target, "accepted", _LATER, documents[0].episode_id if documents else "")

    def _request(self, asked: Mapping[str, Any]) -> None:
        """Durable, in the order of asking."""
        name = f"{time.time_ns():020}-{os.getpid()}-{next(self._numbers)}.request"
        # Escaped: targets are file names, which may be no UTF-8. Nothing in it is secret: the agent must read it.
        put(self._markers() / name, json.dumps(asked).encode(), owner=self._state_dir, mode=0o644)

    def _markers(self) -> Path:
        self._need_state_dir()
        folder = self._state_dir / "markers"
        if not folder.is_dir():
            folder.mkdir(mode=0o770, exist_ok=True)
            descriptor = os.open(
                folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            )
            try:
                give(descriptor, self._state_dir)
                os.fchmod(descriptor, 0o2770)
            finally:
                os.close(descriptor)
        return folder

    def _need_state_dir(self) -> None:
        """Only an agent knows whose it has to be."""
        if not self._state_dir.exists():
            raise AgentError(
                f"{self._state_dir} is not there", code="no_state_dir", hint="start the agent once"
            )
