"""Deletes markers that were handled, and replaces rejected ones by the reason.

A marker is deleted only after what it asks for is durable. So a marker that is seen again was not
deleted, and the history knows whether it was handled.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.model.ports import History
from agent.model.sync_log import Marker
from agent.operations import marker_file
from agent.operations.marker_batch import Rejection

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class RemovedMarkers:
    """The markers of one batch that were deleted, and those that were logged as not deletable."""

    deleted: list[Marker] = field(default_factory=list)
    newly_kept: list[Marker] = field(default_factory=list)


class MarkerRemoval:
    """Deletes markers one by one, and remembers those that can't be deleted.

    A marker in a read-only folder stays there. The log names it once, also across restarts.

    One thread uses this class; any thread may call :meth:`kept`.
    """

    def __init__(self, history: History) -> None:
        """``history`` knows which markers were handled and not deleted."""
        self._history = history
        self._kept: dict[Path, Marker] = {}

    def kept(self) -> Sequence[Path]:
        """Return the markers that were handled or rejected and can't be deleted."""
        return tuple(self._kept)

    def forget(self, path: Path) -> None:
        """Note that there is no marker at ``path`` any more."""
        self._kept.pop(path, None)

    def delete_handled(self, marker: Marker, removed: RemovedMarkers) -> None:
        """Delete a marker that was handled, and note in ``removed`` what became of it."""
        try:
            marker_file.unlink(marker)
        except OSError as error:
            text = (
                "marker %s was handled but could not be deleted (%s). "
                "Delete it, or leave it: it will not be handled again"
            )
            self._keep(marker, text, error, removed)
        else:
            self._note_deleted(marker, removed)

    def replace_by_reason(self, rejection: Rejection, removed: RemovedMarkers) -> None:
        """Put the reason in the place of a rejected marker, and note what became of the marker."""
        marker, path = rejection.marker, Path(rejection.marker.path)
        if not marker.said:
            _log.warning(
                "marker %s was rejected: %s",
                path,
                rejection.reason,
                extra={"event": "marker_rejected", "path": str(path)},
            )
        try:
            marker_file.leave_reason(path, rejection.reason)
            marker_file.unlink(marker)
        except OSError as error:
            text = "could not write the reason why %s was rejected: %s"
            self._keep(marker, text, error, removed)
        else:
            self._note_deleted(marker, removed)

    def finish(self, removed: RemovedMarkers) -> None:
        """Make the deletions durable, then note them in the history. Raises HistoryFullError.

        The history remembers a deleted marker where a power cut may bring the marker back.
        """
        folders = {Path(marker.path).parent for marker in removed.deleted}
        not_durable = {folder for folder in folders if not marker_file.is_synced(folder)}
        known = (marker.path for marker in removed.deleted if self._history.marker(marker.path))
        forgotten = [path for path in known if Path(path).parent not in not_durable]
        if not forgotten and not removed.newly_kept:
            return
        with self._history.transaction():
            for marker in removed.newly_kept:
                self._history.mark_served(marker)
            for name in forgotten:
                self._history.forget_marker(name)

    def _note_deleted(self, marker: Marker, removed: RemovedMarkers) -> None:
        self._kept.pop(Path(marker.path), None)
        removed.deleted.append(marker)

    def _keep(self, marker: Marker, text: str, error: OSError, removed: RemovedMarkers) -> None:
        """Remember a marker that can't be deleted, and log ``text`` if it was not logged before."""
        path = Path(marker.path)
        self._kept[path] = marker
        if not marker.said:
            why = error.strerror or str(error)
            _log.warning(text, path, why, extra={"event": "marker_kept", "path": str(path)})
            removed.newly_kept.append(replace(marker, said=True))
