"""Explains why a file is not in the bucket yet, for `why`, `ls` and `scan`.

The rules themselves are those of discovery. This module only finds words and remedies for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.adapters.config import Settings
from agent.assembly.feature_settings import examiner_of, oldest_wanted, waiting_rules
from agent.cli.opening import Opener
from agent.cli.options import fingerprint_at
from agent.discovery.file_names import sidecar_path
from agent.discovery.name_rules import NameFilter
from agent.discovery.state_rules import (
    Decision,
    StateRules,
    Unchanged,
    is_too_old,
    may_be_recording,
)
from agent.discovery.walk import GONE
from agent.files.below_root import root_of
from agent.model.errors import FileChangedError, RecordingError
from agent.model.ports import Clock, History
from agent.model.printable import shell_word
from agent.model.sync_log import SyncLog

# What to do about a file that is not complete, by the reason of the decision.
_REMEDIES = {
    "recording": "nothing to do: it is uploaded once its recorder has closed it",
    "writer_unknown": "nothing to do: it is uploaded once its recorder has closed it",
    "writer": (
        "nothing to do: it is uploaded once it is closed, "
        "or watch.unfinished_minutes after its last change"
    ),
    "sidecar": "nothing to do: after watch.sidecar_wait_seconds it is uploaded without a sidecar",
    "done_marker": "nothing to do: it is uploaded once its recorder has written the rest",
    "compressing": (
        "nothing to do: the compressed file is uploaded in its place, or this file once "
        "nothing was written to the compressed one for watch.unfinished_minutes"
    ),
    "no_end": "repair the file with `mcap recover`, or set watch.unfinished",
    "damaged": (
        "repair the file with `mcap recover`, send it as it is (keystone-agent resync), "
        "or delete it"
    ),
}

_REQUIRED_SIDECAR_REMEDY = (
    "write its sidecar: watch.sidecar requires it, and without it the upload fails"
)

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
        self.names = NameFilter(watch.include, watch.exclude, follow_symlinks=watch.follow_symlinks)
        self._oldest = oldest_wanted(settings, clock)
        self._states = StateRules(
            examiner_of(watch),
            waiting_rules(watch),
            clock,
            boot_time=clock.now() - clock.monotonic(),
        )

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
        root, path = _located(path, self._settings.watch.roots)
        place = f"below {root}" if root else "below no watched folder"
        yield _result(
            "root", root is not None, place, "add its folder to watch.roots", state="outside"
        )
        if root is None:
            return
        yield self._include_result(path.name)
        exclusion = self.names.exclusion(str(root), str(path))
        yield _result(
            "exclude",
            exclusion is None,
            "{} matches {}".format(*exclusion) if exclusion else "not excluded",
            "move or rename it, or set watch.exclude; folders of the system are never searched",
            state="excluded",
        )
        try:
            yield from self._file_results(root, path)
        except OSError as error:
            if error.errno in GONE:
                remedy = f"its history says more: keystone-agent history {shell_word(str(path))}"
                yield _result("file", False, "it is not there", remedy, state="gone")
                return
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

    def _include_result(self, name: str) -> RuleResult:
        kind = self.names.kind(name)
        if kind in ("marker", "rejected"):
            says = "it is a marker file, or the answer to one"
            remedy = "rename it if it is a recording"
            return _result("include", False, says, remedy, state="ignored")
        return _result(
            "include",
            kind != "other",
            ", ".join(self._settings.watch.include),
            "rename it, or set watch.include",
            state="ignored",
        )

    def _file_results(self, root: Path, path: Path) -> Iterator[RuleResult]:
        """Yield the results of the rules for which the file itself must be there."""
        if link := self.names.first_link(str(root), str(path)):
            remedy = "set watch.follow_symlinks, or watch the folder that the link leads to"
            yield _result("file", False, f"{link} is a symbolic link", remedy, state="ignored")
            return
        state = path.stat(follow_symlinks=self.names.follow)
        if not may_be_recording(state):
            remedy = "only regular files are uploaded"
            yield _result("file", False, "it is no regular file", remedy, state="ignored")
            return
        yield RuleResult("file", True, f"{state.st_size} bytes")
        yield self._age_result(state)
        yield self._state_result(path, state)
        if not self._settings.watch.auto:
            remedy = (
                f"touch {shell_word(f'{path}.resync')}, "
                f"or run keystone-agent resync {shell_word(str(path))}"
            )
            says = "watch.auto is false: it waits until it is asked for"
            yield _result("auto", False, says, remedy, state="held")
        yield self._queue_result()

    def _queue_result(self) -> RuleResult:
        """Return why a file that passes all rules for finished recordings has no document yet."""
        if self._agent is None:
            return _result("queued", False, "it is not queued yet", "start the agent", state="new")
        remedy = "nothing to do: the next scan finds it"
        return _result("queued", False, "it is not found yet", remedy, state="settling")

    def _age_result(self, state: os.stat_result) -> RuleResult:
        if self._oldest is None:
            return RuleResult("age", True, "any age")
        says = f"watch.newer_than = {self._settings.watch.newer_than}"
        remedy = "set watch.newer_than to an earlier time"
        is_wanted = not is_too_old(state, self._oldest())
        return _result("age", is_wanted, says, remedy, state="skipped")

    def _state_result(self, path: Path, state: os.stat_result) -> RuleResult:
        """Return whether the file is a complete recording that has settled."""
        try:
            decision = self._states.judge(path, state, self._unchanged(path, state))
        except FileChangedError:
            decision = Decision("recording", "recording", "it is being written to")
        except RecordingError as error:
            return _result("complete", False, error.message, error.hint, state="ignored")
        if decision.state == "complete":
            is_whole = decision.reason != "no_end"
            unfinished = "unfinished, sent as it is (watch.unfinished)"
            return RuleResult("complete", True, "a complete recording" if is_whole else unfinished)
        if decision.state == "settling":
            remedy = "nothing to do: it is queued after watch.settle_seconds without a change"
            return _result("queued", False, decision.message, remedy, state="settling")
        remedy = _REMEDIES[decision.reason]
        if decision.reason == "sidecar" and self._settings.watch.sidecar == "required":
            remedy = _REQUIRED_SIDECAR_REMEDY
        if decision.reason == "no_end" and not state.st_size:
            remedy = "delete the file: it is empty"
        return _result("complete", False, decision.message, remedy, state=decision.state)

    def _unchanged(self, path: Path, state: os.stat_result) -> Unchanged:
        """Return since when the file is unchanged, by the date of its last change.

        The agent measures from the time at which it first saw the file as it is. A command does
        not know that time.
        """
        now = self._clock.now()
        since = _last_change(state, now)
        settling_since = since
        if self._settings.watch.sidecar != "ignore":
            try:
                sidecar = sidecar_path(path).stat()
                settling_since = max(since, _last_change(sidecar, now))
            except OSError:
                # There is no sidecar, or none that can be read, and so none that settles.
                pass
        settle_seconds = self._states.waits.settling_seconds(path.name)
        return Unchanged(since, now, Unchanged(settling_since, now).has_lasted(settle_seconds))

    def _upload_results(self, log: SyncLog) -> Iterator[RuleResult]:
        """Yield what keeps a recording with a document from being in the bucket."""
        if log.status == "completed":
            place = f"{log.session.bucket}/{log.object_key}" if log.session else ""
            yield RuleResult("uploaded", True, place, log.completed_at or "")
            return
        last_error, hint = _last_error(log)
        if log.status == "failed":
            then = "; next try" if log.next_retry_at else "; it is not tried again"
            says = f"it failed{last_error}{then}"
            yield _result("uploaded", False, says, hint, log.next_retry_at or "")
        elif self._agent is None:
            says = f"it waits for the agent{last_error}"
            yield _result("uploaded", False, says, "start the agent")
        else:
            yield from self._queue_results(log, self._agent.get("gate"))

    def _queue_results(self, log: SyncLog, gate: Mapping[str, Any] | None) -> Iterator[RuleResult]:
        """Yield what keeps a recording in the queue of the running agent."""
        if gate:
            yield _gate_result(gate)
        yield RuleResult("gate", True, "open")
        if log.status == "in_progress":
            yield _result("uploaded", False, "it is being uploaded", "nothing to do")
        ahead = sum(
            other.id < log.id and other.status != "failed" for other in self._history.open()
        )
        last_error, hint = _last_error(log)
        says = f"it is queued behind {ahead}{last_error}"
        remedy = hint or "nothing to do: it is uploaded after those before it"
        yield _result("uploaded", False, says, remedy)


def _result(
    rule: str, ok: bool, says: str, remedy: str, at: str = "", *, state: str = ""
) -> RuleResult:
    """Return a result. ``remedy`` and ``state`` count only where the rule is not passed."""
    return RuleResult(rule, ok, says, at) if ok else RuleResult(rule, ok, says, at, remedy, state)


def _last_error(log: SyncLog) -> tuple[str, str]:
    """Return the end of a sentence about the last error, and the error's hint; "" for no error."""
    return (f": {log.error.message}", log.error.hint) if log.error else ("", "")


def _gate_result(gate: Mapping[str, Any]) -> RuleResult:
    """Return the result for a closed gate."""
    says = gate["reason"]
    if gate["next_probe"]:
        says += "; until then" if gate["cause"] == "hold" else "; next try"
    return _result("gate", False, says, gate["hint"], gate["next_probe"] or "")


def _last_change(state: os.stat_result, now: float) -> float:
    """Return when a file with this state was last changed, in seconds since 1970.

    A date in the future comes from another clock. A date that is far ahead can't be that of a
    change a moment ago, so it counts as just as long ago.
    """
    return now - abs(now - state.st_mtime)


def _located(path: Path, roots: Sequence[Path]) -> tuple[Path | None, Path]:
    """Return the innermost watched folder above ``path``, and the path below that folder.

    The walk from the innermost one passes the fewest names and links. Where there is no watched
    folder, None and ``path`` are returned.
    """
    if root := root_of(path, roots):
        return root, path
    # In a watched folder that is reached by a link, the shell may know the real path instead.
    real_path = path.parent.resolve() / path.name
    names = {root.resolve(): root for root in reversed(roots)}
    if real_root := root_of(real_path, list(names)):
        return names[real_root], names[real_root] / real_path.relative_to(real_root)
    return None, path
