"""Lists the files below watched folders with the state of each one, for `ls` and `scan`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.adapters.clock import RealClock
from agent.adapters.config import Settings
from agent.cli.file_rules import HISTORY_EXPIRED, FileRules
from agent.cli.opening import Opener
from agent.cli.options import (
    absolute,
    agent_status,
    fingerprint_at,
    local_time,
    opened_history,
    print_json,
    print_line,
)
from agent.cli.units import size_text
from agent.discovery.name_rules import foreign
from agent.discovery.walk import WalkResult, first_visit, tops
from agent.model.ports import History
from agent.model.printable import shell_word
from agent.model.sync_log import SyncLog
from agent.model.values import utc_text

# States of files that will be uploaded without any help.
_ON_THE_WAY = ("new", "settling", "waiting", "queued", "uploading")


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file or folder and its state. Times are UTC text, and the size is in bytes.

    ``at`` is the time at which the file got into this state or, in the state "failed", the time of
    the next try. ``why`` says in words why the file is not uploaded.
    """

    path: str
    state: str
    size: int = 0
    mtime: str = ""
    at: str = ""
    why: str = ""
    synced_at: str = ""
    episode_id: str = ""

    @property
    def on_the_way(self) -> bool:
        """Return whether the file will be uploaded without any help."""
        return self.state in _ON_THE_WAY or (self.state == "failed" and self.at != "")


def list_files(settings: Settings, folder: Path | None) -> Iterator[ListedFile]:
    """Yield a row for each file below ``folder``, or below all watched folders where it is None."""
    with opened_history(settings) as documents:
        files = _FileList(settings, documents, agent_status(settings))
        yield from files.below(absolute(folder)) if folder else files.everything()


def print_row(row: ListedFile, *, as_json: bool) -> None:
    """Print a row as one line of text, or as one line of JSON."""
    if as_json:
        print_json(asdict(row), indent=None)
        return
    notes = [row.why] if row.why else []
    if row.state == "synced":
        notes.append(local_time(row.at))
    elif row.at:
        notes.append(f"next try {local_time(row.at)}")
    if row.synced_at and row.state != "synced":
        notes.append(f"synced {local_time(row.synced_at)}")
    # Without a time nothing is known of the file, and the columns of size and time stay empty.
    size_and_time = " " * 30
    if row.mtime:
        size_and_time = f"{size_text(row.size):>9}  {local_time(row.mtime)}"
    line = f"{row.state:<10} {size_and_time}  {shell_word(row.path)}"
    if notes:
        line += f"  ({'; '.join(notes)})"
    print_line(line)


class _FileList:
    """Walks through folders and finds the state of each file, from the disk and the history.

    Used by one command in one thread.
    """

    def __init__(
        self, settings: Settings, history: History, agent: Mapping[str, Any] | None
    ) -> None:
        """Create a list for these settings. ``agent`` is as for ``FileRules``."""
        watch = settings.watch
        self._roots = [str(root) for root in watch.roots]
        self._rules = FileRules(settings, history, RealClock(), agent)
        self._names = self._rules.names
        self._history = history
        self._opener = Opener(watch)
        # Device and inode of each folder that was listed. They detect loops of links.
        self._visited: set[tuple[int, int]] = set()
        self._uploading_ids = {upload["id"] for upload in (agent or {}).get("uploads", ())}

    def everything(self) -> Iterator[ListedFile]:
        """Yield the rows of all watched folders, those that are missing last."""
        walk_result = WalkResult()
        for top in tops(self._roots, self._names, walk_result):
            yield from self.below(Path(top))
        for root in walk_result.missing:
            yield ListedFile(root, "missing", why="the watched folder is not there")

    def below(self, top: Path) -> Iterator[ListedFile]:
        """Yield the rows of a folder's files, and then those of its folders, sorted by name.

        The names of only one folder are in memory at a time. A ``top`` that is a file has one row.
        """
        if not top.is_dir():
            yield self._row(str(top), top.stat(follow_symlinks=self._names.follow))
            return
        folders = [str(top)]
        while folders:
            folder = folders.pop()
            # The entries ask the open folder for their state, so it stays open while they are used.
            with ExitStack() as stack:
                try:
                    descriptor = stack.enter_context(self._opener.folder(Path(folder)))
                    if self._names.follow and not first_visit(os.fstat(descriptor), self._visited):
                        continue
                    with os.scandir(descriptor) as listing:
                        entries = sorted(listing, key=lambda entry: entry.name)
                except OSError as error:
                    yield self._unopened_folder(folder, error)
                    continue
                inner_folders = []
                for entry in entries:
                    path = str(Path(folder, entry.name))
                    if not entry.is_dir(follow_symlinks=self._names.follow):
                        yield from self._file(path, entry)
                    elif self._names.excluded(entry.name):
                        yield ListedFile(
                            path, "excluded", why="a folder that is not searched; watch.exclude"
                        )
                    else:
                        inner_folders.append(path)
                folders += reversed(inner_folders)

    def _unopened_folder(self, folder: str, error: OSError) -> ListedFile:
        """Return the row of a folder that could not be opened."""
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and not self._names.follow:
            text = "a symbolic link leads there; see watch.follow_symlinks"
            return ListedFile(folder, "ignored", why=text)
        return ListedFile(folder, "unreadable", why=error.strerror or str(error))

    def _file(self, path: str, entry: os.DirEntry[str]) -> Iterator[ListedFile]:
        """Yield the row of a file, and none for a file that is no recording of any kind."""
        try:
            kind = self._names.kind(entry.name)
            if kind in ("recording", "excluded"):
                yield self._row(path, entry.stat(follow_symlinks=self._names.follow))
            elif kind == "other" and foreign(entry.name):
                state = entry.stat(follow_symlinks=False)
                mtime = utc_text(state.st_mtime_ns / 1e9)
                text = "watch.include does not name it"
                yield ListedFile(path, "ignored", state.st_size, mtime, why=text)
        except FileNotFoundError:
            # The file has been deleted, or it is a link that leads nowhere.
            return

    def _row(self, path: str, state: os.stat_result) -> ListedFile:
        size, mtime = state.st_size, utc_text(state.st_mtime_ns / 1e9)
        fingerprint = self._fingerprint(path, size, mtime)
        log = self._history.newest(fingerprint) if fingerprint else None
        if log is not None:
            return self._known_row(path, size, mtime, log)
        if fingerprint and self._history.synced(fingerprint):
            return ListedFile(path, "synced", size, mtime, why=HISTORY_EXPIRED)
        failed = next(
            result for result in self._rules.discovery_results(Path(path)) if not result.ok
        )
        return ListedFile(path, failed.state or failed.rule, size, mtime, why=failed.says)

    def _fingerprint(self, path: str, size: int, mtime: str) -> str:
        """Return the fingerprint of a file, "" where it can't be read.

        The bytes are read only where the history has no document of this path, size and time.
        """
        for log in self._history.at_path(Path(path)):
            if (log.file_size, log.mtime) == (size, mtime):
                return log.fingerprint
        return fingerprint_at(Path(path), self._opener)

    def _known_row(self, path: str, size: int, mtime: str, log: SyncLog) -> ListedFile:
        """Return the row of a file whose newest document is ``log``."""
        error = log.error
        at = ""
        why = error.message if error else ""
        if log.status == "completed":
            state, at, why = "synced", log.completed_at or "", ""
        elif log.status == "failed":
            state = "damaged" if error and error.means("damaged_file") else "failed"
            at = log.next_retry_at or ""
        else:
            state = "uploading" if log.id in self._uploading_ids else "queued"
        synced_at = at if log.synced else self._synced_before(log)
        return ListedFile(path, state, size, mtime, at, why, synced_at, log.episode_id)

    def _synced_before(self, log: SyncLog) -> str:
        """Return when the recording of an unfinished resync was uploaded before, "" if never.

        A recording stays uploaded while a resync runs, and when a resync fails.
        """
        if not log.resync:
            return ""
        for earlier in self._history.of_episode(log.episode_id):
            if earlier.fingerprint == log.fingerprint and earlier.synced:
                return earlier.completed_at or ""
        return ""
