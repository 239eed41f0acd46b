"""The connections to the cloud: one for new uploads, and those that older uploads still use.

A reload builds a new connection. An upload that is in flight keeps the connection with which it
began. The old connection is closed when its last upload has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from agent.adapters.assets import AssetFile
from agent.adapters.config import Settings
from agent.assembly import cloud_backend
from agent.assembly.feature_settings import delays
from agent.assembly.shared_parts import SharedParts
from agent.cloud.credentials import Credentials
from agent.cloud.enrol import Enrolling
from agent.model.errors import AgentError, CloudError, WaitingError, judge
from agent.model.ports import History
from agent.model.sync_log import SyncLog
from agent.model.values import Recording
from agent.operations.asset_binding import Bindings
from agent.upload.concurrency import PartConcurrency
from agent.upload.upload import Upload

_log = logging.getLogger(__name__)


class CloudConnection:
    """The parts that speak with the cloud by one configuration.

    They are the backend, the storage keys, the uploads, the asset ids and the enrolment. The
    settings are ``cloud.*``, ``bucket.*``, ``assets.*`` and those of ``upload.*`` that concern one
    upload.

    ``check`` and the constructor are for the main thread and the scheduler. All other methods may
    be called from any thread.
    """

    def __init__(
        self, settings: Settings, shared: SharedParts, before: CloudConnection | None = None
    ) -> None:
        """Build the parts. No request is sent.

        ``before`` is the connection that this one replaces. Raises SetupError if a setting cannot
        be used.
        """
        self._history: History = shared.history
        self._gate = shared.gate
        self.assets = AssetFile(settings.agent.state_dir, settings.assets.map)
        self.backend = cloud_backend.build(
            settings,
            shared.ports.cloud,
            robot=shared.ports.robot,
            assets=self.assets,
            history=shared.history,
            clock=shared.clock,
            hide=shared.ports.hide,
        )
        is_platform = settings.cloud.mode == "platform"
        self.bindings = Bindings(self.assets, self.backend.profiles if is_platform else None)
        self.enrolling: Enrolling | None = None
        if self.backend.enrol is not None:
            self.enrolling = Enrolling(
                self.backend.enrol, shared.ports.robot, shared.gate, shared.clock, delays(settings)
            )
            if before is not None and before.enrolling is not None:
                self.enrolling.take_over(before.enrolling)
        self.credentials = Credentials(
            self.backend.gateway, shared.clock, shared.ports.hide, self.store_offset
        )
        self.upload = Upload(
            store=self.backend.store,
            credentials=self.credentials,
            history=shared.history,
            gate=shared.gate,
            clock=shared.clock,
            max_restarts=settings.upload.max_restarts,
            pace=PartConcurrency(settings.upload.part_concurrency),
        )
        self._profile_fault: Mapping[str, str] | None = None
        self._proxy = settings.cloud.proxy.get_secret_value()

    def store_offset(self) -> float | None:
        """Return by how many seconds the store's clock is ahead of the local one, if known."""
        return self.backend.store.offset

    def profile_fault(self) -> Mapping[str, str] | None:
        """Return code, message and hint of what was wrong with profiles or keys last time."""
        return self._profile_fault

    def addresses(self) -> set[str]:
        """Return the addresses to which this robot itself connects.

        With a proxy this is the proxy alone.
        """
        return {self._proxy} if self._proxy else self.backend.places()

    def asset_when_found(self, recording: Recording) -> str:
        """Return the asset id that a recording has at discovery, or "" if none is known yet.

        Each claim determines the asset id again.
        """
        try:
            return self.backend.asset_id(recording, "", self.backend.profiles.load())
        except AgentError:
            return ""

    def check(self) -> None:
        """Log at once if nothing can be uploaded or no asset id can be determined.

        Otherwise the operator would see the reason only with the first recording.
        """
        self._profile_fault = None
        try:
            self.backend.profiles.load()
        except CloudError as error:
            hint = judge(error).hint
            self._profile_fault = {"code": error.code, "message": error.message, "hint": hint}
            _log.warning("%s (%s)", error.message, hint, extra={"event": error.code})
        try:
            self.assets.known()
        except WaitingError as error:
            _log.error("%s (%s)", error.message, error.hint, extra={"event": error.code})

    def refresh(self) -> None:
        """Renew the tokens and leases that end soon, unless the gate is closed."""
        if self._gate.closed() is not None:
            return
        for error in self.credentials.refresh_due():
            _log.warning(
                "could not refresh credentials: %s",
                error.message,
                extra={"event": "refresh_failed"},
            )

    def abort_orphans(self) -> None:
        """Abort the multipart uploads that were given up, if the cloud can be expected to answer.

        If the gate is closed because of the cloud and no recording is left to probe it, the orphans
        take the place of the probe.
        """
        closed = self._gate.closed()
        is_without_probe = (
            closed is not None and closed.cause == "cloud" and not self._history.open()
        )
        if closed is not None and not is_without_probe:
            return
        if not self._history.orphans():
            return
        try:
            self.upload.abort_orphans(self.backend.profiles.load())
        except CloudError as error:
            _log.warning(
                "could not abort abandoned uploads yet: %s",
                error.message,
                extra={"event": "debts"},
            )

    def close_idle(self) -> None:
        """Close connections to the gateway that were not used for a while."""
        self.backend.gateway.rest()

    def stop_enrolling(self, seconds: float = 0.0) -> bool:
        """Ask for no more keys, and return whether no request is open after ``seconds``.

        The platform tells a key only once. So the answer to a request must not be lost.
        """
        return self.enrolling is None or self.enrolling.end(seconds)

    def close(self) -> None:
        """Close all connections. Calls that still run end with an error."""
        self.backend.gateway.close()
        self.backend.store.close()


class ConnectionSet:
    """The connection for new uploads, and the older ones that uploads in flight still use.

    The main thread replaces the connection, the scheduler closes those that are not used any more.
    Any thread may read.
    """

    def __init__(self, first: CloudConnection) -> None:
        """Begin with one connection."""
        self._connections = [first]

    @property
    def current(self) -> CloudConnection:
        """The connection for new uploads."""
        return self._connections[-1]

    def __len__(self) -> int:
        return len(self._connections)

    def __contains__(self, connection: CloudConnection) -> bool:
        return connection in self._connections

    def asset_when_found(self, recording: Recording) -> str:
        """Return the asset id of a recording at discovery by the current connection."""
        return self.current.asset_when_found(recording)

    def can_revise(self, log: SyncLog) -> bool:
        """Return whether the current connection can write a document's manifest anew."""
        return self.current.backend.can_revise(log)

    def replace(self, connection: CloudConnection) -> None:
        """Use ``connection`` for new uploads. The others stay open for those in flight."""
        self._connections.append(connection)

    def close_unused(self, used: Collection[Upload]) -> None:
        """Close the older connections whose ``Upload`` is not in ``used``."""
        for connection in self._connections[:-1]:
            if connection.upload not in used and connection.stop_enrolling():
                self._connections.remove(connection)
                connection.close()

    def refresh(self) -> None:
        """Renew the tokens and leases that end soon, of all connections."""
        for connection in tuple(self._connections):
            connection.refresh()

    def close(self, enrol_seconds: float) -> None:
        """Close all connections. Each enrolment gets ``enrol_seconds`` to receive its key."""
        for connection in tuple(self._connections):
            connection.stop_enrolling(enrol_seconds)
            connection.close()
