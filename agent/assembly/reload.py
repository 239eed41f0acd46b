"""What signals ask for, and what another configuration changes with and without a restart."""

from __future__ import annotations

import math
import os
import select
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from agent.adapters.config import KEYS, Settings

Asked = Literal["stop", "reload"]

# poll(2) counts milliseconds in 32 bits, so a longer wait would be an error.
_LONGEST_WAIT_SECONDS = 3600.0

NEEDS_RESTART = tuple(
    key for key in KEYS if key.startswith(("agent.", "bucket.")) or key == "cloud.mode"
)
"""Who this robot is, where it keeps what it knows, and to which place its sessions belong."""


@dataclass(frozen=True, slots=True)
class Change:
    """The settings that hold from now on, the keys that have changed, and those that wait for a restart."""

    settings: Settings
    keys: frozenset[str]
    restart_for: Sequence[str]

    def touches(self, *beginnings: str) -> bool:
        """Whether any of these keys, or any key of these sections (``watch.``), has changed."""
        return any(key.startswith(beginnings) for key in self.keys)


def change(old: Settings, new: Settings) -> Change:
    """What becomes of an agent that works with ``old`` and is to work with ``new``."""
    mode = new.cloud.model_copy(update={"mode": old.cloud.mode})
    settings = new.model_copy(update={"agent": old.agent, "bucket": old.bucket, "cloud": mode})
    return Change(
        settings,
        frozenset(_unlike(old, settings)),
        [key for key in _unlike(old, new) if key in NEEDS_RESTART],
    )


def _unlike(one: Settings, other: Settings) -> Sequence[str]:
    return [key for key in KEYS if attrgetter(key)(one) != attrgetter(key)(other)]


class AskedQueue:
    """What this process is asked for by signals, and by other threads.

    A signal handler runs in the middle of whatever the main thread does. So it may take no lock
    that the main thread may hold, and ``queue.Queue`` has one. A timed get of a
    ``queue.SimpleQueue`` can wait without a limit on Python 3.10. Here a handler appends to a deque,
    which no other handler can interrupt, and writes a byte to a pipe, which ends the wait.

    ``put`` may be called by signal handlers and any thread, ``next`` by one thread.
    """

    def __init__(self) -> None:
        """Nothing is asked for yet."""
        self._asked: deque[Asked] = deque()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def put(self, ask: Asked) -> None:
        """Ask for it."""
        self._asked.append(ask)
        with suppress(BlockingIOError):  # a pipe that is full ends the wait as well
            os.write(self._writer, b"!")

    def next(self, seconds: float) -> Asked | None:
        """What is asked for within that time, an hour at most.

        Many reloads are one, and a stop is more urgent.
        """
        if self._poll.poll(math.ceil(min(max(0.0, seconds), _LONGEST_WAIT_SECONDS) * 1000)):
            # The bytes go first: what is asked for from here on ends the next wait.
            with suppress(BlockingIOError):
                while os.read(self._reader, 4096):
                    pass
        waiting: set[Asked] = set()
        with suppress(IndexError):
            while True:
                waiting.add(self._asked.popleft())
        return "stop" if "stop" in waiting else "reload" if waiting else None

    def fileno(self) -> int:
        """Where a byte ends the wait, for ``signal.set_wakeup_fd``.

        Python runs the handler of a signal between two steps of the program. The handler of a signal
        that comes just before the wait would run after it. The byte is written at once, so it ends
        the wait.
        """
        return self._writer

    def close(self) -> None:
        """Give the pipe back; nothing may be asked for afterwards."""
        os.close(self._reader)
        os.close(self._writer)
