"""Builds every part once, joins edges to flow, starts and stops them in order.

The finder's thread turns sightings into documents, the scheduler's ticks, workers carry recordings, and the caller's
waits in :meth:`App.run`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent import BUILD_DATE, __version__
from agent.adapters.clock import RealClock
from agent.adapters.config import Settings
from agent.adapters.control import ControlServer
from agent.adapters.device import device_id
from agent.adapters.history import TinyHistory
from agent.adapters.link import LinkWatch
from agent.adapters.scheduler import Scheduler
from agent.adapters.status_file import StatusFile
from agent.adapters.systemd import SystemdNotifier
from agent.assembly.cloud_connection import CloudConnection
from agent.assembly.discovery_service import DiscoveryService
from agent.assembly.feature_settings import bytes_per_second, delays, limits
from agent.assembly.reload import AskedQueue, Change, change
from agent.dispatch.dispatch import Dispatch, UploadTerms
from agent.dispatch.upgrade_retry import note_version
from agent.gate.boot_jitter import BootJitter
from agent.gate.gate import Gate
from agent.model.bandwidth import Bandwidth
from agent.model.errors import AgentError, HistoryFullError
from agent.model.threads import Threads
from agent.model.values import Recording, utc_seconds
from agent.observe.health import RESTART, Beat, Health
from agent.observe.metrics_collector import MetricsCollector
from agent.observe.status_snapshot import StatusSnapshot, line
from agent.operations.markers import Markers
from agent.operations.operator_requests import OperatorRequests
from agent.operations.requests import Requests
from agent.retention.clock_safe_age import ClockSafeAge
from agent.retention.confirm import Confirm
from agent.retention.deletion import Deletion
from agent.retention.history_expiry import HistoryExpiry
from agent.retention.retention import Retention
from agent.upload.prepare import Prepare

if TYPE_CHECKING:
    from agent.adapters.metrics_endpoint import MetricsEndpoint

_log = logging.getLogger(__name__)

_GRACE, _DROPPED = 8.0, 2.0  # seconds that parts in flight have at a stop, and then to be dropped
_HANGING_UP = 0.5  # seconds that an answer to a command has at a stop
_TICK, _REFRESH, _PUBLISH, _LINK = (
    1.0,
    2.0,
    2.0,
    3.0,
)  # seconds; the last between looks at the way to the cloud
_SUPERVISE, _RETAIN, _TEND = 10.0, 10.0, 60.0
_PAY, _FORGET, _TIDY = 300.0, 600.0, 3600.0
_GIB = 1024**3
_BUILT = utc_seconds(BUILD_DATE)
_DEAD, _STUCK = (
    60.0,
    600.0,
)  # seconds without a tick of the dispatcher; after a scan was due, without a look


class App:
    """One agent in this process."""

    def __init__(
        self,
        settings: Settings,
        environ: Mapping[str, str],
        *,
        hide: Callable[..., None],
        unknown_keys: Sequence[str] = (),
    ) -> None:
        """Open the history and build every part; nothing runs yet. Raises AgentError.

        ``hide`` is told each secret. ``unknown_keys`` of the configuration are ignored, and shown.
        """
        state = settings.agent.state_dir
        self.settings = settings
        self._environ = environ
        self._hide = hide
        self._state = state
        self._notify = SystemdNotifier(environ)
        self._clock = RealClock()
        self._robot = device_id(settings.agent.device_id, state)
        self.history = TinyHistory(state / "history", self._clock)
        self._upgrade, self._upgraded = note_version(self.history, __version__)
        self.gate = Gate(self._clock, delays(settings))
        self._power_on = BootJitter(self.gate, self._clock, delays(settings))
        self._limits = limits(settings, self.gate, self._clock, _BUILT)
        self._bandwidth = Bandwidth(bytes_per_second(settings), self._clock.monotonic)
        self._routes: list[CloudConnection] = []
        self._routes.append(
            self._new_route(settings)
        )  # the last one is taken; on others something is still under way
        self.lookout = self._new_lookout()
        self.dispatch = Dispatch(
            history=self.history,
            gate=self.gate,
            clock=self._clock,
            executor=Threads("upload"),
            terms=self._terms(),
            built=_BUILT,
            bandwidth=self._bandwidth,
        )
        self._schedule = Scheduler()
        self._status = StatusFile(state)
        self._status.remove()  # an agent that was killed could not
        self._restart_for: Sequence[str] = ()
        self._refused = ""  # why the configuration that was read last is not in force
        self._unknown_keys = unknown_keys
        self._build()
        self._control = ControlServer(state, self._desk())

    @property
    def _route(self) -> CloudConnection:
        return self._routes[-1]

    def _new_route(self, settings: Settings) -> CloudConnection:
        return CloudConnection(
            settings,
            self._environ,
            robot=self._robot,
            history=self.history,
            gate=self.gate,
            clock=self._clock,
            delays=delays(settings),
            hide=self._hide,
            before=self._routes[-1] if self._routes else None,
        )

    def _new_lookout(self) -> DiscoveryService:
        return DiscoveryService(
            self.settings,
            history=self.history,
            clock=self._clock,
            robot=self._robot,
            snapshot=self._asset_when_found,
            again=self._upgrade.again,
        )

    def _asset_when_found(self, recording: Recording) -> str:
        return self._route.asset_when_found(recording)

    def _terms(self) -> UploadTerms:
        """How recordings are carried that are claimed from now on."""
        settings = self.settings
        prepare = Prepare(
            history=self.history,
            gate=self.gate,
            upload=self._route.upload,
            examiner=self.lookout.examiner,
            names=self.lookout.discover.names,
            asset_id=self._route.cloud.asset_id,
            profiles=self._route.cloud.profiles,
            clock=self._clock,
            unfinished_minutes=settings.watch.unfinished_minutes,
            sidecar_required=settings.watch.sidecar == "required",
            agent_version=__version__,
        )
        return UploadTerms(
            prepare=prepare,
            upload=self._route.upload,
            delays=delays(settings),
            max_concurrent=settings.upload.max_concurrent,
            max_attempts=settings.retry.max_attempts,
            settle_seconds=settings.watch.settle_seconds,
            newest_first=settings.upload.order == "newest",
        )

    def _build(self) -> None:
        """Make what stands on route and lookout, at the start and at each reload: what it knows is on the disk."""
        settings, discover = self.settings, self.lookout.discover
        self._link = LinkWatch(self._clock, metered=settings.upload.metered == "pause")
        self._retention = self._retention_asked_for()
        self._forgetting = HistoryExpiry(
            history=self.history,
            clock=self._clock,
            roots=settings.watch.roots,
            may_lie=discover.may_lie,
            keep_days=settings.history.keep_days,
            built=_BUILT,
        )
        self.health = self._build_health()
        self._telemetry = self._build_telemetry()
        self._stamp_seen = self._cause_stamp()
        self._requests = Requests(
            history=self.history,
            intake=self.lookout.intake,
            examiner=self.lookout.examiner,
            state=discover.stands,
            below=discover.below,
            names=discover.names,
        )
        self._markers = Markers(
            folder=self._state / "markers",
            history=self.history,
            requests=self._requests,
            discover=discover,
            gate=self.gate,
            clock=self._clock,
            rescan=self.lookout.rescan,
            bindings=self._route.bindings,
        )
        self._snapshot = StatusSnapshot(
            device_id=self._robot,
            history=self.history,
            gate=self.gate,
            dispatch=self.dispatch,
            discover=discover,
            credentials=self._route.credentials,
            watcher_up=lambda: self.lookout.watch.alive,
            watch_failures=lambda: self.lookout.watch.failures,
            unasked=lambda: self.lookout.intake.unasked,
            waiting_markers=self._markers.waiting,
            clock=self._clock,
            settings=self._settings_state,
            fault=lambda: self._route.fault,
            upgrade=self._upgrade if self._upgraded else None,
            not_deleted=lambda: self._retention.kept() if self._retention else (),
        )

    def _settings_state(self) -> dict[str, Any]:
        return {
            "restart_for": list(self._restart_for),
            "refused": self._refused,
            "unknown_keys": list(self._unknown_keys),
        }

    def _desk(self) -> OperatorRequests:
        return OperatorRequests(
            snapshot=self._snapshot.take,
            requests=self._requests,
            bindings=self._route.bindings,
            markers=self._state / "markers",
            look_at_pause=self._markers.look_at_pause,
            tick=self.dispatch.tick,
            rescan=self.lookout.rescan,
            look_at_causes=self._look_at_causes,
        )

    def run(self, asked: AskedQueue, reload: Callable[[], None]) -> None:
        """Start, work until "stop" is ``asked``, then stop in order and save what is known."""
        self.start()
        while (ask := asked.next(min(_SUPERVISE, self._notify.beat))) != "stop":
            if ask == "reload":
                reload()
            self._schedule.pull_back()
            self.health.look()
            if not self.health.needs_restart():
                self._notify.alive()
        self._notify.stopping()
        self.stop()

    def start(self) -> None:
        """Watch, find, dispatch."""
        _log.info(
            "agent %s of robot %s watches %s",
            __version__,
            self._robot,
            ", ".join(str(root) for root in self.settings.watch.roots),
            extra={"event": "started"},
        )
        if damage := self.history.damage():
            _log.error(
                "%d damaged lines of the history were set aside, the rest is sound",
                damage,
                extra={"event": "damage"},
            )
        self._prepare()
        self.lookout.watch.start()
        self._serve()
        self._notify.ready()
        self.dispatch.cause_changed()  # whatever was mended while no agent ran
        self.lookout.start(self.dispatch)
        self._schedule.set(self._jobs())
        self._schedule.start()

    def _prepare(self) -> None:
        """What must be known before anything can be claimed."""
        self._route.check()
        self._limits.look_at_clock()
        if self._route.enrolling is not None:
            self._route.enrolling.prepare(self._power_on.until)
        self._power_on.look()
        self._prepare_markers()

    def reload(self, read: Callable[[], Settings]) -> bool:
        """Work by the configuration that ``read`` gives; one that can't be used is refused, and the old one stays.

        Returns whether it is accepted.
        """
        self._notify.reloading()
        try:
            self._apply(change(self.settings, read()))
            self._refused, self._unknown_keys = "", ()
        except AgentError as error:
            self._refused = "; ".join(error.message.splitlines())
            text = "the configuration is refused, and the old one stays: %s (%s)"
            _log.error(text, self._refused, error.hint, extra={"event": "reload_refused"})
        except Exception:  # noqa: BLE001 - uploads must go on
            self._refused = "a mistake in the agent; see the log"
            _log.exception(
                "the configuration could not be reloaded; restart the agent", extra={"event": "bug"}
            )
        finally:
            self._notify.ready()
        return not self._refused

    def _apply(self, changed: Change) -> None:
        """Raises SetupError, before anything has changed."""
        settings = changed.settings
        route = self._new_route(settings)
        self.settings, self._restart_for = settings, changed.restart_for
        self._routes.append(route)
        self.gate.delays = delays(settings)
        self._bandwidth.limit(bytes_per_second(settings))
        if changed.touches("upload.windows", "upload.interfaces", "upload.metered"):
            self._limits = limits(settings, self.gate, self._clock, _BUILT)
        if looks := changed.touches("watch."):
            self.lookout.stop(_DROPPED)
            self.lookout = self._new_lookout()
        self._end_telemetry()
        self._end_upkeep()
        self._build()
        self._control.operator = self._desk()
        self._prepare()
        self.dispatch.terms = self._terms()
        if looks:  # not before: what it finds is not for the old terms, to which it may lie in no watched folder
            self.lookout.watch.start()
            self.lookout.start(self.dispatch)
        self._schedule.set(self._jobs())
        self.lookout.rescan()  # markers that waited are seen again
        self.dispatch.cause_changed()
        _log.info(
            "settings reloaded: %s",
            ", ".join(sorted(changed.keys)) or "all as before",
            extra={"event": "reloaded"},
        )
        if changed.restart_for:
            text = "restart the agent for %s: a reload can't change that"
            _log.warning(text, ", ".join(changed.restart_for), extra={"event": "restart_needed"})

    def _end_telemetry(self) -> None:
        if self._telemetry is not None:
            self._telemetry.stop()

    def _end_upkeep(self) -> bool:
        """Forget and delete nothing more; tells whether what was under way has ended."""
        quiet = self._forgetting.stop(_DROPPED)
        return (self._retention is None or self._retention.stop(_DROPPED)) and quiet

    def _prepare_markers(self) -> None:
        """The pause marker holds before anything can be claimed."""
        try:
            self._markers.prepare()
        except OSError as error:
            _log.warning(
                "markers can't be dropped there: %s", error, extra={"event": "markers_failed"}
            )
        self._markers.look_at_pause()

    def _serve(self) -> None:
        """Let commands ask. Without the socket they leave on disk what they ask for."""
        try:
            self._control.start()
        except OSError as error:
            _log.warning(
                "commands can't ask this agent: %s", error, extra={"event": "control_failed"}
            )

    def stop(self) -> None:
        """No new work; parts in flight get their time; states are saved. Bounded, whatever the network does."""
        answered = self._control.stop(_HANGING_UP)
        self._end_telemetry()
        self.lookout.end()
        self._clock.stop()
        self.dispatch.stop(_GRACE, _DROPPED)
        self._schedule.stop()
        for route in self._routes:
            route.end(_DROPPED)
            route.close()
        found = self.lookout.stop(_DROPPED)
        quiet = self._end_upkeep()
        if self.dispatch.stop(_DROPPED, 0.0) and quiet and answered and found:
            self.history.close()  # else somebody may still write: the lock ends with the process
        self._status.remove()
        _log.info("stopped", extra={"event": "stopped"})

    # -- what others see of it

    def _build_health(self) -> Health:
        stuck = self.settings.watch.rescan_seconds + _STUCK
        return Health(
            {
                f"the scheduler has ended: {RESTART}": lambda: self._schedule.running,
                f"nobody looks for recordings any more: {RESTART}": lambda: self.lookout.alive,
                "changes in a watched folder are not noticed, only scans find them: see the log": lambda: (
                    self.lookout.watch.alive
                ),
                f"the history is closed: {RESTART}": lambda: not self.history.closed,
            },
            {
                f"the queue was not looked at for {_DEAD:.0f} s: {RESTART}": Beat(
                    lambda: self.dispatch.ticks, _DEAD
                ),
                f"the disk was not looked at for {stuck:.0f} s: is a watched folder on a server that is away?": Beat(
                    lambda: self.lookout.finder.looks, stuck
                ),
            },
        )

    def _build_telemetry(self) -> MetricsEndpoint | None:
        listen, textfile = self.settings.metrics.listen, self.settings.metrics.textfile
        if not listen and textfile is None:
            return None
        from agent.adapters.metrics_endpoint import MetricsEndpoint  # noqa: PLC0415 - its library costs 14 MiB

        measuring = MetricsCollector(
            history=self.history,
            dispatch=self.dispatch,
            gate=self.gate,
            credentials=self._route.credentials,
            discover=self.lookout.discover,
            watcher_up=lambda: self.lookout.watch.alive,
            clock=self._clock,
            built=_BUILT,
            folders=[*self.settings.watch.roots, self._state],
        )
        return MetricsEndpoint(listen, textfile, measuring.take, self.health.faults)

    # -- the scheduler

    def _jobs(self) -> Iterator[tuple[Callable[[], Any], float]]:
        yield self._tick, _TICK
        yield self._look_at_markers, _TICK
        yield self._refresh, _REFRESH
        yield self.lookout.watch.supervise, _SUPERVISE
        yield self._publish, _PUBLISH
        yield self._route.pay_debts, _PAY
        yield self._route.rest, _TEND
        yield self.history.tidy, _TIDY
        yield self._forgetting.forget, _FORGET
        if self.settings.upload.windows:
            yield self._look_at_clock, _TICK
        if self._limits.asks_link:
            yield self._look_at_link, _LINK
        if self._route.enrolling is not None:
            yield self._route.enrolling.look, _REFRESH
        if self._telemetry is not None:
            yield self._telemetry.tend, _TEND
        if self._retention is not None:
            yield self._retention.look, _RETAIN

    def _tick(self) -> None:
        self._power_on.look()
        self.dispatch.tick()

    def _refresh(self) -> None:
        # Asked in this order: what is claimed after the first goes by it.
        taken = {
            self.dispatch.terms.upload,
            *(claim.terms.upload for claim in self.dispatch.in_flight()),
        }
        for route in self._routes[:-1]:
            if route.upload not in taken and route.end():
                self._routes.remove(route)
                route.close()
        for route in self._routes:
            route.refresh()
        self._look_at_causes()

    def _look_at_causes(self) -> None:
        stamp = self._cause_stamp()
        if stamp != self._stamp_seen:
            self._stamp_seen = stamp
            _log.info(
                "the file of profiles, keys or assets was changed, or the clock set",
                extra={"event": "cause_changed"},
            )
            self._route.check()
            self.dispatch.cause_changed()

    def _cause_stamp(self) -> object:
        """Another one whenever something on this robot changes that the cloud's refusals may come from."""
        return self._route.cloud.stamp(), self._clock.now() >= _BUILT

    def _look_at_markers(self) -> None:
        try:
            if self._markers.look():
                self.dispatch.tick()
        except HistoryFullError as error:
            self.dispatch.disk_failed(error)

    def _retention_asked_for(self) -> Retention | None:
        """What deletes, where a setting asks for it."""
        asked, watch, cloud = self.settings.retention, self.settings.watch, self._route.cloud
        if not asked.delete_after_upload and not asked.min_free_gib:
            return None
        confirm = Confirm(
            history=self.history,
            gate=self.gate,
            credentials=self._route.credentials,
            profiles=cloud.profiles,
            clock=self._clock,
            delays=delays(self.settings),
        )
        return Retention(
            history=self.history,
            confirm=confirm,
            removal=Deletion(watch.roots, with_sidecar=watch.sidecar != "ignore"),
            ages=ClockSafeAge(self._clock, built=_BUILT, offset=lambda: cloud.store.offset),
            clock=self._clock,
            names=self.lookout.discover.names,
            there=self.lookout.discover.there,
            busy=lambda fingerprint: any(
                claim.log.fingerprint == fingerprint for claim in self.dispatch.in_flight()
            ),
            roots=watch.roots,
            keep_seconds=asked.keep_hours * 3600 if asked.delete_after_upload else None,
            min_free=asked.min_free_gib * _GIB,
        )

    def _look_at_clock(self) -> None:
        time.tzset()  # somebody may have set another time zone
        self._limits.look_at_clock()

    def _look_at_link(self) -> None:
        link = self._link.current_link(self._route.places())
        if link is not None:
            self._limits.see(link)

    def _publish(self) -> None:
        """Write down for `status` what only this process knows, when it has changed."""
        seen = self._snapshot.take()
        self._notify.status(line(seen))
        try:
            self._status.write(seen)
        except OSError as error:
            _log.debug(
                "could not write the status file: %s", error, extra={"event": "publish_failed"}
            )
