"""The agent of this process: builds its first engine, starts it, reloads it and stops it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from agent import __version__
from agent.adapters.config import Settings
from agent.adapters.control import ControlServer
from agent.adapters.status_file import StatusFile
from agent.assembly.cloud_connection import CloudConnection, ConnectionSet
from agent.assembly.engine import Engine, build_first_engine
from agent.assembly.feature_settings import bytes_per_second, delays, upload_policy
from agent.assembly.jobs import ScheduledJobs
from agent.assembly.ports import AgentPorts
from agent.assembly.reload import AskedQueue, Change, change
from agent.assembly.shared_parts import build_shared_parts
from agent.dispatch.dispatch import Dispatch
from agent.gate.gate import Gate
from agent.gate.upload_policy import UploadPolicy
from agent.model.errors import AgentError
from agent.model.ports import History
from agent.operations.operator_requests import OperatorRequests

_log = logging.getLogger(__name__)

# How often the health is checked if the service manager asks for no signs of life.
_HEALTH_SECONDS = 10.0

# How long parts in flight may go on at a stop. Then they are dropped.
_GRACE_SECONDS = 8.0

# How long a part of the agent may take to end at a stop or a reload, where network and disk may
# hang.
_END_SECONDS = 2.0

# How long an answer to a command may take at a stop.
_CONTROL_END_SECONDS = 0.5

# The settings whose change needs a new upload policy.
_POLICY_KEYS = ("upload.windows", "upload.interfaces", "upload.metered")


class App:
    """One agent in this process.

    It owns the shared parts, the engine in use, the scheduler's jobs and the control socket.

    ``run``, ``start``, ``reload`` and ``stop`` are called by the main thread. The scheduler's
    threads run the jobs, the discovery thread makes documents, a thread for each recording uploads
    it, and the threads of the control socket answer commands.
    """

    def __init__(
        self,
        settings: Settings,
        ports: AgentPorts,
        *,
        unknown_keys: Sequence[str] = (),
    ) -> None:
        """Build every part on ``ports``. Nothing is started. Raises AgentError.

        ``unknown_keys`` are keys of the configuration that are ignored, and that the status shows.
        """
        self.shared = build_shared_parts(settings, ports, unknown_keys=unknown_keys)
        self._notifier = ports.notifier
        self.connections = ConnectionSet(CloudConnection(settings, self.shared))
        self.engine = build_first_engine(settings, self.shared, self.connections)
        self._policy = self._build_policy(settings)
        self._status_file = StatusFile(self.shared.state_dir, ports.runtime_dir)
        # An agent that was killed could not remove its file.
        self._status_file.remove()
        self.jobs = ScheduledJobs(
            self.engine,
            self._policy,
            shared=self.shared,
            connections=self.connections,
            status_file=self._status_file,
        )
        self._control = ControlServer(self.shared.state_dir, self._operator(self.engine))

    @property
    def settings(self) -> Settings:
        """The configuration in force."""
        return self.engine.settings

    @property
    def history(self) -> History:
        """The history of the recordings."""
        return self.shared.history

    @property
    def gate(self) -> Gate:
        """The gate before all uploads."""
        return self.shared.gate

    @property
    def dispatch(self) -> Dispatch:
        """The dispatcher, which knows what is in flight."""
        return self.engine.dispatch

    def run(self, asked: AskedQueue, reload: Callable[[], None]) -> None:
        """Start, work until "stop" comes from ``asked``, then stop. Call ``reload`` at "reload".

        Signs of life are sent to the service manager unless a restart would cure a fault.
        """
        self.start()
        while True:
            request = asked.next(min(_HEALTH_SECONDS, self._notifier.beat))
            if request == "stop":
                break
            if request == "reload":
                reload()
            self.shared.ports.scheduler.pull_back()
            self.engine.health.check()
            if not self.engine.health.needs_restart():
                self._notifier.alive()
        self._notifier.stopping()
        self.stop()

    def start(self) -> None:
        """Start to watch, to search and to upload."""
        engine = self.engine
        _log.info(
            "agent %s of robot %s watches %s",
            __version__,
            self.shared.ports.robot,
            ", ".join(str(root) for root in self.settings.watch.roots),
            extra={"event": "started"},
        )
        if damage := self.history.damage():
            _log.error(
                "%d damaged lines of the history were set aside, all other lines are intact",
                damage,
                extra={"event": "damage"},
            )
        self.prepare()
        engine.discovery.watcher.start()
        self._start_control()
        self._notifier.ready()
        # The operator may have corrected something while no agent ran.
        engine.dispatch.cause_changed()
        engine.discovery.start(engine.dispatch)
        self.shared.ports.scheduler.set(self.jobs.periods())
        self.shared.ports.scheduler.start()

    def reload(self, read: Callable[[], Settings]) -> bool:
        """Work by the configuration that ``read`` returns, and return whether it is accepted.

        A configuration that cannot be used is refused. Then the old one stays in force.
        """
        configuration = self.shared.configuration
        self._notifier.reloading()
        try:
            self._apply(change(self.settings, read()))
            configuration.refused = ""
            configuration.unknown_keys = ()
        except AgentError as error:
            configuration.refused = "; ".join(error.message.splitlines())
            text = "the configuration is refused, and the old one stays in force: %s (%s)"
            _log.error(text, configuration.refused, error.hint, extra={"event": "reload_refused"})
        except Exception:  # noqa: BLE001 - uploads must go on
            configuration.refused = "an unexpected error in the agent; see the log"
            _log.exception(
                "the configuration could not be reloaded; restart the agent", extra={"event": "bug"}
            )
        finally:
            self._notifier.ready()
        return not configuration.refused

    def _apply(self, changed: Change) -> None:
        """Put a new engine in the place of the old one.

        The order of the effects matters:

        1. The new engine is built. This alone can fail, and then nothing has changed.
        2. New uploads get the new connection for asset ids, the gate its new delays, all uploads
           their new bandwidth.
        3. The old parts end that must not work beside the new ones: the search if ``watch.*`` has
           changed, the server of the metrics, which holds a port, and everything that deletes.
        4. The new policy holds or releases the gate. Jobs and commands work on the new engine at
           once, so that the old policy cannot hold the gate again.
        5. What must be known before a claim is prepared: hours, enrolment, the pause marker.
        6. New claims get the new terms. Claims in flight keep theirs, and their connection.
        7. The new search starts. Not earlier: what it finds may lie outside of the folders of the
           old terms, which would refuse it.
        8. The scheduler gets the new jobs. A scan is requested, because marker files that wait are
           known to the old engine only. What waits for a cause is tried again.

        Old connections are closed later, see :meth:`ScheduledJobs.refresh`.

        Raises SetupError, before anything has changed.
        """
        old = self.engine
        new = old.successor(changed, self.shared, self.connections)
        is_search_new = new.discovery is not old.discovery

        self.connections.replace(new.connection)
        self.gate.delays = delays(new.settings)
        self.shared.bandwidth.limit(bytes_per_second(new.settings))

        if is_search_new:
            old.discovery.stop(_END_SECONDS)
        old.stop_metrics()
        old.stop_upkeep(_END_SECONDS)

        if changed.touches(*_POLICY_KEYS):
            self._policy = self._build_policy(new.settings)
        self.engine = new
        self.jobs.use(new, self._policy)
        self.shared.configuration.restart_for = changed.restart_for
        self._control.operator = self._operator(new)

        self.prepare()
        new.dispatch.terms = new.terms
        if is_search_new:
            new.discovery.watcher.start()
            new.discovery.start(new.dispatch)
        self.shared.ports.scheduler.set(self.jobs.periods())
        new.discovery.rescan()
        new.dispatch.cause_changed()
        _log_reload(changed)

    def stop(self) -> None:
        """Stop, in bounded time, whatever network and disk do.

        No new work begins. Parts in flight get some seconds, and what is known is saved.
        """
        engine = self.engine
        control_ended = self._control.stop(_CONTROL_END_SECONDS)
        engine.stop_metrics()
        engine.discovery.request_stop()
        self.shared.clock.stop()
        engine.dispatch.stop(_GRACE_SECONDS, _END_SECONDS)
        if self.shared.ports.scheduler.running:
            self.shared.ports.scheduler.stop()
        self.connections.close(_END_SECONDS)
        discovery_ended = engine.discovery.stop(_END_SECONDS)
        upkeep_ended = engine.stop_upkeep(_END_SECONDS)
        uploads_ended = engine.dispatch.stop(_END_SECONDS, 0.0)
        # If a thread still runs, it may still write to the history. Then the history stays open,
        # and its lock ends with the process.
        if uploads_ended and upkeep_ended and control_ended and discovery_ended:
            self.history.close()
        self._status_file.remove()
        _log.info("stopped", extra={"event": "stopped"})

    def _build_policy(self, settings: Settings) -> UploadPolicy:
        """Build the policy, which holds or releases the gate at once."""
        return upload_policy(settings, self.gate, self.shared.clock, self.shared.ports.built)

    def _operator(self, engine: Engine) -> OperatorRequests:
        """Return what answers the commands of operators."""
        return OperatorRequests(
            snapshot=engine.snapshot.take,
            requests=engine.requests,
            bindings=engine.connection.bindings,
            markers=self.shared.state_dir / "markers",
            check_pause=engine.markers.check_pause,
            tick=engine.dispatch.tick,
            rescan=engine.discovery.rescan,
            check_causes=self.jobs.check_causes,
        )

    def prepare(self) -> None:
        """Determine what must be known before anything can be claimed. A start begins with this."""
        connection = self.engine.connection
        connection.check()
        self._policy.look_at_clock()
        if connection.enrolling is not None:
            connection.enrolling.prepare(self.shared.boot_jitter.until)
        self.shared.boot_jitter.look()
        self._prepare_markers()

    def _prepare_markers(self) -> None:
        """Create the folder of the marker files, and hold the gate if a pause is asked for."""
        try:
            self.engine.markers.prepare()
        except OSError as error:
            _log.warning(
                "the folder for marker files cannot be used: %s",
                error,
                extra={"event": "markers_failed"},
            )
        self.engine.markers.check_pause()

    def _start_control(self) -> None:
        """Start the control socket. Without it commands leave their requests on the disk."""
        try:
            self._control.start()
        except OSError as error:
            _log.warning(
                "commands cannot reach this agent: %s", error, extra={"event": "control_failed"}
            )


def _log_reload(changed: Change) -> None:
    _log.info(
        "settings reloaded: %s",
        ", ".join(sorted(changed.keys)) or "no changes",
        extra={"event": "reloaded"},
    )
    if changed.restart_for:
        text = "restart the agent for %s: a reload cannot change these settings"
        _log.warning(text, ", ".join(changed.restart_for), extra={"event": "restart_needed"})
