"""Builds the parts that show the agent to others: its health, its status and its metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent.adapters.config import Settings
from agent.assembly.cloud_connection import CloudConnection
from agent.assembly.discovery_service import DiscoveryService
from agent.assembly.shared_parts import SharedParts
from agent.dispatch.dispatch import Dispatch
from agent.observe.health import Health, HealthFault, ProgressCheck, StateCheck
from agent.observe.metrics_collector import MetricsCollector
from agent.observe.status_snapshot import StatusSnapshot
from agent.operations.markers import Markers
from agent.retention.retention import Retention

if TYPE_CHECKING:
    from agent.adapters.metrics_endpoint import MetricsEndpoint

# How long the dispatcher may take from one check of the queue to the next.
_DISPATCH_MAX_SECONDS = 60.0

# How long a scan may be overdue. Scans of large or slow disks take minutes.
_SCAN_OVERDUE_SECONDS = 600.0


def build_health(
    settings: Settings, shared: SharedParts, discovery: DiscoveryService, dispatch: Dispatch
) -> Health:
    """Return the health of these parts.

    Only faults that a restart really cures have the cure "restart". A network disk that does not
    answer hangs after a restart, too.
    """
    scan_max_seconds = settings.watch.rescan_seconds + _SCAN_OVERDUE_SECONDS
    return Health(
        states=[
            StateCheck(
                HealthFault(
                    "scheduler_stopped", "the scheduler has stopped: restart the agent", "restart"
                ),
                lambda: shared.ports.scheduler.running,
            ),
            StateCheck(
                HealthFault(
                    "discovery_stopped",
                    "the search for new recordings has stopped: restart the agent",
                    "restart",
                ),
                lambda: discovery.alive,
            ),
            StateCheck(
                HealthFault(
                    "watcher_stopped",
                    "changes in a watched folder are not noticed, only scans find new recordings:"
                    " see the log",
                    "wait",
                ),
                lambda: discovery.watcher.alive,
            ),
            StateCheck(
                HealthFault(
                    "history_closed", "the history is closed: restart the agent", "restart"
                ),
                lambda: not shared.history.closed,
            ),
        ],
        progress=[
            ProgressCheck(
                HealthFault(
                    "dispatch_stuck",
                    f"the queue was not checked for {_DISPATCH_MAX_SECONDS:.0f} s:"
                    " restart the agent",
                    "restart",
                ),
                lambda: dispatch.ticks,
                _DISPATCH_MAX_SECONDS,
            ),
            ProgressCheck(
                HealthFault(
                    "scan_stuck",
                    f"no scan has finished for {scan_max_seconds:.0f} s."
                    " Is a watched folder on a network disk that does not answer?",
                    "operator",
                ),
                lambda: discovery.loop.rounds,
                scan_max_seconds,
            ),
        ],
    )


def build_snapshot(
    shared: SharedParts,
    *,
    connection: CloudConnection,
    discovery: DiscoveryService,
    dispatch: Dispatch,
    markers: Markers,
    retention: Retention | None,
) -> StatusSnapshot:
    """Return the part that makes the agent's status document."""

    def not_deleted() -> Sequence[Mapping[str, Any]]:
        return retention.kept() if retention is not None else ()

    return StatusSnapshot(
        device_id=shared.ports.robot,
        history=shared.history,
        gate=shared.gate,
        dispatch=dispatch,
        discover=discovery.discover,
        credentials=connection.credentials,
        watcher_up=lambda: discovery.watcher.alive,
        watch_failures=lambda: discovery.watcher.failures,
        unasked=lambda: discovery.intake.unasked,
        waiting_markers=markers.waiting,
        clock=shared.clock,
        settings=shared.configuration.as_json,
        fault=connection.profile_fault,
        upgrade=shared.upgrade if shared.upgraded else None,
        not_deleted=not_deleted,
    )


def build_metrics_endpoint(
    settings: Settings,
    shared: SharedParts,
    *,
    connection: CloudConnection,
    discovery: DiscoveryService,
    dispatch: Dispatch,
    health: Health,
) -> MetricsEndpoint | None:
    """Return the server of /metrics and /healthz, or None if no setting asks for it."""
    listen, textfile = settings.metrics.listen, settings.metrics.textfile
    if not listen and textfile is None:
        return None
    from agent.adapters.metrics_endpoint import MetricsEndpoint  # noqa: PLC0415 - its library costs 14 MiB

    collector = MetricsCollector(
        history=shared.history,
        dispatch=dispatch,
        gate=shared.gate,
        credentials=connection.credentials,
        discover=discovery.discover,
        watcher_up=lambda: discovery.watcher.alive,
        clock=shared.clock,
        built=shared.ports.built,
        folders=[*settings.watch.roots, shared.state_dir],
    )
    return MetricsEndpoint(listen, textfile, collector.take, health.messages)
