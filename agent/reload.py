"""What another configuration changes while the agent runs, and what only a restart can."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from agent.edges.config import KEYS, Settings

Asked = Literal["stop", "reload"]

NEEDS_RESTART = tuple(key for key in KEYS if key.startswith(("agent.", "bucket.")) or key == "cloud.mode")
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
        settings, frozenset(_unlike(old, settings)), [key for key in _unlike(old, new) if key in NEEDS_RESTART]
    )


def _unlike(one: Settings, other: Settings) -> Sequence[str]:
    return [key for key in KEYS if attrgetter(key)(one) != attrgetter(key)(other)]


def next_asked(asked: queue.SimpleQueue[Asked], seconds: float) -> Asked | None:
    """What is asked for within that time; many reloads are one, and a stop is more urgent."""
    waiting: set[Asked] = set()
    with suppress(queue.Empty):
        waiting.add(asked.get(timeout=seconds))
        while True:
            waiting.add(asked.get_nowait())
    return "stop" if "stop" in waiting else "reload" if waiting else None
