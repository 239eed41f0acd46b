"""Runs the real command and kills it by SIGKILL before one of its durable steps.

Run as a program: ``python -m tests.harness.kill_at_step STEP ARGUMENTS…``. A step is each fsync,
and each removal or renaming of a touch file, because a power cut can happen between any two of
them. Steps count from 1. A command with fewer steps is not killed.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_MARKED = (".resync", ".first", ".request", "/markers/", ".rejected")


def _arm(step: int) -> None:
    count = itertools.count(1)

    def stepped() -> None:
        if next(count) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def stepping(act: Callable[[int], None]) -> Callable[[int], None]:
        def acted(descriptor: int) -> None:
            stepped()
            act(descriptor)

        return acted

    def audited(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.remove", "os.rename") and any(
            mark in str(arguments[0]) for mark in _MARKED
        ):
            stepped()

    os.fsync, os.fdatasync = stepping(os.fsync), stepping(os.fdatasync)  # type: ignore[assignment]
    sys.addaudithook(audited)


if __name__ == "__main__":
    _arm(int(sys.argv.pop(1)))
    from agent.__main__ import main

    main()
