"""Imitates a robot that has no more file descriptors or threads."""

from __future__ import annotations

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Let this process open nothing more during the block. Open files stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    # A number below the limit may still be free. This call takes it.
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    taken = os.open("/dev/null", os.O_RDONLY)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken)


class NoThreads:
    """Refuses new threads while ``lacking`` is true.

    ``refused_event`` is set when a thread was refused.
    """

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
