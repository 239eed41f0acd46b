"""A robot that lacks something: file descriptors, or threads."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing more while the block lasts; what is open stays open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    # Numbers below the limit may still be free, so they are taken.
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    taken = os.open("/dev/null", os.O_RDONLY)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken)


class NoThreads:
    """Makes the system refuse new threads, while ``lacking``; ``refused_event`` is set when it has refused one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.lacking = False
        self.refused_event = threading.Event()
        start = threading.Thread.start

        def refuse_or_start(thread: threading.Thread) -> None:
            if self.lacking:
                self.refused_event.set()
                raise RuntimeError("can't start new thread")
            start(thread)

        patch.setattr(threading.Thread, "start", refuse_or_start)
