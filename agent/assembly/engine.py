"""The engine: all features of the agent, built once from settings and the shared parts.

A reload builds a new engine beside the old one, see :meth:`Engine.successor`.
"""

from __future__ import annotations

from agent import __version__
from agent.adapters.config import Settings
from agent.adapters.link import LinkWatch
from agent.assembly.cloud_connection import CloudConnection, ConnectionSet
from agent.assembly.discovery_service import DiscoveryService
from agent.assembly.feature_settings import delays
from agent.assembly.observers import build_health, build_metrics_endpoint, build_snapshot
from agent.assembly.reload import Change
from agent.assembly.shared_parts import SharedParts
from agent.assembly.upkeep import build_history_expiry, build_retention
from agent.dispatch.claim import UploadTerms
from agent.dispatch.dispatch import Dispatch
from agent.operations.markers import Markers
from agent.operations.requests import Requests
from agent.upload.prepare import Prepare


class Engine:
    """All features of the agent by one configuration, joined with each other.

    No feature knows that settings can change. Therefore a reload builds another engine. What an old
    engine knew is on the disk, or in the parts that its successor takes over: the shared parts, the
    dispatcher, and discovery if no setting of ``watch.*`` has changed.

    Building an engine starts nothing and sends nothing. It belongs to the main thread, and its
    parts say by themselves which threads may use them.
    """

    def __init__(
        self,
        settings: Settings,
        shared: SharedParts,
        connection: CloudConnection,
        discovery: DiscoveryService,
        dispatch: Dispatch | None = None,
    ) -> None:
        """Build the features. ``dispatch`` is taken over if it is given."""
        self.settings = settings
        self.connection = connection
        self.discovery = discovery
        self.terms = _build_terms(settings, shared, connection, discovery)
        self.dispatch = dispatch or Dispatch(
            history=shared.history,
            gate=shared.gate,
            clock=shared.clock,
            executor=shared.ports.executor,
            terms=self.terms,
            built=shared.ports.built,
            bandwidth=shared.bandwidth,
        )
        self.link_watch = LinkWatch(shared.clock, metered=settings.upload.metered == "pause")
        self.retention = build_retention(settings, shared, connection, discovery, self.dispatch)
        self.history_expiry = build_history_expiry(settings, shared, discovery)
        self.health = build_health(settings, shared, discovery, self.dispatch)
        self.metrics_endpoint = build_metrics_endpoint(
            settings,
            shared,
            connection=connection,
            discovery=discovery,
            dispatch=self.dispatch,
            health=self.health,
        )
        self.requests = Requests(
            history=shared.history,
            intake=discovery.intake,
            examiner=discovery.examiner,
            state=discovery.discover.stands,
            below=discovery.discover.below,
            names=discovery.discover.names,
        )
        self.markers = Markers(
            folder=shared.state_dir / "markers",
            history=shared.history,
            requests=self.requests,
            discover=discovery.discover,
            gate=shared.gate,
            clock=shared.clock,
            rescan=discovery.rescan,
            bindings=connection.bindings,
        )
        self.snapshot = build_snapshot(
            shared,
            connection=connection,
            discovery=discovery,
            dispatch=self.dispatch,
            markers=self.markers,
            retention=self.retention,
        )

    def successor(self, change: Change, shared: SharedParts, connections: ConnectionSet) -> Engine:
        """Build the engine for a changed configuration. This engine goes on as before.

        Raises SetupError if a setting cannot be used.
        """
        settings = change.settings
        connection = CloudConnection(settings, shared, before=self.connection)
        discovery = self.discovery
        if change.touches("watch."):
            discovery = build_discovery(settings, shared, connections)
        return Engine(settings, shared, connection, discovery, self.dispatch)

    def stop_metrics(self) -> None:
        """Serve no more metrics, so that another engine can listen on the same port."""
        if self.metrics_endpoint is not None:
            self.metrics_endpoint.stop()

    def stop_upkeep(self, seconds: float) -> bool:
        """Delete nothing more, on the disk and in the history.

        Return whether each of the two has ended what it was doing within ``seconds``.
        """
        expiry_ended = self.history_expiry.stop(seconds)
        retention_ended = self.retention is None or self.retention.stop(seconds)
        return expiry_ended and retention_ended


def build_first_engine(
    settings: Settings, shared: SharedParts, connections: ConnectionSet
) -> Engine:
    """Build the engine with which the process starts."""
    discovery = build_discovery(settings, shared, connections)
    return Engine(settings, shared, connections.current, discovery)


def build_discovery(
    settings: Settings, shared: SharedParts, connections: ConnectionSet
) -> DiscoveryService:
    """Build the search for recordings.

    It outlives a connection. So it determines asset ids by the current one of ``connections``.
    """
    return DiscoveryService(
        settings,
        history=shared.history,
        clock=shared.clock,
        robot=shared.ports.robot,
        snapshot=connections.asset_when_found,
        can_revise=connections.can_revise,
        again=shared.upgrade.again,
    )


def _build_terms(
    settings: Settings,
    shared: SharedParts,
    connection: CloudConnection,
    discovery: DiscoveryService,
) -> UploadTerms:
    """Return the terms of the recordings that are claimed by this engine."""
    prepare = Prepare(
        history=shared.history,
        gate=shared.gate,
        upload=connection.upload,
        examiner=discovery.examiner,
        names=discovery.discover.names,
        asset_id=connection.backend.asset_id,
        profiles=connection.backend.profiles,
        clock=shared.clock,
        unfinished_minutes=settings.watch.unfinished_minutes,
        sidecar_required=settings.watch.sidecar == "required",
        sidecar_needed=settings.cloud.mode == "platform" or settings.watch.sidecar == "required",
        agent_version=__version__,
    )
    return UploadTerms(
        prepare=prepare,
        upload=connection.upload,
        delays=delays(settings),
        max_concurrent=settings.upload.max_concurrent,
        max_attempts=settings.retry.max_attempts,
        settle_seconds=settings.watch.settle_seconds,
        newest_first=settings.upload.order == "newest",
    )
