"""`ls` and `scan`: every file below a folder and how it stands, from the disk and the history."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from agent.adapters.clock import RealClock
from agent.adapters.config import Settings
from agent.adapters.control import Control
from agent.cli.file_rules import LONG_AGO, FileRules
from agent.cli.opening import Opener
from agent.cli.options import (
    Moment,
    absolute,
    local,
    mark_of,
    opened_history,
    print_json,
    say,
    settings_of,
    with_config,
    with_json,
    word_of_agent,
)
from agent.cli.units import size_text
from agent.discovery.walk import NameFilter, WalkResult, foreign, tops
from agent.model.errors import NotRunningError
from agent.model.ports import History
from agent.model.values import SyncLog, utc_text

_GOES = ("new", "settling", "waiting", "queued", "uploading")


@dataclass(frozen=True, slots=True)
class Row:
    """One file or folder. Times are UTC, sizes bytes; ``at`` is when it came so far, or will be tried again."""

    path: str
    state: str
    size: int = 0
    mtime: str = ""
    at: str = ""
    why: str = ""
    synced_at: str = ""
    episode_id: str = ""

    @property
    def goes(self) -> bool:
        """Whether it is on its way into the bucket."""
        return self.state in _GOES or (self.state == "failed" and self.at != "")


@click.command("ls")
@with_config
@with_json
@click.argument(
    "folder", required=False, type=click.Path(path_type=Path, exists=True), metavar="[DIR]"
)
@click.option(
    "--since",
    type=Moment(),
    help="Only what was changed since: ISO 8601, an age such as 12h, or yesterday.",
)
def list_(config_path: Path | None, as_json: bool, folder: Path | None, since: str | None) -> None:
    """List every recording below DIR, or below all watched folders, and how it stands."""
    for row in _rows(settings_of(config_path), folder):
        if since is None or row.mtime >= since:
            _show(row, as_json=as_json)


@click.command()
@with_config
@with_json
@click.option("--dry-run", is_flag=True, help="Only list; ask the agent for nothing.")
def scan(config_path: Path | None, as_json: bool, dry_run: bool) -> None:
    """List what would go, with its bytes, and have the running agent look at everything now."""
    settings = settings_of(config_path)
    told = "" if dry_run else _ask(settings.agent.state_dir)
    count = total = 0
    for row in _rows(settings, None):
        if row.goes:
            count, total = count + 1, total + row.size
            _show(row, as_json=as_json)
    if not as_json:
        say(f"{count} recording{'' if count == 1 else 's'} to send, {size_text(total)}")
    if told:
        click.echo(told, err=as_json)


def _ask(state_dir: Path) -> str:
    """Have everything looked at. Raises AgentError when a running agent can't be asked."""
    try:
        with closing(Control(state_dir)) as control:
            control.rescan()
    except NotRunningError:
        return "no agent runs: it looks at everything when it starts"
    return "the agent looks at everything now"


def _rows(settings: Settings, folder: Path | None) -> Iterator[Row]:
    with opened_history(settings) as documents:
        listing = _Listing(settings, documents, word_of_agent(settings))
        yield from listing.below(absolute(folder)) if folder else listing.everything()


class _Listing:
    def __init__(
        self, settings: Settings, history: History, agent: Mapping[str, Any] | None
    ) -> None:
        watch = settings.watch
        self._roots = [str(root) for root in watch.roots]
        self._include = NameFilter(watch.include, ())
        self._names = NameFilter(
            watch.include, watch.exclude, follow_symlinks=watch.follow_symlinks
        )
        self._rules = FileRules(settings, history, RealClock(), agent)
        self._history = history
        self._opener = Opener(watch)
        self._sending = {upload["id"] for upload in (agent or {}).get("uploads", ())}

    def everything(self) -> Iterator[Row]:
        survey = WalkResult()
        for top in tops(self._roots, self._names, survey):
            yield from self.below(Path(top))
        for root in survey.missing:
            yield Row(root, "missing", why="the watched folder is not there")

    def below(self, top: Path) -> Iterator[Row]:
        """A folder's files, then its folders, by name; only one folder's names are in memory."""
        if not top.is_dir():
            yield self._row(str(top), top.stat(follow_symlinks=self._names.follow))
            return
        folders = [str(top)]
        while folders:
            folder = folders.pop()
            # The entries ask the open folder for their state, so it stays open while they are used.
            with ExitStack() as opened:
                try:
                    descriptor = opened.enter_context(self._opener.folder(Path(folder)))
                    with os.scandir(descriptor) as found:
                        entries = sorted(found, key=lambda entry: entry.name)
                except OSError as error:
                    yield self._closed(folder, error)
                    continue
                inner = []
                for entry in entries:
                    path = str(Path(folder, entry.name))
                    if not entry.is_dir(follow_symlinks=self._names.follow):
                        yield from self._file(path, entry)
                    elif self._names.excluded(entry.name):
                        yield Row(path, "excluded", why="a folder; watch.exclude")
                    else:
                        inner.append(path)
                folders += reversed(inner)

    def _closed(self, folder: str, error: OSError) -> Row:
        """The row of a folder that could not be opened."""
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and not self._names.follow:
            return Row(
                folder, "ignored", why="a symbolic link leads there; see watch.follow_symlinks"
            )
        return Row(folder, "unreadable", why=error.strerror or str(error))

    def _file(self, path: str, entry: os.DirEntry[str]) -> Iterator[Row]:
        """Nothing for what nobody would take for a recording."""
        try:
            if self._include.wanted(entry.name):
                yield self._row(path, entry.stat(follow_symlinks=self._names.follow))
            elif foreign(entry.name):
                state = entry.stat(follow_symlinks=False)
                mtime = utc_text(state.st_mtime_ns / 1e9)
                yield Row(
                    path, "ignored", state.st_size, mtime, why="watch.include does not name it"
                )
        except FileNotFoundError:
            return  # it vanished, or is a link to nowhere

    def _row(self, path: str, state: os.stat_result) -> Row:
        size, mtime = state.st_size, utc_text(state.st_mtime_ns / 1e9)
        mark = self._mark(path, size, mtime)
        if mark and (log := self._history.newest(mark)) is not None:
            return self._known(path, size, mtime, log)
        if mark and self._history.synced(mark):
            return Row(path, "synced", size, mtime, why=LONG_AGO)
        reason = next(reason for reason in self._rules.finding(Path(path)) if not reason.ok)
        return Row(path, reason.state or reason.rule, size, mtime, why=reason.says)

    def _mark(self, path: str, size: int, mtime: str) -> str:
        """The fingerprint; the bytes are read only where nothing was queued that looked like this file."""
        here = next(
            (
                log
                for log in self._history.at_path(Path(path))
                if (log.file_size, log.mtime) == (size, mtime)
            ),
            None,
        )
        return here.fingerprint if here else mark_of(Path(path), self._opener)

    def _known(self, path: str, size: int, mtime: str, log: SyncLog) -> Row:
        error = log.error
        at, why = log.completed_at or "", ""
        if log.status == "completed":
            state = "synced"
        elif log.status == "failed":
            state = "damaged" if error and error.code == "damaged" else "failed"
            at, why = log.next_retry_at or "", error.message if error else ""
        else:
            state = "uploading" if log.id in self._sending else "queued"
            at, why = "", error.message if error else ""
        synced_at = at if log.synced else self._synced_before(log)
        return Row(path, state, size, mtime, at, why, synced_at, log.episode_id)

    def _synced_before(self, log: SyncLog) -> str:
        """A resync leaves a recording synced while it runs, and when it fails."""
        if not log.resync:
            return ""
        earlier = (
            old
            for old in self._history.of_episode(log.episode_id)
            if old.fingerprint == log.fingerprint
        )
        return next((old.completed_at or "" for old in earlier if old.synced), "")


def _show(row: Row, *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(row), indent=None)
        return
    notes = [row.why] if row.why else []
    if row.state == "synced":
        notes.append(local(row.at))
    elif row.at:
        notes.append(f"tried again {local(row.at)}")
    if row.synced_at and row.state != "synced":
        notes.append(f"synced {local(row.synced_at)}")
    about = f"{size_text(row.size):>9}  {local(row.mtime)}" if row.mtime else " " * 30
    say(f"{row.state:<10} {about}  {row.path}" + (f"  ({'; '.join(notes)})" if notes else ""))
