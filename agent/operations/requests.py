"""What an operator asks for, by path, folder or episode → recordings → answers; for markers and commands alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from agent.discovery.examine import Examiner, NotYet
from agent.discovery.file_table import State
from agent.dispatch.intake import Intake
from agent.model.errors import AgentError, RecordingError
from agent.model.ports import History
from agent.model.sync_log import SyncLog, Trigger
from agent.model.values import Answer, Ask, Damaged, Recording

BATCH = 256  # documents in one transaction: a line of the history of some 300 KiB

_UNKNOWN = (
    "it is no recording by watch.include and watch.exclude; keystone-agent why PATH says more"
)
_GONE = "it is no longer on this robot"


class Requests:
    """Each answer is durable when it is given. All methods may be called from any thread; they raise HistoryFullError.

    A target is an absolute path of a file or a folder, or an episode id; a path wins.
    """

    def __init__(
        self,
        *,
        history: History,
        intake: Intake,
        examiner: Examiner,
        state: Callable[[Path], tuple[State, str] | None],
        below: Callable[[Path], Sequence[Path]],
        names: Callable[[str], Sequence[Path]],
    ) -> None:
        """See the disk as the finder does.

        Args:
            history: Tells what is known of a recording.
            intake: Makes the documents.
            examiner: Says what lies at a path.
            state: How a path stands at this moment, and why; None where nothing is known of it.
            below: What may be a recording in a folder and below, by path.
            names: Where the bytes of a fingerprint lie.
        """
        self._history = history
        self._intake = intake
        self._examiner = examiner
        self._state = state
        self.below = below
        self._names = names

    def ask(self, target: str, *, ask: Ask, trigger: Trigger, reason: str = "") -> Sequence[Answer]:
        """Ask for a target; a folder gives an answer for each recording in it and below."""
        path = Path(target)
        if is_folder(target):
            return self._folder(target, ask=ask, trigger=trigger, reason=reason)
        if path.is_absolute() and os.path.lexists(path):
            found = self.at(path, ask=ask, trigger=trigger, reason=reason)
            return [
                Answer(target, "rejected", found.message) if isinstance(found, NotYet) else found
            ]
        return self.episode(target, ask=ask, trigger=trigger, reason=reason)

    def failed(self, code: str, *, trigger: Trigger, reason: str = "") -> Sequence[Answer]:
        """Ask again for every recording whose live document failed, with this error code where one is given."""
        failed = (
            log
            for log in self._history.newest_first("failed")
            if code in ("", log.error.code if log.error else "")
        )
        answers: list[Answer] = []
        while batch := list(islice(failed, BATCH)):
            with self._history.transaction():
                live = [log for log in batch if self._history.newest(log.fingerprint) == log]
                answers += [
                    self._known(log, log.path, ask="resync", trigger=trigger, reason=reason)
                    for log in live
                ]
        return answers

    def at(self, path: Path, *, ask: Ask, trigger: Trigger, reason: str = "") -> Answer | NotYet:
        """Ask for the file at ``path``; NotYet where it can't be told before it has settled or was looked at."""
        state, why = self._state(path) or ("", "")
        if state in ("settling", "recording"):
            return NotYet(path, "recording", why or "it was changed just now; it is still settling")
        try:
            found = self._look(path, state)
        except FileNotFoundError:
            return Answer(str(path), "not_found", "there is no such file")
        except (AgentError, OSError) as error:
            return Answer(str(path), "rejected", _said(error))
        if not state:
            found = NotYet(path, "unknown", _UNKNOWN)
        if isinstance(found, Recording):
            return self._intake.ask(found, trigger=trigger, ask=ask, reason=reason)
        return (
            Answer(str(path), "rejected", f"it is damaged: {found.reason}")
            if isinstance(found, Damaged)
            else found
        )

    def _look(self, path: Path, state: str) -> Recording | Damaged | NotYet:
        """What lies there; raises RecordingError and OSError. Nothing waits that has waited before."""
        if state == "unfinished":
            raise RecordingError(
                "it has no end, and no program writes to it", hint="see watch.unfinished"
            )
        over = state in ("complete", "skipped")
        return self._examiner.look(
            path,
            sidecar_overdue=state != "waiting",
            writer_overdue=over,
            done_overdue=over,
            end_overdue=over,
        )

    def episode(
        self, episode_id: str, *, ask: Ask, trigger: Trigger, reason: str = ""
    ) -> Sequence[Answer]:
        """Ask for every recording of an episode."""
        with self._history.transaction():
            live = {
                log.fingerprint: self._history.newest(log.fingerprint)
                for log in self._history.of_episode(episode_id)
            }
            answers = [
                self._known(log, episode_id, ask=ask, trigger=trigger, reason=reason)
                for log in live.values()
                if log
            ]
        return answers or [
            Answer(
                episode_id,
                "not_found",
                "there is no such file, and no episode of this name is known",
            )
        ]

    def _folder(self, target: str, *, ask: Ask, trigger: Trigger, reason: str) -> Sequence[Answer]:
        paths = iter(self.below(Path(target)))
        answers: list[Answer] = []
        while batch := list(islice(paths, BATCH)):
            with self._history.transaction():
                answers += self.each(batch, ask=ask, trigger=trigger, reason=reason)
        return answers or [
            Answer(target, "not_found", "there is no finished recording in this folder or below")
        ]

    def each(
        self, paths: Sequence[Path], *, ask: Ask, trigger: Trigger, reason: str
    ) -> Iterator[Answer]:
        """Ask for each of these files that is a recording now."""
        for path in paths:
            found = self.at(path, ask=ask, trigger=trigger, reason=reason)
            if isinstance(found, Answer):
                yield found

    def _known(
        self, log: SyncLog, target: str, *, ask: Ask, trigger: Trigger, reason: str
    ) -> Answer:
        """Ask for the recording of a live document, wherever it lies now; one that is open needs no look."""
        if log.open:
            return self._intake.expedite(log, target, ask)
        found = self._find(log)
        if not isinstance(found, Recording):
            why = f"it is damaged: {found.reason}" if found else _GONE
            return Answer(target, "rejected", f"{log.path}: {why}", log.episode_id)
        answer = self._intake.ask(found, trigger=trigger, ask=ask, reason=reason)
        return Answer(target, answer.status, answer.message, answer.episode_id)

    def _find(self, log: SyncLog) -> Recording | Damaged | None:
        """What a document is about, by the path that it had or by what the finder knows."""
        return self._first_of([Path(log.path)], log) or self._first_of(
            self._names(log.fingerprint), log
        )

    def _first_of(self, paths: Sequence[Path], log: SyncLog) -> Recording | Damaged | None:
        for path in paths:
            try:
                found = self._examiner.look(
                    path,
                    sidecar_overdue=True,
                    writer_overdue=True,
                    done_overdue=True,
                    end_overdue=True,
                )
            except (AgentError, OSError):
                continue
            if not isinstance(found, NotYet) and str(found.fingerprint) == log.fingerprint:
                return found
        return None


def is_folder(target: str) -> bool:
    """Whether a target is a folder that this user may look at."""
    return os.path.isabs(target) and os.path.isdir(target)  # noqa: PTH112, PTH117 - Path.is_dir raises where it may not look


def _said(error: AgentError | OSError) -> str:
    if isinstance(error, AgentError):
        return "; ".join(filter(None, (error.message, error.hint)))
    return f"it can't be read: {error.strerror}"
