"""The jobs that the scheduler runs again and again while the agent works."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

from agent.adapters.status_file import StatusFile
from agent.assembly.cloud_connection import ConnectionSet
from agent.assembly.engine import Engine
from agent.assembly.shared_parts import SharedParts
from agent.gate.upload_policy import UploadPolicy
from agent.model.errors import HistoryFullError
from agent.observe.status_snapshot import status_line

_log = logging.getLogger(__name__)

# How often the queue, the marker files and the hours of upload.windows are checked.
_TICK_SECONDS = 1.0

# How often leases, enrolment and the files of profiles, keys and assets are checked.
_REFRESH_SECONDS = 2.0

# How often the status file is written if the status has changed.
_PUBLISH_SECONDS = 2.0

# How often the link to the cloud is checked, if a setting depends on it.
_LINK_SECONDS = 3.0

# How often a watcher that has ended is started again.
_SUPERVISE_SECONDS = 10.0

# How often uploaded recordings are deleted, if a setting asks for it.
_RETENTION_SECONDS = 10.0

# How often idle connections are closed, and the server of the metrics is checked.
_TEND_SECONDS = 60.0

# How often orphans are aborted.
_ORPHANS_SECONDS = 300.0

# How often the history expiry checks whether a day has passed.
_EXPIRY_SECONDS = 600.0

# How often the history's files are tidied.
_TIDY_SECONDS = 3600.0


class ScheduledJobs:
    """The jobs of the engine in use, with their periods.

    The scheduler knows a job by the name of its function. So a job of the new engine takes the
    place of the old engine's job and never runs beside it. Jobs that join several parts are methods
    here, and always work on the engine in use.

    The scheduler's threads run the jobs, each job at most once at a time. ``use`` is called by the
    main thread, ``check_causes`` by the threads of the control socket, too.
    """

    def __init__(
        self,
        engine: Engine,
        policy: UploadPolicy,
        *,
        shared: SharedParts,
        connections: ConnectionSet,
        status_file: StatusFile,
    ) -> None:
        """Begin with ``engine`` and ``policy``. No job runs before the scheduler gets the list."""
        self._shared = shared
        self._connections = connections
        self._status_file = status_file
        self.use(engine, policy)

    def use(self, engine: Engine, policy: UploadPolicy) -> None:
        """Work on ``engine`` and ``policy`` from now on."""
        self._engine = engine
        self._policy = policy
        self._causes_seen = self._cause_stamp()

    def periods(self) -> Iterator[tuple[Callable[[], Any], float]]:
        """Yield each job with the seconds from one run to the next."""
        engine = self._engine
        yield self.tick, _TICK_SECONDS
        yield self.handle_markers, _TICK_SECONDS
        yield self.refresh, _REFRESH_SECONDS
        yield engine.discovery.watcher.supervise, _SUPERVISE_SECONDS
        yield self.publish, _PUBLISH_SECONDS
        yield engine.connection.abort_orphans, _ORPHANS_SECONDS
        yield engine.connection.close_idle, _TEND_SECONDS
        yield self._shared.history.tidy, _TIDY_SECONDS
        yield engine.history_expiry.expire, _EXPIRY_SECONDS
        if engine.settings.upload.windows:
            yield self.check_hours, _TICK_SECONDS
        if self._policy.asks_link:
            yield self.check_link, _LINK_SECONDS
        if engine.connection.enrolling is not None:
            yield engine.connection.enrolling.enrol_if_due, _REFRESH_SECONDS
        if engine.metrics_endpoint is not None:
            yield engine.metrics_endpoint.tend, _TEND_SECONDS
        if engine.retention is not None:
            yield engine.retention.delete_due, _RETENTION_SECONDS

    def tick(self) -> None:
        """Start the uploads that may start now."""
        self._shared.boot_jitter.look()
        self._engine.dispatch.tick()

    def handle_markers(self) -> None:
        """Handle new marker files."""
        engine = self._engine
        try:
            if engine.markers.handle_due():
                engine.dispatch.tick()
        except HistoryFullError as error:
            engine.dispatch.disk_failed(error)

    def refresh(self) -> None:
        """Close connections that no upload uses, renew leases, and check the operator's files."""
        dispatch = self._engine.dispatch
        # The terms are read before the claims. A recording that is claimed in between has the terms
        # that were read, so its connection is in the set.
        used = {dispatch.terms.upload}
        used.update(claim.terms.upload for claim in dispatch.in_flight())
        self._connections.close_unused(used)
        self._connections.refresh()
        self.check_causes()

    def check_causes(self) -> None:
        """Try again what was refused or waits, if a cause of that has changed on this robot."""
        engine = self._engine
        engine.connection.backend.find_files()
        stamp = self._cause_stamp()
        if stamp == self._causes_seen:
            return
        self._causes_seen = stamp
        _log.info(
            "the file of profiles, keys or assets has changed, or the clock was set",
            extra={"event": "cause_changed"},
        )
        engine.connection.check()
        engine.dispatch.cause_changed()

    def _cause_stamp(self) -> object:
        """Return a value that changes when a cause of refusals or of waiting changes here."""
        is_clock_plausible = self._shared.clock.now() >= self._shared.ports.built
        return self._engine.connection.backend.stamp(), is_clock_plausible

    def check_hours(self) -> None:
        """Hold or release the gate by the hours of ``upload.windows``."""
        # The operator may have set another time zone.
        time.tzset()
        self._policy.look_at_clock()

    def check_link(self) -> None:
        """Hold or release the gate by the link on which the cloud is reached."""
        engine = self._engine
        link = engine.link_watch.current_link(engine.connection.addresses())
        if link is not None:
            self._policy.see(link)

    def publish(self) -> None:
        """Write the status for `keystone-agent status` and the service manager, if it changed."""
        status = self._engine.snapshot.take()
        self._shared.ports.notifier.status(status_line(status))
        try:
            self._status_file.write(status)
        except OSError as error:
            _log.debug(
                "could not write the status file: %s", error, extra={"event": "publish_failed"}
            )
