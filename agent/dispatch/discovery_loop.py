"""Takes in what discovery finds: waits for the next step, and makes documents of the results."""

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

# The longest single wait. The platform refuses an infinite wait. After this time nothing may be
# due, and then the next wait begins.
_LONGEST_WAIT_SECONDS = 3600.0


class DiscoveryLoop:
    """Connects the watching of the disk, discovery and intake.

    One thread calls :meth:`once` again and again. Other threads only put sightings into the queue.
    """

    def __init__(
        self,
        discover: Discover,
        intake: Intake,
        sightings: queue.Queue[Sighting | None],
        clock: Clock,
    ) -> None:
        """Begin with no step done.

        Args:
            discover: Finds recordings.
            intake: Makes their documents.
            sightings: Hints from those who watch the disk; None only ends a wait. This is no
                SimpleQueue: on Python 3.10 a timed ``get`` of one can wait without a limit.
            clock: Says when the next step is due.
        """
        self._discover = discover
        self._intake = intake
        self._sightings = sightings
        self._clock = clock
        # How many steps were done. The health check watches this number.
        self.rounds = 0

    def once(self) -> bool:
        """Wait for a sighting or for the next step, do the step, and return whether there is work.

        Raises HistoryFullError when a document could not be written; its recording is found again.
        """
        wait = max(0.0, self._discover.next_step() - self._clock.monotonic())
        wait = min(wait, _LONGEST_WAIT_SECONDS)
        with suppress(queue.Empty):
            self._pass_on(self._sightings.get(timeout=wait))
            while True:
                self._pass_on(self._sightings.get_nowait())
        for path in self._intake.take_found_again():
            self._discover.again(path)
        found = self._discover.step()
        self.rounds += 1
        return bool(found) and self._take_in(found)

    def _pass_on(self, sighting: Sighting | None) -> None:
        if sighting is not None:
            self._discover.sight(sighting)

    def _take_in(self, found: Sequence[Recording | Damaged]) -> bool:
        """Make documents of what was found; return whether any of it is new work.

        Raises HistoryFullError. Whatever fails, the recordings are found again.
        """
        try:
            with self._intake.together():
                new = [self._accept(item) for item in found]
        except Exception:
            for item in found:
                self._discover.again(item.path)
            raise
        return any(new)

    def _accept(self, found: Recording | Damaged) -> bool:
        """Return whether this is new work. Raises HistoryFullError."""
        try:
            return self._intake.accept(found) is not None
        except HistoryFullError:
            raise
        except Exception:  # noqa: BLE001 - an error of one recording must not stop the others
            self._discover.again(found.path)
            _log.exception(
                "could not take in %s; it is tried again", found.path, extra={"event": "bug"}
            )
            return False
