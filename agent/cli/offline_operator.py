"""Carries out operators' requests while no agent runs, or keeps them for the next start."""

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
from agent.model.sync_log import SyncLog
from agent.model.values import Answer, Ask
from agent.operations.asset_binding import Bindings
from agent.operations.pause_marker import pause, resume

_DONE_LATER = "no agent is running: the request is carried out when one starts"


@contextmanager
def operator(settings: Settings) -> Iterator[Operator]:
    """Yield a connection to the running agent, or an offline operator where no agent runs.

    Raises AgentError where this user may not talk to the running agent.
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
    """Implements ``ports.Operator`` on the state folder, without a running agent.

    An operator can thus use the same commands while the agent is stopped. What can't be done at
    once is left as a file in STATE_DIR/markers, which the agent reads when it starts. All files
    are given to the owner of STATE_DIR, as far as this user has the right to do that.

    Used by one command in one thread.
    """

    def __init__(self, settings: Settings, history: TinyHistory) -> None:
        """Create an operator that looks up episodes in ``history``."""
        self._state_dir = settings.agent.state_dir
        self._history = history
        platform = settings.cloud.mode == "platform"
        self._bindings = Bindings(
            AssetFile(self._state_dir, settings.assets.map),
            ProfileFile(profile_path(settings, os.environ)) if platform else None,
        )
        self._request_numbers = count()

    def status(self) -> NoReturn:
        """Raise NotRunningError, because only a running agent has a status."""
        raise NotRunningError(f"no agent runs in {self._state_dir}")

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        """Leave a request to upload again each target that exists."""
        return [self._leave_request("resync", target, reason) for target in targets]

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Leave a request to upload again each recording whose newest document has failed.

        With a ``code``, only recordings that failed with this error code are meant.
        """
        answers = []
        for log in self._history.newest_first("failed"):
            if self._is_newest(log) and log.has_error(code):
                target = log.path if os.path.lexists(log.path) else log.episode_id
                answers.append(self._leave_request("resync", target, reason))
        return answers

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        """Leave a request to put each target that exists ahead of the queue."""
        return [self._leave_request("first", target, "") for target in targets]

    def pause(self) -> None:
        """Write the marker file that makes an agent pause."""
        pause(self._markers_folder())

    def resume(self) -> None:
        """Delete the marker file that makes an agent pause."""
        resume(self._markers_folder())

    def rescan(self) -> None:
        """Do nothing, because an agent that starts scans all watched folders anyway."""

    def assets(self) -> Mapping[str, str]:
        """Return the asset id of each robot, as it will be in force when an agent starts."""
        return self._bindings.known()

    def set_asset(self, robot: str, asset: str) -> None:
        """Bind the robot at once.

        Where this user may not write the binding, or not read the profiles, the request is kept
        for the agent.
        """
        self._need_state_dir()
        try:
            self._bindings.bind(robot, asset)
        except (PermissionError, CloudError):
            self._write_request({"ask": "asset", "robot": robot, "asset": asset})
            click.echo(_DONE_LATER, err=True)

    def unset_asset(self, robot: str) -> None:
        """Unbind the robot at once. Where this user may not do that, the agent does so later."""
        self._need_state_dir()
        try:
            self._bindings.unbind(robot)
        except PermissionError:
            self._write_request({"ask": "asset", "robot": robot, "asset": None})
            click.echo(_DONE_LATER, err=True)

    def _is_newest(self, log: SyncLog) -> bool:
        newest = self._history.newest(log.fingerprint)
        return newest is not None and newest.id == log.id

    def _leave_request(self, ask: Ask, target: str, reason: str) -> Answer:
        """Leave a request for a path or an episode id, and return what to tell the operator."""
        is_path = target.startswith("/")
        documents = [] if is_path else self._history.of_episode(target)
        if not documents and not (is_path and os.path.lexists(target)):
            message = "no such file or folder" if is_path else "no such file, and no such episode"
            return Answer(target, "not_found", message)
        self._write_request({"ask": ask, "target": target, "reason": reason})
        episode_id = documents[0].episode_id if documents else ""
        return Answer(target, "accepted", _DONE_LATER, episode_id)

    def _write_request(self, request: Mapping[str, Any]) -> None:
        """Write a request file that survives a power cut. Names sort in the order of requests."""
        name = f"{time.time_ns():020}-{os.getpid()}-{next(self._request_numbers)}.request"
        # Targets are file names, which may not be UTF-8, so the JSON is plain ASCII with escapes.
        # The file holds no secret, and the agent must be able to read it.
        data = json.dumps(request).encode()
        put(self._markers_folder() / name, data, owner=self._state_dir, mode=0o644)

    def _markers_folder(self) -> Path:
        """Return the folder of marker files, which is made with the agent's rights if missing."""
        self._need_state_dir()
        folder = self._state_dir / "markers"
        if not folder.is_dir():
            folder.mkdir(mode=0o770, exist_ok=True)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(folder, flags)
            try:
                give(descriptor, self._state_dir)
                os.fchmod(descriptor, 0o2770)
            finally:
                os.close(descriptor)
        return folder

    def _need_state_dir(self) -> None:
        """Raise AgentError where there is no state folder.

        Only an agent that starts knows which user the folder has to belong to.
        """
        if not self._state_dir.exists():
            raise AgentError(
                f"{self._state_dir} is not there", code="no_state_dir", hint="start the agent once"
            )
