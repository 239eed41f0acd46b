"""The markers of one transaction of the history: which were handled, and which were rejected."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.model.ports import History
from agent.model.sync_log import Marker


@dataclass(frozen=True, slots=True)
class Rejection:
    """A marker that can't be handled, and why."""

    marker: Marker
    reason: str


@dataclass(slots=True)
class MarkerBatch:
    """What one transaction of the history did with markers.

    ``capacity`` is the number of documents that the transaction may still write.
    """

    capacity: int
    handled: list[Marker] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)


def remembered(history: History, marker: Marker) -> Marker | None:
    """Return what the history knows of this marker; None where it knows nothing.

    An earlier marker at the same path is another marker, so inode and time must be the same.
    """
    known = history.marker(marker.path)
    if known is None or (known.inode, known.mtime_ns) != (marker.inode, marker.mtime_ns):
        return None
    return known
