"""Builds the parts that delete uploaded recordings and remove old documents from the history."""

from __future__ import annotations

from agent.adapters.config import Settings
from agent.assembly.cloud_connection import CloudConnection
from agent.assembly.discovery_service import DiscoveryService
from agent.assembly.feature_settings import delays
from agent.assembly.shared_parts import SharedParts
from agent.dispatch.dispatch import Dispatch
from agent.retention.clock_safe_age import ClockSafeAge
from agent.retention.confirm import Confirm
from agent.retention.deletion import Deletion
from agent.retention.history_expiry import HistoryExpiry
from agent.retention.retention import Retention

_BYTES_PER_GIB = 1024**3
_SECONDS_PER_HOUR = 3600


def build_history_expiry(
    settings: Settings, shared: SharedParts, discovery: DiscoveryService
) -> HistoryExpiry:
    """Return the part that removes documents whose recordings have been gone for a long time."""
    return HistoryExpiry(
        history=shared.history,
        clock=shared.clock,
        roots=settings.watch.roots,
        may_lie=discovery.discover.may_lie,
        keep_days=settings.history.keep_days,
        built=shared.ports.built,
    )


def build_retention(
    settings: Settings,
    shared: SharedParts,
    connection: CloudConnection,
    discovery: DiscoveryService,
    dispatch: Dispatch,
) -> Retention | None:
    """Return the part that deletes uploaded recordings, or None if no setting asks for it."""
    retention = settings.retention
    if not retention.delete_after_upload and not retention.min_free_gib:
        return None

    def is_in_flight(fingerprint: str) -> bool:
        return any(claim.log.fingerprint == fingerprint for claim in dispatch.in_flight())

    keep_seconds = None
    if retention.delete_after_upload:
        keep_seconds = retention.keep_hours * _SECONDS_PER_HOUR
    confirm = Confirm(
        history=shared.history,
        gate=shared.gate,
        credentials=connection.credentials,
        profiles=connection.backend.profiles,
        clock=shared.clock,
        delays=delays(settings),
    )
    return Retention(
        history=shared.history,
        confirm=confirm,
        deletion=Deletion(settings.watch.roots, with_sidecar=settings.watch.sidecar != "ignore"),
        age=ClockSafeAge(shared.clock, built=shared.ports.built, offset=connection.store_offset),
        clock=shared.clock,
        names=discovery.discover.names,
        there=discovery.discover.there,
        busy=is_in_flight,
        roots=settings.watch.roots,
        keep_seconds=keep_seconds,
        min_free=retention.min_free_gib * _BYTES_PER_GIB,
        free=shared.ports.free_space,
    )
