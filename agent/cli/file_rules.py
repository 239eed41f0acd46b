"""Each rule that a file must pass on its way into the bucket, in order, with the first one that holds it up."""

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
from agent.cli.options import mark_of
from agent.discovery.examine import Examiner, NotYet
from agent.files.writers import has_writer
from agent.model.errors import FileChangedError, RecordingError
from agent.model.ports import Clock, History
from agent.model.values import Damaged, SyncLog

_REMEDIES = {
    "recording": "nothing to do: it goes once its recorder has closed it",
    "writer": "nothing to do: it goes once it is closed, or watch.unfinished_minutes after its last change",
    "sidecar": "nothing to do: its turn comes without one after watch.sidecar_wait_seconds",
    "done_marker": "nothing to do: it goes once its recorder has written the rest",
    "compressing": "nothing to do: the compressed file replaces it",
}

LONG_AGO = "it was, and its documents are forgotten (history.keep_days); a resync sends it again"


@dataclass(frozen=True, slots=True)
class RuleResult:
    """One rule, whether the file passes it, what is so (``at`` that UTC time), and what to do where it does not."""

    rule: str
    ok: bool
    says: str
    at: str = ""
    remedy: str = ""
    state: str = ""  # of the file, in a word, where it does not pass

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class FileRules:
    """What stands between a file and the bucket, as far as it shows from outside the agent."""

    def __init__(
        self,
        settings: Settings,
        history: History,
        clock: Clock,
        agent: Mapping[str, Any] | None = None,
    ) -> None:
        """``agent`` is what a running one published, {} before it did; None when none runs."""
        self._settings = settings
        self._history = history
        self._clock = clock
        self._agent = agent
        watch = settings.watch
        self._opener = Opener(watch)
        self._examiner = Examiner(watch.roots, watch.sidecar, follow_symlinks=watch.follow_symlinks)

    def reasons(self, path: Path) -> Sequence[RuleResult]:
        """All rules for the absolute ``path``, up to and with the first that is not ok."""
        told = []
        for reason in self._rules(path):
            told.append(reason)
            if not reason.ok:
                break
        return told

    def _rules(self, path: Path) -> Iterator[RuleResult]:
        if path.is_dir():
            yield _reason("file", False, "it is a folder", "name the files in it")
            return
        log = self._history.newest(mark) if (mark := mark_of(path, self._opener)) else None
        if log is None and mark and self._history.synced(mark):
            yield RuleResult("uploaded", True, LONG_AGO)
            return
        for reason in self.finding(path):
            if (
                log is None or reason.ok
            ):  # what is queued has been found: it goes, whatever these rules say by now
                yield reason
        if log is not None:
            yield RuleResult(
                "queued", True, f"document {log.id}, {log.status}, attempt {log.attempt_count}"
            )
            yield from self._sending(log)

    def finding(self, path: Path) -> Iterator[RuleResult]:
        """What keeps a file from being queued; nobody asks on after the first rule that is not ok."""
        watch = self._settings.watch
        root, inside = _below(path, watch.roots)
        found = f"below {root}" if root else "below no watched folder"
        yield _reason(
            "root", root is not None, found, "add its folder to watch.roots", state="outside"
        )
        if root is None:
            return
        included = any(fnmatch.fnmatchcase(path.name, glob) for glob in watch.include)
        yield _reason(
            "include",
            included,
            ", ".join(watch.include),
            "rename it, or set watch.include",
            state="ignored",
        )
        excluding = _excluding(inside, watch.exclude)
        yield _reason(
            "exclude",
            not excluding,
            excluding or "not excluded",
            "rename it, or set watch.exclude",
            state="excluded",
        )
        try:
            yield from self._file(root, inside)
        except FileNotFoundError:
            remedy = f"see what became of it: keystone-agent history {path}"
            yield _reason("file", False, "it is not there", remedy, state="gone")
        except OSError as error:
            remedy = "give the agent's user the right to read it"
            yield _reason(
                "file", False, f"it can't be read: {error.strerror}", remedy, state="unreadable"
            )

    def _file(self, root: Path, inside: Path) -> Iterator[RuleResult]:
        path = root / inside
        state = path.lstat()
        if (link := _link(root, inside)) and not self._settings.watch.follow_symlinks:
            remedy = "set watch.follow_symlinks, or watch its target"
            yield _reason("file", False, f"{link} is a symbolic link", remedy, state="ignored")
        yield RuleResult("file", True, f"{state.st_size} bytes")
        yield self._age(state.st_mtime)
        yield self._complete(path, state)
        if not self._settings.watch.auto:
            remedy = f"touch {path}.resync, or keystone-agent resync {path}"
            yield _reason(
                "auto",
                False,
                "watch.auto is false: it waits until somebody asks for it",
                remedy,
                state="held",
            )
        age = self._clock.now() - state.st_mtime
        if self._agent is None:
            yield _reason("queued", False, "it is not queued yet", "start the agent", state="new")
        elif age < self._settings.watch.settle_seconds:
            remedy = "nothing to do: it goes once it has settled"
            yield _reason("queued", False, "it was changed just now", remedy, state="settling")
        else:
            yield _reason(
                "queued",
                False,
                "it is not found yet",
                "nothing to do: the next scan finds it",
                state="settling",
            )

    def _age(self, mtime: float) -> RuleResult:
        text = self._settings.watch.newer_than
        limit = newer_than(text)
        if limit is None:
            return RuleResult("age", True, "any age")
        oldest = (
            limit.timestamp()
            if isinstance(limit, datetime)
            else self._clock.now() - limit.total_seconds()
        )
        remedy = "set watch.newer_than to an earlier time"
        return _reason(
            "age", mtime >= oldest, f"watch.newer_than = {text}", remedy, state="skipped"
        )

    def _complete(self, path: Path, state: os.stat_result) -> RuleResult:
        """Whether it is a whole recording. The waits are judged by the file's age: the agent saw it, this one not."""
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
            return _reason(
                "complete",
                False,
                "it is being written to",
                _REMEDIES["recording"],
                state="recording",
            )
        except RecordingError as error:
            return _reason("complete", False, error.message, error.hint, state="ignored")
        if isinstance(found, Damaged):
            remedy = "mend the file (`mcap recover`) or delete it"
            return _reason("complete", False, found.reason, remedy, state="damaged")
        if not isinstance(found, NotYet):
            return RuleResult("complete", True, "a whole recording")
        if found.why == "recording":
            return self._without_end(path, state, found)
        file_state = "recording" if found.why == "writer" else "waiting"
        return _reason("complete", False, found.message, _REMEDIES[found.why], state=file_state)

    def _without_end(self, path: Path, state: os.stat_result, found: NotYet) -> RuleResult:
        """Still being recorded, or left unfinished: by the same signs as the agent's own."""
        watch = self._settings.watch
        before_boot = state.st_mtime < self._clock.now() - self._clock.monotonic()
        quiet = self._clock.now() - state.st_mtime >= watch.unfinished_minutes * 60
        if not (before_boot or quiet):
            return _reason(
                "complete", False, found.message, _REMEDIES["recording"], state="recording"
            )
        writer = has_writer(path)
        if writer or (writer is None and not before_boot):
            seen = (
                "a program has it open for writing"
                if writer
                else "whether a program still writes can't be seen"
            )
            return _reason(
                "complete", False, f"no end; {seen}", _REMEDIES["recording"], state="recording"
            )
        if watch.unfinished == "upload" and state.st_size:
            return RuleResult("complete", True, "unfinished, sent as it is (watch.unfinished)")
        remedy = "mend the file (`mcap recover`)" + (
            ", or set watch.unfinished" if state.st_size else " or delete it"
        )
        says = "no end, and no program writes to it: it is unfinished"
        return _reason("complete", False, says, remedy, state="unfinished")

    def _sending(self, log: SyncLog) -> Iterator[RuleResult]:
        """What keeps a queued recording from the bucket."""
        if log.status == "completed":
            yield RuleResult(
                "uploaded", True, f"{log.bucket}/{log.object_key}", log.completed_at or ""
            )
            return
        last = f": {log.error.message}" if log.error else ""
        hint = log.error.hint if log.error else ""
        if log.status == "failed":
            again = "; tried again" if log.next_retry_at else "; for good"
            yield _reason(
                "uploaded", False, f"it failed{last}{again}", hint, log.next_retry_at or ""
            )
            return
        if self._agent is None:
            yield _reason("uploaded", False, f"it waits for the agent{last}", "start the agent")
            return
        if gate := self._agent.get("gate"):
            again = (
                ("; until then" if gate["cause"] == "hold" else "; tried again")
                if gate["next_probe"]
                else ""
            )
            yield _reason(
                "gate", False, gate["reason"] + again, gate["hint"], gate["next_probe"] or ""
            )
        yield RuleResult("gate", True, "open")
        if log.status == "in_progress":
            yield _reason("uploaded", False, "it is being uploaded", "nothing to do")
        ahead = sum(
            other.id < log.id and other.status != "failed" for other in self._history.open()
        )
        yield _reason(
            "uploaded",
            False,
            f"it is queued behind {ahead}{last}",
            hint or "nothing to do: its turn comes",
        )


def _reason(
    rule: str, ok: bool, says: str, remedy: str, at: str = "", *, state: str = ""
) -> RuleResult:
    """Remedy and state are for what is not ok."""
    return RuleResult(rule, ok, says, at) if ok else RuleResult(rule, ok, says, at, remedy, state)


def _below(path: Path, roots: Sequence[Path]) -> tuple[Path | None, Path]:
    """The watched folder that ``path`` lies below and the way from there; None and the path where there is none."""
    real = path.parent.resolve() / path.name
    named = ((root, path, root) for root in roots)
    linked = (
        (root, real, root.resolve()) for root in roots
    )  # a shell in a linked folder names its target
    for root, place, folder in (*named, *linked):
        if place.is_relative_to(folder):
            return root, place.relative_to(folder)
    return None, path


def _excluding(inside: Path, globs: Sequence[str]) -> str:
    hits = (
        f"{part} matches {glob}"
        for part in inside.parts
        for glob in globs
        if fnmatch.fnmatchcase(part, glob)
    )
    return next(hits, "")


def _link(root: Path, inside: Path) -> Path | None:
    """The first part of the way ``inside`` the root that is a symbolic link."""
    way = [root / inside, *(root / folder for folder in inside.parents)][::-1]
    return next((place for place in way if place != root and place.is_symlink()), None)
