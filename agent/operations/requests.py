"""Queues the recordings that an operator asks for, by path, folder or episode.

Markers and commands use the same module.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from agent.discovery.examine import Examiner, NotYet
from agent.discovery.file_names import COMPRESSED
from agent.discovery.file_table import State
from agent.dispatch.intake import Intake
from agent.model.errors import AgentError, RecordingError
from agent.model.ports import History
from agent.model.sync_log import SyncLog, Trigger
from agent.model.values import Answer, Ask, Damaged, Recording

# The most documents in one transaction. They make a line of some 300 KiB in the history.
BATCH = 256

_UNKNOWN = (
    "it is no recording by watch.include and watch.exclude; keystone-agent why PATH says more"
)
_GONE = "it is no longer on this robot"


class Requests:
    """Finds the recordings behind a target, and has intake queue them.

    A target is an absolute path of a file or a folder, or an episode id. A target that is both is
    taken for a path. Each answer is durable when it is given.

    Any thread may call the methods. All of them raise HistoryFullError.
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
        """Join the parts.

        Args:
            history: Has the documents of a recording.
            intake: Makes new documents.
            examiner: Says what the file at a path is.
            state: Returns the state of a file at this moment, and why; None for an unknown file.
            below: Returns what may be a recording in a folder and below, sorted by path.
            names: Returns the paths at which the bytes of a fingerprint are now.
        """
        self._history = history
        self._intake = intake
        self._examiner = examiner
        self._state = state
        self.below = below
        self._names = names

    def ask(self, target: str, *, ask: Ask, trigger: Trigger, reason: str = "") -> Sequence[Answer]:
        """Ask for a target; return one answer for each recording that was found."""
        path = Path(target)
        if is_folder(target):
            return self._folder(target, ask=ask, trigger=trigger, reason=reason)
        if path.is_absolute() and os.path.lexists(path):
            found = self.at(path, ask=ask, trigger=trigger, reason=reason)
            if isinstance(found, NotYet):
                return [Answer(target, "rejected", found.message)]
            return [found]
        return self.episode(target, ask=ask, trigger=trigger, reason=reason)

    def failed(self, code: str, *, trigger: Trigger, reason: str = "") -> Sequence[Answer]:
        """Ask again for all recordings that failed, with this error ``code`` where it is not "".

        The newest document of a recording decides. A damaged file is sent only where ``code`` says
        which failures are meant.
        """
        failed = (log for log in self._history.newest_first("failed") if log.has_error(code))
        answers: list[Answer] = []
        while batch := list(islice(failed, BATCH)):
            with self._history.transaction():
                newest = [log for log in batch if self._history.newest(log.fingerprint) == log]
                answers += [
                    self._ask_for(
                        log,
                        log.path,
                        ask="resync",
                        trigger=trigger,
                        reason=reason,
                        send_damaged=bool(code),
                    )
                    for log in newest
                ]
        return answers

    def at(
        self,
        path: Path,
        *,
        ask: Ask,
        trigger: Trigger,
        reason: str = "",
        send_damaged: bool = True,
    ) -> Answer | NotYet:
        """Ask for the file at ``path``; NotYet while the file has to settle or to be examined.

        A damaged file is sent as it is, unless ``send_damaged`` is False.
        """
        state, why = self._state(path) or ("", "")
        if state in ("settling", "recording"):
            return NotYet(path, "recording", why or "it was changed just now; it is still settling")
        try:
            found = self._examine(path, state, send_damaged=send_damaged)
        except FileNotFoundError:
            return Answer(str(path), "not_found", "there is no such file")
        except (AgentError, OSError) as error:
            return Answer(str(path), "rejected", _text_of(error))
        if not state:
            found = NotYet(path, "unknown", _UNKNOWN)
        if isinstance(found, Recording):
            return self._intake.ask(found, trigger=trigger, ask=ask, reason=reason)
        if isinstance(found, Damaged):
            return Answer(str(path), "rejected", _damage(found))
        return found

    def _examine(
        self, path: Path, state: str, *, send_damaged: bool
    ) -> Recording | Damaged | NotYet:
        """Return what the file is. What has waited long enough in this ``state`` waits no more.

        Raises RecordingError and OSError.
        """
        if state == "unfinished":
            raise RecordingError(
                "it has no end, and no program writes to it", hint="see watch.unfinished"
            )
        is_over = state in ("complete", "skipped", "damaged")
        return self._examiner.look(
            path,
            # A file that waits for a compressor has had its time for a sidecar.
            sidecar_overdue=state != "waiting" or path.with_name(path.name + COMPRESSED).exists(),
            writer_overdue=is_over,
            done_overdue=is_over,
            end_overdue=is_over,
            # A complete plain file can be sent at any time, and a person asks for it.
            compressor_overdue=True,
            send_damaged=send_damaged,
        )

    def episode(
        self, episode_id: str, *, ask: Ask, trigger: Trigger, reason: str = ""
    ) -> Sequence[Answer]:
        """Ask for every recording of an episode."""
        with self._history.transaction():
            newest = {
                log.fingerprint: self._history.newest(log.fingerprint)
                for log in self._history.of_episode(episode_id)
            }
            answers = [
                self._ask_for(log, episode_id, ask=ask, trigger=trigger, reason=reason)
                for log in newest.values()
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
        """Ask for each of these files that is a recording now; the work is done while iterating.

        A damaged file is not sent, because nobody has named it.
        """
        for path in paths:
            found = self.at(path, ask=ask, trigger=trigger, reason=reason, send_damaged=False)
            if isinstance(found, Answer):
                yield found

    def _ask_for(
        self,
        log: SyncLog,
        target: str,
        *,
        ask: Ask,
        trigger: Trigger,
        reason: str,
        send_damaged: bool = True,
    ) -> Answer:
        """Ask for the recording of its newest document, wherever the recording is now.

        An open document needs no search for the file.
        """
        if log.open:
            return self._intake.expedite(log, target, ask)
        found = self._find(log, send_damaged=send_damaged)
        if not isinstance(found, Recording):
            why = _damage(found) if found is not None else _GONE
            return Answer(target, "rejected", f"{log.path}: {why}", log.episode_id)
        answer = self._intake.ask(found, trigger=trigger, ask=ask, reason=reason)
        return Answer(target, answer.status, answer.message, answer.episode_id)

    def _find(self, log: SyncLog, *, send_damaged: bool) -> Recording | Damaged | None:
        """Return the recording of a document, at its old path or where discovery knows it."""
        found = self._first_match([Path(log.path)], log, send_damaged=send_damaged)
        if found is None:
            places = self._names(log.fingerprint)
            found = self._first_match(places, log, send_damaged=send_damaged)
        return found

    def _first_match(
        self, paths: Sequence[Path], log: SyncLog, *, send_damaged: bool
    ) -> Recording | Damaged | None:
        """Return the first file that has the fingerprint of the document; None for none."""
        for path in paths:
            try:
                found = self._examiner.look_now(path, send_damaged=send_damaged)
            except (AgentError, OSError):
                continue
            if not isinstance(found, NotYet) and str(found.fingerprint) == log.fingerprint:
                return found
        return None


def is_folder(target: str) -> bool:
    """Return whether a target is a folder that the agent's user can see.

    Path.is_dir would raise an error where a folder above is closed to this user.
    """
    return os.path.isabs(target) and os.path.isdir(target)  # noqa: PTH112, PTH117 - see above


def _damage(found: Damaged) -> str:
    """Return what an answer says of a damaged file that was not named."""
    return f"it is damaged: {found.reason}; a resync of its path sends it as it is"


def _text_of(error: AgentError | OSError) -> str:
    """Return what an answer says of an error."""
    if isinstance(error, AgentError):
        return "; ".join(filter(None, (error.message, error.hint)))
    return f"it can't be read: {error.strerror}"
