"""Scripts that say which call gets which fault. Both proxies use them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Fault = TypeVar("Fault")
FOREVER = 1_000_000


@dataclass(frozen=True)
class Line(Generic[Fault]):
    """One line of a script: a fault for calls number ``first`` to ``last`` that match ``fits``."""

    fits: Callable[[str], bool]
    first: int
    last: int
    fault: Fault


class Script(Generic[Fault]):
    """Counts calls by name and returns the fault for each. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[int, Line[Fault]] = {}
        self._counts: Counter[int] = Counter()

    def on(self, *calls: str, fault: Fault, nth: int = 1, times: int = 1) -> None:
        """Let some of the named calls fail. Without names, any call counts.

        Calls count from now on: number ``nth`` and the following fail, ``times`` in all.
        """
        with self._lock:
            number = len(self._counts)
            self._counts[number] = 0
            self._lines[number] = Line(
                lambda call: not calls or call in calls, nth, nth + times - 1, fault
            )

    def mend(self) -> None:
        """Remove all faults."""
        with self._lock:
            self._lines.clear()

    def due(self, call: str) -> Fault | None:
        """Count this call, and return its fault or None."""
        found = None
        with self._lock:
            for number, line in self._lines.items():
                if line.fits(call):
                    self._counts[number] += 1
                    if found is None and line.first <= self._counts[number] <= line.last:
                        found = line.fault
        return found
