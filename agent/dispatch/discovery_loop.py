"""Sightings in, documents out: waits for what is due, and puts back what could not be taken."""

from __future__ import annotations

import logging
import queue
from collections.abc import Sequence
from contextlib import suppress

from agent.discovery.discover import Discover
from agent.dispatch.intake import Intake
from agent.model.errors import HistoryFullError
from agent.model.ports import Clock
from agent.model.values import Damaged, Recording, Sighting

_log = logging.getLogger(__name__)

# An infinite wait, or another one that the platform can't count, would be an error each time. After
# a wait of this length nothing may be due; then the next wait begins.
_LONGEST_WAIT_SECONDS = 3600.0


class DiscoveryLoop:
    """Used by one thread."""

    def __init__(
        self,
        discover: Discover,
        intake: Intake,
        sightings: queue.Queue[Sighting | None],
        clock: Clock,
    ) -> None:
        """``sightings`` is where whoever watches the disk puts them; None only ends the wait.

        It is no SimpleQueue: on Python 3.10 a timed get of one can wait without a limit.
        """
        self._discover = discover
        self._intake = intake
        self._sightings = sightings
        self._clock = clock
        self.looks = 0  # how often the disk was looked at

    def once(self) -> bool:
        """Wait for a sighting or for what is due, and take in what was found; tells whether there is new work.

        Raises HistoryFullError when a document could not be written; what it was for is found again.
        """
        wait = max(0.0, self._discover.next_step() - self._clock.monotonic())
        wait = min(wait, _LONGEST_WAIT_SECONDS)
        with suppress(queue.Empty):
            self._sight(self._sightings.get(timeout=wait))
            while True:
                self._sight(self._sightings.get_nowait())
        found = self._discover.step()
        self.looks += 1
        return bool(found) and self._taken(found)

    def _sight(self, sighting: Sighting | None) -> None:
        if sighting is not None:
            self._discover.sight(sighting)

    def _taken(self, found: Sequence[Recording | Damaged]) -> bool:
        """Whether some of it is new work. Raises HistoryFullError.

        Whatever keeps it from being written down, it is found again.
        """
        try:
            with self._intake.together():
                new = [self._accepted(item) for item in found]
        except Exception:
            for item in found:
                self._discover.again(item.path)
            raise
        return any(new)

    def _accepted(self, found: Recording | Damaged) -> bool:
        """Whether it is new work. Raises HistoryFullError."""
        try:
            return self._intake.accept(found) is not None
        except HistoryFullError:
            raise
        except Exception:  # noqa: BLE001 - one recording's trouble is not the others'
            self._discover.again(found.path)
            _log.exception(
                "could not take in %s; it is tried again", found.path, extra={"event": "bug"}
            )
            return False
