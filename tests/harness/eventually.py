"""Waits for what comes true by and by in another thread or process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LOOKS, _LOOK_EVERY = 600, 0.1  # seconds


def eventually(
    look: Callable[[], T | None], why: Callable[[], str] = lambda: "it never came true"
) -> T:
    """The first that ``look`` gives and that is true; fails with what ``why`` says after a minute or more."""
    nap = threading.Event()
    for _ in range(_LOOKS):
        if found := look():
            return found
        nap.wait(_LOOK_EVERY)
    raise AssertionError(why())
