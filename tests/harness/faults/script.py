"""Which call gets which fault: the part of a test that both proxies read."""

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
    """Calls number ``first`` to ``last`` of those that ``fits`` says yes to get ``fault``."""

    fits: Callable[[str], bool]
    first: int
    last: int
    fault: Fault


class Script(Generic[Fault]):
    """Counts calls by name and hands out the fault that is due. May be changed while calls come in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lines: dict[int, Line[Fault]] = {}
        self._counts: Counter[int] = Counter()

    def on(self, *calls: str, fault: Fault, nth: int = 1, times: int = 1) -> None:
        """Let ``times`` of the named calls (all, where none is named) fail, from the ``nth`` that comes from now on."""
        with self._lock:
            number = len(self._counts)
            self._counts[number] = 0
            self._lines[number] = Line(
                lambda call: not calls or call in calls, nth, nth + times - 1, fault
            )

    def mend(self) -> None:
        """From now on nothing fails."""
        with self._lock:
            self._lines.clear()

    def due(self, call: str) -> Fault | None:
        """What this call gets."""
        found = None
        with self._lock:
            for number, line in self._lines.items():
                if line.fits(call):
                    self._counts[number] += 1
                    if found is None and line.first <= self._counts[number] <= line.last:
                        found = line.fault
        return found
