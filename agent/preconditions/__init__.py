"""The checks behind `keystone-agent check`: everything that must be so before an upload.

The state folder is only read. What a check starts in the cloud is aborted again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from agent.adapters.config import Settings
from agent.model.ports import Clock
from agent.preconditions.cloud import CloudChecks
from agent.preconditions.host import REMEDIES, HostChecks, full_disk
from agent.preconditions.table import Finding, findings
from agent.preconditions.user import become_owner, current_user

__all__ = ["REMEDIES", "Finding", "become_owner", "current_user", "full_disk", "preconditions"]


def preconditions(
    settings: Settings, environ: Mapping[str, str], clock: Clock, hide: Callable[..., None]
) -> Iterator[Finding]:
    """Check all preconditions one after the other, and yield each finding at once.

    A check takes about 10 s at most. ``hide`` is called with each secret that becomes known, so
    that the caller can keep secrets out of the findings.
    """
    cloud_checks = CloudChecks(settings, environ, clock, hide)
    host_checks = HostChecks(settings, clock)
    try:
        yield from findings([*host_checks.preconditions(), *cloud_checks.preconditions()])
    finally:
        cloud_checks.close()
