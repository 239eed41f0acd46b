"""Requests to stop or reload the agent, and which settings a reload changes."""

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

# The settings that a reload cannot change: the robot's id, the folder of its state, and the place
# to which its upload sessions belong.
NEEDS_RESTART = tuple(
    key for key in KEYS if key.startswith(("agent.", "bucket.")) or key == "cloud.mode"
)


@dataclass(frozen=True, slots=True)
class Change:
    """What a new configuration changes.

    ``settings`` are in force from now on. ``keys`` have changed in them. ``restart_for`` are the
    keys whose new values need a restart. Their old values stay in ``settings``.
    """

    settings: Settings
    keys: frozenset[str]
    restart_for: Sequence[str]

    def touches(self, *beginnings: str) -> bool:
        """Return whether a key that starts with one of ``beginnings`` has changed.

        A beginning is a key or a section with its dot, such as ``watch.``.
        """
        return any(key.startswith(beginnings) for key in self.keys)


def change(old: Settings, new: Settings) -> Change:
    """Return what changes when an agent that works by ``old`` is to work by ``new``."""
    mode = new.cloud.model_copy(update={"mode": old.cloud.mode})
    settings = new.model_copy(update={"agent": old.agent, "bucket": old.bucket, "cloud": mode})
    return Change(
        settings,
        frozenset(_changed_keys(old, settings)),
        [key for key in _changed_keys(old, new) if key in NEEDS_RESTART],
    )


def _changed_keys(old: Settings, new: Settings) -> Sequence[str]:
    return [key for key in KEYS if attrgetter(key)(old) != attrgetter(key)(new)]


class AskedQueue:
    """The requests to this process, made by signals and by other threads.

    A signal handler runs in the middle of whatever the main thread does. So it may take no lock
    that the main thread may hold, and ``queue.Queue`` has one. A timed get of a
    ``queue.SimpleQueue`` can wait without a limit on Python 3.10. Here a handler appends to a
    deque, which no other handler can interrupt, and writes a byte to a pipe, which ends the wait.

    ``put`` may be called by signal handlers and any thread, ``next`` by one thread.
    """

    def __init__(self) -> None:
        """Create the pipe that ends a wait."""
        self._asked: deque[Asked] = deque()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    def put(self, ask: Asked) -> None:
        """Add a request."""
        self._asked.append(ask)
        # A full pipe ends the wait as well.
        with suppress(BlockingIOError):
            os.write(self._writer, b"!")

    def next(self, seconds: float) -> Asked | None:
        """Return the request that comes within ``seconds``, at most an hour, or None.

        Several requests to reload count as one. A request to stop goes before all others.
        """
        if self._poll.poll(math.ceil(min(max(0.0, seconds), _LONGEST_WAIT_SECONDS) * 1000)):
            # The bytes are removed before the requests. So a request that comes from here on ends
            # the next wait.
            with suppress(BlockingIOError):
                while os.read(self._reader, 4096):
                    pass
        waiting: set[Asked] = set()
        with suppress(IndexError):
            while True:
                waiting.add(self._asked.popleft())
        if "stop" in waiting:
            return "stop"
        return "reload" if waiting else None

    def fileno(self) -> int:
        """Return the descriptor on which a byte ends the wait, for ``signal.set_wakeup_fd``.

        Python runs the handler of a signal between two steps of the program. The handler of a
        signal that comes just before the wait would run after it. The byte is written at once, so
        it ends the wait.
        """
        return self._writer

    def close(self) -> None:
        """Close the pipe. No method may be called afterwards."""
        os.close(self._reader)
        os.close(self._writer)
