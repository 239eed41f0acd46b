"""What the agent needs of this robot: its folders, disk, clock, history and log files.

These checks change nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from agent import BUILD_DATE
from agent.adapters.config import Settings
from agent.adapters.device import known_device_id
from agent.adapters.failure_file import FailureFile
from agent.adapters.history import TinyHistory
from agent.adapters.journal import RESERVE
from agent.adapters.status_file import StatusFile
from agent.discovery.name_rules import NameFilter
from agent.discovery.walk import WalkResult, tops, walk
from agent.gate.gate import Closed, Delays, Gate
from agent.gate.upload_policy import UploadPolicy
from agent.model.error_table import TABLE
from agent.model.errors import AgentError, HistoryFullError
from agent.model.hours import Hours
from agent.model.ports import Clock
from agent.model.printable import shell_word
from agent.model.values import utc_seconds, utc_text
from agent.preconditions.systemd_unit import UNIT, is_expected_to_run
from agent.preconditions.table import Note, Precondition
from agent.preconditions.user import current_user, user_name

# When this version was built, as a Unix time. No clock that is right shows less.
BUILD_SECONDS = utc_seconds(BUILD_DATE)

# What to do about faults that `status` shows, too.
REMEDIES = {
    "missing": (
        "mount its disk, create the folder, or correct watch.roots; "
        "the agent uses the folder as soon as it is there"
    ),
    "unreadable": "give the agent's user the right to read there",
    "watcher": (
        "raise fs.inotify.max_user_watches and max_user_instances: "
        "sysctl -w, and a file in /etc/sysctl.d"
    ),
    "damage": (
        "start the agent if it is stopped; "
        "look at the *.damaged file in the history's folder, then delete that file"
    ),
}

# Below the state folder.
_PAUSE_MARKER = Path("markers", "pause")

# A disk with less free space counts as full.
_MIN_FREE_BYTES = 2 * RESERVE

_BYTES_PER_GIB = 1024**3
_INOTIFY = Path("/proc/sys/fs/inotify")

# How many paths of a kind a finding names.
_MAX_NAMED = 3


class HostChecks:
    """The preconditions on this robot, checked with the rights of the user of this process.

    The checks run one after the other, each on a thread of its own.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Create the checks for these settings. Nothing is checked before a precondition is."""
        self._settings = settings
        self._state_dir = settings.agent.state_dir
        self._clock = clock
        # The number of folders below all watched folders, as far as they have been checked.
        self._folder_count = 0

    def preconditions(self) -> list[Precondition]:
        """Return the preconditions in the order in which they are checked."""
        roots = self._settings.watch.roots
        return [
            Precondition("user", lambda: f"the checks run as {current_user()}"),
            Precondition("state folder", self._check_state_folder),
            Precondition("device id", self._check_device_id),
            *(Precondition(f"root {root}", partial(self._check_root, root)) for root in roots),
            Precondition("disk", self._check_disk),
            Precondition("inotify", self._check_inotify),
            Precondition("clock", self._check_clock),
            Precondition("history", self._check_history),
            Precondition("logs", self._check_logs),
            Precondition("agent", self._check_agent),
            Precondition("pause", self._check_pause),
            Precondition("hours", self._check_hours),
        ]

    def _check_state_folder(self) -> str:
        folder = self._state_dir
        user = current_user()
        try:
            state = folder.stat()
        except FileNotFoundError:
            parent = _nearest_existing(folder)
            if not os.access(parent, os.W_OK | os.X_OK):
                raise AgentError(
                    f"{folder} is not there, and {user} can't make it in {parent}",
                    hint=f"as root: install -d -o {user} {shell_word(str(folder))}",
                ) from None
            return f"{folder}: not there yet, the agent makes it"
        if not stat.S_ISDIR(state.st_mode):
            raise AgentError(f"{folder} is no folder", hint="move it away, or set agent.state_dir")
        owner = user_name(state.st_uid)
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            raise AgentError(
                f"{folder} belongs to {owner}, and {user} can't write to it",
                hint=f"run the check as root or as {owner}; "
                f"only if {user} is to run the agent: chown -R {user} {shell_word(str(folder))}",
            )
        if state.st_mode & stat.S_IWOTH:
            raise AgentError(
                f"everybody can write to {folder}", hint=f"chmod o-w {shell_word(str(folder))}"
            )
        return f"{folder}: belongs to {owner}, writable"

    def _check_device_id(self) -> str:
        return known_device_id(self._settings.agent.device_id, self._state_dir)

    def _check_root(self, root: Path) -> str | Note:
        watch = self._settings.watch
        names = NameFilter(watch.include, watch.exclude, follow_symlinks=watch.follow_symlinks)
        walk_result = WalkResult()
        unreadable: list[str] = []
        file_count = 0
        for top in tops([str(root)], names, walk_result):
            for folder, entries, _ in walk(top, names, walk_result):
                file_count += len(entries)
                for entry in entries:
                    path = os.path.join(folder, entry.name)  # noqa: PTH118 - walk() has plain text
                    if not os.access(path, os.R_OK):
                        unreadable.append(path)
        folders = walk_result.listed
        self._folder_count += len(folders)
        if walk_result.missing:
            raise AgentError("it is not there", hint=REMEDIES["missing"])
        if unreadable := [*walk_result.unreadable, *unreadable]:
            raise AgentError(
                f"{current_user()} can't read {_some(unreadable)}", hint=REMEDIES["unreadable"]
            )
        says = f"readable, {file_count} files in {len(folders)} folders"
        locked = sorted(folder for folder in folders if not os.access(folder, os.W_OK | os.X_OK))
        if not locked:
            return f"{says}, writable"
        retention = self._settings.retention
        if retention.delete_after_upload or retention.min_free_gib:
            raise AgentError(
                f"{current_user()} can't delete anything in {_some(locked)}, "
                "so retention has no effect there",
                hint="give the agent's user the right to write there, or set retention.*",
            )
        return Note(
            f"{says}, {len(locked)} of them not writable",
            "touch files there take effect once, but can't be removed",
        )

    def _check_disk(self) -> str:
        roots = [root for root in self._settings.watch.roots if root.exists()]
        # One place for each disk, the first of those that lie on it.
        place_of_device: dict[int, Path] = {}
        for place in [_nearest_existing(self._state_dir), *roots]:
            place_of_device.setdefault(place.stat().st_dev, place)
        texts = []
        for place in place_of_device.values():
            if full := full_disk(place):
                raise AgentError(full.message, hint=HistoryFullError.hint)
            disk = os.statvfs(place)
            free_gib = disk.f_bavail * disk.f_frsize / _BYTES_PER_GIB
            texts.append(f"{free_gib:.1f} GiB free at {place}")
        return ", ".join(texts)

    def _check_inotify(self) -> str:
        if self._settings.watch.polling == "always":
            return "not used: watch.polling is always"
        root_count = len(self._settings.watch.roots)
        for name, needed in (
            ("max_user_watches", self._folder_count),
            ("max_user_instances", root_count),
        ):
            try:
                limit = int((_INOTIFY / name).read_text())
            except (OSError, ValueError):
                # Not every kernel tells this limit.
                continue
            if limit < needed:
                raise AgentError(
                    f"fs.inotify.{name} is {limit}; {needed} are needed, "
                    "so only scans find recordings",
                    hint=REMEDIES["watcher"],
                )
        return f"{self._folder_count} folders can be watched"

    def _check_clock(self) -> Note:
        now = self._clock.now()
        at = utc_text(now)
        if now < BUILD_SECONDS:
            hint = TABLE["RequestTimeTooSkewed"].hint
            return Note(f"this robot's clock says {at}", hint, at, ok=False)
        return Note(at, at=at)

    def _check_history(self) -> str:
        folder = self._state_dir / "history"
        with closing(TinyHistory(folder, self._clock, read_only=True)) as documents:
            count = sum(documents.counts().values())
            damaged_lines = documents.damage()
        if damaged_lines:
            raise AgentError(
                f"{damaged_lines} damaged lines were set aside (*.damaged); "
                "all other lines are intact",
                hint=REMEDIES["damage"],
            )
        return f"sound, {count} documents"

    def _check_logs(self) -> str:
        folder = self._settings.log.dir
        if folder is None:
            return "the log goes to standard error only"
        files = [folder / "agent.log", folder / "json" / "agent.jsonl"]
        folders = [_nearest_existing(file.parent) for file in files]
        unwritable = [
            place
            for place in folders
            if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK))
        ]
        unwritable += [file for file in files if file.exists() and not os.access(file, os.W_OK)]
        if unwritable:
            user = current_user()
            raise AgentError(
                f"{user} can't write to {unwritable[0]}, so the log goes to standard error only",
                hint=f"as root: install -d -o {user} {shell_word(str(folder))}; or set log.dir",
            )
        return f"{folder}: writable"

    def _check_agent(self) -> str | Note:
        status = StatusFile(self._state_dir).read()
        if status is not None:
            return f"running, process {status['pid']}" if "pid" in status else "running"
        at, says = "", "not running"
        if failure := FailureFile(self._state_dir).read():
            at = failure["at"]
            says = f"not running since {at}: {failure['message']}"
        if not is_expected_to_run(self._state_dir):
            return Note(says, at=at)
        advice = (
            f"systemctl status {UNIT} and keystone-agent logs say why; "
            f"systemctl start {UNIT} starts it"
        )
        return Note(says, advice, at, ok=False)

    def _check_pause(self) -> str:
        marker = self._state_dir / _PAUSE_MARKER
        if marker.exists():
            raise AgentError(
                f"{marker} is there: uploads pause", hint="delete it, and uploads go on"
            )
        return "no pause marker"

    def _check_hours(self) -> str | Note:
        closed = closed_by_policy(
            self._clock,
            lambda policy: policy.look_at_clock(),
            hours=Hours.parse(self._settings.upload.windows),
        )
        if closed is None:
            return "uploads are allowed now"
        if closed.next_probe is None:
            raise AgentError(closed.reason, hint=closed.hint)
        opens = utc_text(round(self._clock.now() + closed.next_probe - self._clock.monotonic()))
        return Note(f"{closed.reason}, until {opens}", closed.hint, opens)


@dataclass(frozen=True, slots=True)
class FullDisk:
    """A disk that is full: a path on it, and what it has no room for."""

    path: Path
    lacks: Literal["bytes", "files"]

    @property
    def message(self) -> str:
        """Return the same in words."""
        return f"the disk of {self.path} has no room for more {self.lacks}"


def full_disk(place: Path) -> FullDisk | None:
    """Return the disk below ``place`` if it is full, else None.

    A disk is full where there is almost no space, or where there can be no more files.
    """
    disk = os.statvfs(_nearest_existing(place))
    if disk.f_bavail * disk.f_frsize < _MIN_FREE_BYTES:
        return FullDisk(place, "bytes")
    # Some file systems have no limit for the number of files, and give 0 as the limit.
    if disk.f_files and not disk.f_favail:
        return FullDisk(place, "files")
    return None


def closed_by_policy(
    clock: Clock, update: Callable[[UploadPolicy], None], *, hours: Hours, **link: Any
) -> Closed | None:
    """Return why the operator's upload policy would close the agent's gate, None where it is open.

    ``update`` tells the policy what to decide on, the time or the link. ``hours`` and ``link`` are
    the policy's own arguments.
    """
    gate = Gate(clock, Delays(1, 1, 0))
    update(UploadPolicy(gate, clock, hours=hours, built=BUILD_SECONDS, **link))
    return gate.closed()


def _nearest_existing(path: Path) -> Path:
    """Return ``path``, or the nearest folder above that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _some(paths: list[str]) -> str:
    """Return the first paths as a text, with the number of the others."""
    more = f" and {len(paths) - _MAX_NAMED} more" if len(paths) > _MAX_NAMED else ""
    return ", ".join(paths[:_MAX_NAMED]) + more
