"""Does what a marker asks for, and says how it came out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from agent.model.errors import RefusedError
from agent.model.ports import History
from agent.model.sync_log import Marker
from agent.model.touch_files import FIRST, REQUEST, target_of
from agent.model.values import Answer, Ask
from agent.operations import marker_file
from agent.operations.asset_binding import Bindings
from agent.operations.marker_batch import MarkerBatch, remembered
from agent.operations.marker_file import Binding, MarkerRejectedError, MarkerRequest
from agent.operations.requests import Requests, is_folder

# Below this folder lies everything, so it stands for all watched folders.
_EVERYWHERE = Path("/")


class MarkerAnswers:
    """Answers markers with the means of operators' requests.

    A recording that a marker names may not be found yet. So a marker is rejected only after the
    disk was searched, and waits until then.

    Used by the thread of the markers, within a transaction of the history.
    """

    def __init__(
        self,
        *,
        folder: Path,
        history: History,
        requests: Requests,
        bindings: Bindings,
        is_scanned: Callable[[Path], bool],
        is_examined: Callable[[Path, Path], bool],
    ) -> None:
        """Join the parts.

        Args:
            folder: The folder of the markers that name episodes.
            history: Remembers how far the marker of a folder was handled.
            requests: Does what is asked for.
            bindings: Binds robots to assets.
            is_scanned: Whether a full scan has begun after the marker at a path was seen, and has
                ended.
            is_examined: Whether all files of a folder, and below, that were there when the marker
                at a path was seen have been examined. The marker is the first argument.
        """
        self._folder = folder
        self._history = history
        self._requests = requests
        self._bindings = bindings
        self._is_scanned = is_scanned
        self._is_examined = is_examined

    def answer(self, marker: Marker, batch: MarkerBatch) -> Answer | None:
        """Do what a marker asks for; None while the marker has to wait.

        Raises MarkerRejectedError, HistoryFullError, and CloudError, WaitingError and OSError where
        the files of profiles and assets can't be used now.
        """
        path = Path(marker.path)
        if path.name.endswith(REQUEST):
            return self._answer_request(marker, batch)
        ask: Ask = "first" if path.name.endswith(FIRST) else "resync"
        target = target_of(path.name) or ""
        reason = marker_file.reason_in(path) if ask == "resync" else ""
        if path.parent == self._folder:
            answers = self._requests.episode(target, ask=ask, trigger="marker", reason=reason)
            return self._final_answer(path, answers)
        if not target:
            request = MarkerRequest(ask, "marker", reason)
            return self._answer_folder(marker, path.parent, request, batch)
        found = self._requests.at(path.parent / target, ask=ask, trigger="marker", reason=reason)
        if isinstance(found, Answer):
            return found
        if found.why == "unknown" and self._is_scanned(path):
            raise MarkerRejectedError(f"{found.path}: {found.message}")
        return None

    def _answer_folder(
        self, marker: Marker, folder: Path, request: MarkerRequest, batch: MarkerBatch
    ) -> Answer | None:
        """Do what is asked for all recordings of a folder, as many as the batch can take.

        The history remembers the last recording that was handled, and the next batch goes on
        behind it. Then the answer is None.
        """
        path, known = Path(marker.path), remembered(self._history, marker)
        if not self._is_scanned(path) or not self._is_examined(path, folder):
            return None
        through = (known.through if known else None) or ""
        paths = [below for below in self._requests.below(folder) if str(below) > through]
        if not paths and not through:
            raise MarkerRejectedError(f"there is no finished recording in {folder} or below")
        count = max(1, batch.capacity)
        current, rest = paths[:count], paths[count:]
        batch.capacity -= len(current)
        # The answers for single recordings are of no use, but iterating over them asks.
        for _ in self._requests.each(
            current, ask=request.ask, trigger=request.trigger, reason=request.reason
        ):
            pass
        if rest:
            self._history.mark_served(replace(marker, through=str(current[-1])))
            return None
        return Answer(str(folder), "accepted", "all recordings of the folder")

    def _answer_request(self, marker: Marker, batch: MarkerBatch) -> Answer | None:
        """Do what a command asked for while no agent ran."""
        path = Path(marker.path)
        request = marker_file.request_in(path)
        if isinstance(request, Binding):
            return self._bind(request)
        if is_folder(request.target):
            return self._answer_folder(marker, Path(request.target), request, batch)
        answers = self._requests.ask(
            request.target, ask=request.ask, trigger=request.trigger, reason=request.reason
        )
        return self._final_answer(path, answers)

    def _bind(self, request: Binding) -> Answer:
        try:
            if request.asset is None:
                self._bindings.unbind(request.robot)
            else:
                self._bindings.bind(request.robot, request.asset)
        except RefusedError as error:
            message = f"{request.robot}: {error.message}; {error.hint}"
            raise MarkerRejectedError(message) from error
        return Answer(request.robot, "accepted", f"bound to {request.asset or 'no asset'}")

    def _final_answer(self, path: Path, answers: Sequence[Answer]) -> Answer | None:
        """Return one answer for all; None while only refusals were given and files are unexamined.

        A file that is still unexamined may be the recording that was asked for.
        """
        for answer in answers:
            if is_accepted(answer):
                return answer
        return answers[0] if self._is_examined(path, _EVERYWHERE) else None


def is_accepted(answer: Answer) -> bool:
    """Return whether what was asked for will happen."""
    return answer.status in ("accepted", "already_queued")
