"""What the agent needs of this robot: its folders, disk, clock and history. Only looked at, never changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from agent import BUILD_DATE
from agent.adapters.config import Settings
from agent.adapters.device import known_device_id
from agent.adapters.history import TinyHistory
from agent.adapters.journal import RESERVE
from agent.adapters.status_file import StatusFile
from agent.discovery.walk import NameFilter, WalkResult, tops, walk
from agent.gate.gate import Closed, Delays, Gate
from agent.gate.upload_policy import UploadPolicy
from agent.model.errors import TABLE, AgentError, HistoryFullError
from agent.model.hours import Hours
from agent.model.ports import Clock
from agent.model.values import utc_seconds, utc_text
from agent.preconditions.table import Note, Precondition
from agent.preconditions.user import me, name_of

BUILT = utc_seconds(BUILD_DATE)
PAUSE = Path("markers", "pause")  # in the state folder
REMEDIES = {  # of what `status` sees, too
    "missing": "mount its disk, make it, or set watch.roots; it is waited for",
    "unreadable": "give the agent's user the right to read there",
    "watcher": "raise fs.inotify.max_user_watches and max_user_instances: sysctl -w, and a file in /etc/sysctl.d",
    "damage": "start the agent if it is stopped; look into *.damaged in the history's folder, then delete that",
}

_LEAST = 2 * RESERVE  # bytes: less is as good as a full disk
_GIB = 1024**3
_INOTIFY = Path("/proc/sys/fs/inotify")
_NAMED = 3


class Robot:
    """Looks at this robot as the user who runs it."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Nothing is looked at yet."""
        self._settings = settings
        self._state = settings.agent.state_dir
        self._clock = clock
        self._folders = 0  # below the roots that were looked at

    def preconditions(self) -> list[Precondition]:
        """The table, in order."""
        roots = self._settings.watch.roots
        return [
            Precondition("user", lambda: f"judged as {me()}"),
            Precondition("state folder", self._state_folder),
            Precondition(
                "device id", lambda: known_device_id(self._settings.agent.device_id, self._state)
            ),
            *(Precondition(f"root {root}", partial(self._root, root)) for root in roots),
            Precondition("disk", self._disk),
            Precondition("inotify", self._inotify),
            Precondition("clock", self._time),
            Precondition("history", self._history),
            Precondition("logs", self._logs),
            Precondition("agent", self._agent),
            Precondition("pause", self._pause),
            Precondition("hours", self._hours),
        ]

    def _state_folder(self) -> str:
        folder = self._state
        try:
            found = folder.stat()
        except FileNotFoundError:
            above = _nearest(folder)
            if not os.access(above, os.W_OK | os.X_OK):
                raise AgentError(
                    f"{folder} is not there, and {me()} can't make it in {above}",
                    hint=f"as root: install -d -o {me()} {folder}",
                ) from None
            return f"{folder}: not there yet, the agent makes it"
        if not stat.S_ISDIR(found.st_mode):
            raise AgentError(f"{folder} is no folder", hint="move it away, or set agent.state_dir")
        owner = name_of(found.st_uid)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise AgentError(
                f"{folder} belongs to {owner}, and {me()} can't write to it",
                hint=f"check as root or as {owner}; only if {me()} is to run the agent: chown -R {me()} {folder}",
            )
        if found.st_mode & stat.S_IWOTH:
            raise AgentError(f"everybody can write to {folder}", hint=f"chmod o-w {folder}")
        return f"{folder}: belongs to {owner}, writable"

    def _root(self, root: Path) -> str | Note:
        watch, retention = self._settings.watch, self._settings.retention
        rules = NameFilter(watch.include, watch.exclude, follow_symlinks=watch.follow_symlinks)
        survey, unreadable, files = WalkResult(), list[str](), 0
        for top in tops([str(root)], rules, survey):
            for folder, entries, _ in walk(top, rules, survey):
                files += len(entries)
                paths = (os.path.join(folder, entry.name) for entry in entries)  # noqa: PTH118 - plain text, as there
                unreadable += [path for path in paths if not os.access(path, os.R_OK)]
        self._folders += len(survey.listed)
        if survey.missing:
            raise AgentError("it is not there", hint=REMEDIES["missing"])
        if unreadable := [*survey.unreadable, *unreadable]:
            raise AgentError(f"{me()} can't read {_some(unreadable)}", hint=REMEDIES["unreadable"])
        told = f"readable, {files} files in {len(survey.listed)} folders"
        locked = sorted(
            folder for folder in survey.listed if not os.access(folder, os.W_OK | os.X_OK)
        )
        if not locked:
            return f"{told}, writable"
        if retention.delete_after_upload or retention.min_free_gib:
            raise AgentError(
                f"{me()} can't delete anything in {_some(locked)}, so retention has no effect there",
                hint="give the agent's user the right to write there, or set retention.*",
            )
        return Note(
            f"{told}, {len(locked)} of them not writable",
            "markers there are served once, but can't be removed",
        )

    def _disk(self) -> str:
        places = [
            _nearest(self._state),
            *(root for root in self._settings.watch.roots if root.exists()),
        ]
        told = []
        for place in {place.stat().st_dev: place for place in reversed(places)}.values():
            if full := full_disk(place):
                raise AgentError(full, hint=HistoryFullError.hint)
            free = os.statvfs(place)
            told.append(f"{free.f_bavail * free.f_frsize / _GIB:.1f} GiB free at {place}")
        return ", ".join(reversed(told))

    def _inotify(self) -> str:
        if self._settings.watch.polling == "always":
            return "not used: watch.polling is always"
        roots = len(self._settings.watch.roots)
        for name, needed in (("max_user_watches", self._folders), ("max_user_instances", roots)):
            try:
                most = int((_INOTIFY / name).read_text())
            except (OSError, ValueError):
                continue  # a kernel that does not tell
            if most < needed:
                raise AgentError(
                    f"fs.inotify.{name} is {most}; {needed} are needed, so only scans find recordings",
                    hint=REMEDIES["watcher"],
                )
        return f"{self._folders} folders can be watched"

    def _time(self) -> str:
        now = self._clock.now()
        if now < BUILT:
            raise AgentError(
                f"this robot's clock says {utc_text(now)}", hint=TABLE["RequestTimeTooSkewed"].hint
            )
        return utc_text(now)

    def _history(self) -> str:
        with closing(
            TinyHistory(self._state / "history", self._clock, read_only=True)
        ) as documents:
            count, damage = sum(documents.counts().values()), documents.damage()
        if damage:
            raise AgentError(
                f"{damage} damaged lines were set aside (*.damaged); the rest is sound",
                hint=REMEDIES["damage"],
            )
        return f"sound, {count} documents"

    def _logs(self) -> str:
        folder = self._settings.log.dir
        if folder is None:
            return "standard error alone"
        files = [folder / "agent.log", folder / "json" / "agent.jsonl"]
        folders = [_nearest(file.parent) for file in files]
        bad = [
            place
            for place in folders
            if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK))
        ]
        bad += [file for file in files if file.exists() and not os.access(file, os.W_OK)]
        if bad:
            raise AgentError(
                f"{me()} can't write to {bad[0]}, so the log goes to standard error alone",
                hint=f"as root: install -d -o {me()} {folder}; or set log.dir",
            )
        return f"{folder}: writable"

    def _agent(self) -> str:
        told = StatusFile(self._state).read()
        if told is None:
            return "not running"
        return f"running, process {told['pid']}" if "pid" in told else "running"

    def _pause(self) -> str:
        if (self._state / PAUSE).exists():
            raise AgentError(
                f"{self._state / PAUSE} is there: uploads pause",
                hint="delete it, and uploads go on",
            )
        return "no pause marker"

    def _hours(self) -> str | Note:
        closed = held(
            self._clock,
            lambda limits: limits.look_at_clock(),
            hours=Hours.parse(self._settings.upload.windows),
        )
        if closed is None:
            return "uploads may go now"
        if closed.next_probe is None:
            raise AgentError(closed.reason, hint=closed.hint)
        opens = utc_text(round(self._clock.now() + closed.next_probe - self._clock.monotonic()))
        return Note(f"{closed.reason}, until {opens}", closed.hint)


def full_disk(place: Path) -> str:
    """That the disk below ``place`` is as good as full; "" where it is not."""
    free = os.statvfs(_nearest(place))
    short = free.f_bavail * free.f_frsize < _LEAST
    if not short and (free.f_favail or not free.f_files):
        return ""
    return f"the disk of {place} has no room for more {'bytes' if short else 'files'}"


def held(
    clock: Clock, look: Callable[[UploadPolicy], None], *, hours: Hours, **link: Any
) -> Closed | None:
    """What the operator's limits say now, as the agent's gate would have it."""
    gate = Gate(clock, Delays(1, 1, 0))
    look(UploadPolicy(gate, clock, hours=hours, built=BUILT, **link))
    return gate.closed()


def _nearest(path: Path) -> Path:
    """``path``, or what is there of the way to it."""
    return next(place for place in (path, *path.parents) if place.exists())


def _some(paths: list[str]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(paths[:_NAMED]) + more
