"""Everything that must be so before a recording can reach the bucket, in order: what `check` looks at.

The state folder is only read, and what is begun in the cloud is given up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from agent.adapters.config import Settings
from agent.model.ports import Clock
from agent.preconditions.cloud import Way
from agent.preconditions.host import REMEDIES, Robot, full_disk
from agent.preconditions.table import Finding, findings
from agent.preconditions.user import become_owner, me

__all__ = ["REMEDIES", "Finding", "become_owner", "full_disk", "me", "preconditions"]


def preconditions(
    settings: Settings, environ: Mapping[str, str], clock: Clock, hide: Callable[..., None]
) -> Iterator[Finding]:
    """Look at one after the other, each for some 10 s at most. ``hide`` is told each secret."""
    way = Way(settings, environ, clock, hide)
    try:
        yield from findings([*Robot(settings, clock).preconditions(), *way.preconditions()])
    finally:
        way.close()
