"""Explains which rule a file fails on its way into the bucket, for `why`, `ls` and `scan`."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.adapters.config import Settings
from agent.adapters.config.kinds import newer_than
from agent.cli.opening import Opener
from agent.cli.options import fingerprint_at
from agent.discovery.examine import Examiner, NotYet
from agent.files.writers import has_writer
from agent.model.errors import FileChangedError, RecordingError
from agent.model.ports import Clock, History
from agent.model.sync_log import SyncLog
from agent.model.values import Damaged

_REMEDIES = {
    "recording": "nothing to do: it is uploaded once its recorder has closed it",
    "writer": (
        "nothing to do: it is uploaded once it is closed, "
        "or watch.unfinished_minutes after its last change"
    ),
    "sidecar": "nothing to do: after watch.sidecar_wait_seconds it is uploaded without a sidecar",
    "done_marker": "nothing to do: it is uploaded once its recorder has written the rest",
    "compressing": "nothing to do: the compressed file is uploaded in its place",
}

# What is said of a recording whose upload is remembered, but whose documents have expired.
HISTORY_EXPIRED = (
    "it was uploaded, and its documents have expired (history.keep_days); a resync sends it again"
)


@dataclass(frozen=True, slots=True)
class RuleResult:
    """Whether a file passes one rule, and why.

    A rule that is not passed has a ``remedy``, which says what to do, and may have a ``state``,
    which is the word that `ls` shows for the file. ``at`` is a UTC time that ``says`` refers to.
    """

    rule: str
    ok: bool
    says: str
    at: str = ""
    remedy: str = ""
    state: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self)


class FileRules:
    """Applies the rules for recordings to one file after another.

    The rules are applied from outside of the agent, by what the disk, the history and the agent's
    status show, so that the commands work without a running agent, too. Used by one thread.
    """

    def __init__(
        self,
        settings: Settings,
        history: History,
        clock: Clock,
        agent: Mapping[str, Any] | None = None,
    ) -> None:
        """Create the rules for these settings.

        ``agent`` is the status document of a running agent, {} before the agent has published one.
        Without a running agent it is None.
        """
        self._settings = settings
        self._history = history
        self._clock = clock
        self._agent = agent
        watch = settings.watch
        self._opener = Opener(watch)
        self._examiner = Examiner(watch.roots, watch.sidecar, follow_symlinks=watch.follow_symlinks)

    def results(self, path: Path) -> Sequence[RuleResult]:
        """Return the results for the absolute ``path``, up to the first rule that is not passed."""
        results = []
        for result in self._results(path):
            results.append(result)
            if not result.ok:
                break
        return results

    def discovery_results(self, path: Path) -> Iterator[RuleResult]:
        """Yield the results of the rules that decide whether a file is queued.

        The last rule is never passed: it says why a file that could be queued is not queued yet.
        Results after the first rule that is not passed have no meaning.
        """
        watch = self._settings.watch
        root, relative = _locate(path, watch.roots)
        place = f"below {root}" if root else "below no watched folder"
        yield _result(
            "root", root is not None, place, "add its folder to watch.roots", state="outside"
        )
        if root is None:
            return
        yield _result(
            "include",
            any(fnmatch.fnmatchcase(path.name, glob) for glob in watch.include),
            ", ".join(watch.include),
            "rename it, or set watch.include",
            state="ignored",
        )
        excluded_by = _excluded_by(relative, watch.exclude)
        yield _result(
            "exclude",
            not excluded_by,
            excluded_by or "not excluded",
            "rename it, or set watch.exclude",
            state="excluded",
        )
        try:
            yield from self._file_results(root, relative)
        except FileNotFoundError:
            remedy = f"its history says more: keystone-agent history {path}"
            yield _result("file", False, "it is not there", remedy, state="gone")
        except OSError as error:
            says = f"it can't be read: {error.strerror}"
            remedy = "give the agent's user the right to read it"
            yield _result("file", False, says, remedy, state="unreadable")

    def _results(self, path: Path) -> Iterator[RuleResult]:
        if path.is_dir():
            yield _result("file", False, "it is a folder", "name the files in it")
            return
        fingerprint = fingerprint_at(path, self._opener)
        log = self._history.newest(fingerprint) if fingerprint else None
        if log is None and fingerprint and self._history.synced(fingerprint):
            yield RuleResult("uploaded", True, HISTORY_EXPIRED)
            return
        for result in self.discovery_results(path):
            # A recording with a document has been found before. It is uploaded even where it
            # would not pass these rules any more.
            if log is None or result.ok:
                yield result
        if log is not None:
            says = f"document {log.id}, {log.status}, attempt {log.attempt_count}"
            yield RuleResult("queued", True, says)
            yield from self._upload_results(log)

    def _file_results(self, root: Path, relative: Path) -> Iterator[RuleResult]:
        """Yield the results of the rules for which the file itself must be there."""
        path = root / relative
        state = path.lstat()
        link = _first_link(root, relative)
        if link and not self._settings.watch.follow_symlinks:
            remedy = "set watch.follow_symlinks, or watch the folder that the link leads to"
            yield _result("file", False, f"{link} is a symbolic link", remedy, state="ignored")
        yield RuleResult("file", True, f"{state.st_size} bytes")
        yield self._age_result(state.st_mtime)
        yield self._completeness_result(path, state)
        if not self._settings.watch.auto:
            remedy = f"touch {path}.resync, or run keystone-agent resync {path}"
            says = "watch.auto is false: it waits until it is asked for"
            yield _result("auto", False, says, remedy, state="held")
        yield self._queue_result(state.st_mtime)

    def _queue_result(self, mtime: float) -> RuleResult:
        """Return why a file that passes all rules for finished recordings has no document yet."""
        if self._agent is None:
            return _result("queued", False, "it is not queued yet", "start the agent", state="new")
        if self._clock.now() - mtime < self._settings.watch.settle_seconds:
            says = "it was changed just now"
            remedy = "nothing to do: it is queued after watch.settle_seconds without a change"
        else:
            says = "it is not found yet"
            remedy = "nothing to do: the next scan finds it"
        return _result("queued", False, says, remedy, state="settling")

    def _age_result(self, mtime: float) -> RuleResult:
        setting = self._settings.watch.newer_than
        limit = newer_than(setting)
        if limit is None:
            return RuleResult("age", True, "any age")
        if isinstance(limit, datetime):
            oldest = limit.timestamp()
        else:
            oldest = self._clock.now() - limit.total_seconds()
        says = f"watch.newer_than = {setting}"
        remedy = "set watch.newer_than to an earlier time"
        return _result("age", mtime >= oldest, says, remedy, state="skipped")

    def _completeness_result(self, path: Path, state: os.stat_result) -> RuleResult:
        """Return whether the file is a complete recording.

        The agent measures its waits from the time at which it first saw the file. A command does
        not know that time, and uses the age of the file.
        """
        watch = self._settings.watch
        age = self._clock.now() - state.st_mtime
        try:
            found = self._examiner.look(
                path,
                sidecar_overdue=age >= watch.sidecar_wait_seconds,
                writer_overdue=age >= watch.unfinished_minutes * 60,
                done_overdue=age >= watch.unfinished_minutes * 60,
            )
        except FileChangedError:
            return _still_recording("it is being written to")
        except RecordingError as error:
            return _result("complete", False, error.message, error.hint, state="ignored")
        if isinstance(found, Damaged):
            remedy = "repair the file with `mcap recover`, or delete it"
            return _result("complete", False, found.reason, remedy, state="damaged")
        if not isinstance(found, NotYet):
            return RuleResult("complete", True, "a complete recording")
        if found.why == "recording":
            return self._missing_end_result(path, state, found)
        file_state = "recording" if found.why == "writer" else "waiting"
        return _result("complete", False, found.message, _REMEDIES[found.why], state=file_state)

    def _missing_end_result(self, path: Path, state: os.stat_result, found: NotYet) -> RuleResult:
        """Return whether a file without an end is still recorded, or was left unfinished.

        These are the signs by which the agent itself decides.
        """
        watch = self._settings.watch
        older_than_boot = state.st_mtime < self._clock.now() - self._clock.monotonic()
        quiet = self._clock.now() - state.st_mtime >= watch.unfinished_minutes * 60
        if not (older_than_boot or quiet):
            return _still_recording(found.message)
        writer = has_writer(path)
        if writer:
            return _still_recording("no end; a program has it open for writing")
        if writer is None and not older_than_boot:
            return _still_recording("no end; this user can't see whether a program still writes")
        if watch.unfinished == "upload" and state.st_size:
            return RuleResult("complete", True, "unfinished, sent as it is (watch.unfinished)")
        if state.st_size:
            remedy = "repair the file with `mcap recover`, or set watch.unfinished"
        else:
            remedy = "delete the file: it is empty"
        says = "no end, and no program writes to it: it is unfinished"
        return _result("complete", False, says, remedy, state="unfinished")

    def _upload_results(self, log: SyncLog) -> Iterator[RuleResult]:
        """Yield what keeps a recording with a document from being in the bucket."""
        if log.status == "completed":
            place = f"{log.session.bucket}/{log.object_key}" if log.session else ""
            yield RuleResult("uploaded", True, place, log.completed_at or "")
            return
        last_error = f": {log.error.message}" if log.error else ""
        hint = log.error.hint if log.error else ""
        if log.status == "failed":
            then = "; next try" if log.next_retry_at else "; it is not tried again"
            says = f"it failed{last_error}{then}"
            yield _result("uploaded", False, says, hint, log.next_retry_at or "")
            return
        if self._agent is None:
            says = f"it waits for the agent{last_error}"
            yield _result("uploaded", False, says, "start the agent")
            return
        if gate := self._agent.get("gate"):
            yield _gate_result(gate)
        yield RuleResult("gate", True, "open")
        if log.status == "in_progress":
            yield _result("uploaded", False, "it is being uploaded", "nothing to do")
        ahead = sum(
            other.id < log.id and other.status != "failed" for other in self._history.open()
        )
        says = f"it is queued behind {ahead}{last_error}"
        remedy = hint or "nothing to do: it is uploaded after those before it"
        yield _result("uploaded", False, says, remedy)


def _result(
    rule: str, ok: bool, says: str, remedy: str, at: str = "", *, state: str = ""
) -> RuleResult:
    """Return a result. ``remedy`` and ``state`` count only where the rule is not passed."""
    return RuleResult(rule, ok, says, at) if ok else RuleResult(rule, ok, says, at, remedy, state)


def _still_recording(says: str) -> RuleResult:
    return _result("complete", False, says, _REMEDIES["recording"], state="recording")


def _gate_result(gate: Mapping[str, Any]) -> RuleResult:
    """Return the result for a closed gate."""
    says = gate["reason"]
    if gate["next_probe"]:
        says += "; until then" if gate["cause"] == "hold" else "; next try"
    return _result("gate", False, says, gate["hint"], gate["next_probe"] or "")


def _locate(path: Path, roots: Sequence[Path]) -> tuple[Path | None, Path]:
    """Return the watched folder above ``path``, and the path relative to that folder.

    Where there is no such folder, None and ``path`` are returned.
    """
    for root in roots:
        if path.is_relative_to(root):
            return root, path.relative_to(root)
    # In a watched folder that is reached by a link, the shell may know the real path instead.
    real_path = path.parent.resolve() / path.name
    for root in roots:
        real_root = root.resolve()
        if real_path.is_relative_to(real_root):
            return root, real_path.relative_to(real_root)
    return None, path


def _excluded_by(relative: Path, globs: Sequence[str]) -> str:
    """Return which part of the path matches which pattern, "" where none does."""
    for part in relative.parts:
        for glob in globs:
            if fnmatch.fnmatchcase(part, glob):
                return f"{part} matches {glob}"
    return ""


def _first_link(root: Path, relative: Path) -> Path | None:
    """Return the first symbolic link between ``root`` and the file, the file included."""
    places = [root / relative, *(root / folder for folder in relative.parents)]
    for place in reversed(places):
        if place != root and place.is_symlink():
            return place
    return None
