"""Waits until a condition holds that another thread or process brings about."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# The condition is checked so often, with this time between two checks: for a minute in all.
_ATTEMPTS = 600
_POLL_SECONDS = 0.1


def eventually(
    condition: Callable[[], T | None], why: Callable[[], str] = lambda: "the condition never held"
) -> T:
    """Call ``condition`` until it returns a true value, and return that value.

    Fails after a minute or more with the text that ``why`` returns.
    """
    pause = threading.Event()
    for _ in range(_ATTEMPTS):
        if found := condition():
            return found
        pause.wait(_POLL_SECONDS)
    raise AssertionError(why())
