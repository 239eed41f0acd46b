"""Builds every part once, joins edges to flow, starts and stops them in order.

The finder's thread turns sightings into documents, the scheduler's ticks, workers carry recordings, and the caller's
waits in :meth:`App.run`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from agent import BUILD_DATE, __version__, cloud
from agent.allowed import bandwidth, limits, oldest_wanted
from agent.edges.assets import AssetFile
from agent.edges.clock import RealClock
from agent.edges.config import Settings
from agent.edges.control import ControlServer
from agent.edges.device import device_id
from agent.edges.history import TinyHistory
from agent.edges.link import LinkWatch
from agent.edges.notify import Notify
from agent.edges.status import StatusFile
from agent.edges.watch import Watch
from agent.flow.ages import Ages
from agent.flow.binding import Bindings
from agent.flow.confirm import Confirm
from agent.flow.credentials import Credentials
from agent.flow.discover import Discover
from agent.flow.dispatch import Dispatch
from agent.flow.enrol import Enrolling
from agent.flow.examine import Examiner
from agent.flow.finder import Finder
from agent.flow.forgetting import Forgetting
from agent.flow.gate import Delays, Gate
from agent.flow.intake import Intake
from agent.flow.markers import Markers
from agent.flow.pace import MOST_IN_ALL, Pace
from agent.flow.prepare import Prepare
from agent.flow.removal import Removal
from agent.flow.requests import Requests
from agent.flow.retention import Retention
from agent.flow.upload import Upload
from agent.health import RESTART, Beat, Health
from agent.measuring import Measuring
from agent.model.errors import AgentError, CloudError, HistoryFullError, WaitingError, judge
from agent.model.nouns import Recording, Sighting, utc_seconds
from agent.operator import Desk
from agent.schedule import Schedule
from agent.snapshot import Snapshot, line

if TYPE_CHECKING:
    from agent.telemetry import Telemetry

_log = logging.getLogger(__name__)

_GRACE, _DROPPED = 8.0, 2.0  # seconds that parts in flight have at a stop, and then to be dropped
_HANGING_UP = 0.5  # seconds that an answer to a command has at a stop
_TICK, _REFRESH, _SUPERVISE, _PUBLISH = 1.0, 2.0, 10.0, 2.0  # seconds
_PAY, _TIDY = 300.0, 3600.0
_TEND = 60.0
_RETAIN, _FORGET = 10.0, 600.0
_LINK = 3.0  # seconds between looks at the way to the cloud
_GIB = 1024**3
_BUILT = utc_seconds(BUILD_DATE)
_DEAD, _STUCK = 60.0, 600.0  # seconds without a tick of the dispatcher; after a scan was due, without a look


class App:
    """One agent in this process."""

    def __init__(self, settings: Settings, environ: Mapping[str, str], *, hide: Callable[..., None]) -> None:
        """Open the history and build every part; nothing runs yet. ``hide`` is told each secret. Raises AgentError."""
        state = settings.agent.state_dir
        self._settings = settings
        self._state = state
        self._notify = Notify(environ)
        self._clock = RealClock()
        self._stop = threading.Event()
        self._robot = device_id(settings.agent.device_id, state)
        self.history = TinyHistory(state / "history", self._clock)
        self._assets = AssetFile(state, settings.assets.map)
        self._cloud = cloud.build(
            settings,
            environ,
            robot=self._robot,
            assets=self._assets,
            history=self.history,
            clock=self._clock,
            hide=hide,
            connections=MOST_IN_ALL,
        )
        retry, watch = settings.retry, settings.watch
        delays = Delays(retry.base_seconds, retry.max_seconds, retry.jitter_seconds)
        self.gate = Gate(self._clock, delays)
        self._limits = limits(settings, self.gate, self._clock, _BUILT)
        self._enrolling = (
            Enrolling(enrol, self._robot, self.gate, self._clock, delays) if (enrol := self._cloud.enrol) else None
        )
        self._link = LinkWatch(self._clock, metered=settings.upload.metered == "pause")
        self._credentials = Credentials(self._cloud.gateway, self._clock, hide, lambda: self._cloud.store.offset)
        self._upload = Upload(
            store=self._cloud.store,
            credentials=self._credentials,
            history=self.history,
            gate=self.gate,
            clock=self._clock,
            max_restarts=settings.upload.max_restarts,
            pace=Pace(settings.upload.part_concurrency),
        )
        examiner = Examiner(
            watch.roots,
            watch.sidecar,
            follow_symlinks=watch.follow_symlinks,
            send_unfinished=watch.unfinished == "upload",
        )
        self.discover = Discover(
            examiner,
            self._clock,
            roots=watch.roots,
            include=watch.include,
            exclude=watch.exclude,
            settle_seconds=watch.settle_seconds,
            rescan_seconds=watch.rescan_seconds,
            sidecar=watch.sidecar,
            sidecar_wait_seconds=watch.sidecar_wait_seconds,
            unfinished_minutes=watch.unfinished_minutes,
            newer_than=oldest_wanted(settings, self._clock),
            follow_symlinks=watch.follow_symlinks,
            boot_time=self._clock.now() - self._clock.monotonic(),
        )
        self._sightings: queue.SimpleQueue[Sighting] = queue.SimpleQueue()
        self._watch = Watch(watch.roots, self._sightings, exclude=watch.exclude, polling=watch.polling)
        intake = Intake(
            history=self.history,
            clock=self._clock,
            device_id=self._robot,
            snapshot=self._asset_when_found,
            auto=watch.auto,
        )
        self._workers = ThreadPoolExecutor(settings.upload.max_concurrent, thread_name_prefix="upload")
        prepare = Prepare(
            history=self.history,
            gate=self.gate,
            upload=self._upload,
            examiner=examiner,
            names=self.discover.names,
            asset_id=self._cloud.asset_id,
            profiles=self._cloud.profiles,
            sidecar_required=watch.sidecar == "required",
            agent_version=__version__,
        )
        self.dispatch = Dispatch(
            history=self.history,
            gate=self.gate,
            prepare=prepare,
            upload=self._upload,
            clock=self._clock,
            executor=self._workers,
            delays=delays,
            max_concurrent=settings.upload.max_concurrent,
            max_attempts=retry.max_attempts,
            settle_seconds=watch.settle_seconds,
            newest_first=settings.upload.order == "newest",
            built=_BUILT,
            bandwidth=bandwidth(settings, self._clock),
        )
        self._finder = Finder(self.discover, intake, self._sightings, self._clock)
        self._retention = self._retention_asked_for(delays)
        self._forgetting = Forgetting(
            history=self.history,
            clock=self._clock,
            roots=watch.roots,
            may_lie=self.discover.may_lie,
            keep_days=settings.history.keep_days,
            built=_BUILT,
        )
        self._finding = threading.Thread(target=self._find, name="finder", daemon=True)
        self.health = self._build_health()
        self._telemetry = self._build_telemetry()
        self._schedule = self._build_schedule()
        self._status = StatusFile(state)
        self._status.remove()  # an agent that was killed could not
        self._stamp_seen = self._cause_stamp()
        platform = settings.cloud.mode == "platform"
        bindings = Bindings(self._assets, self._cloud.profiles if platform else None)
        requests = Requests(
            history=self.history,
            intake=intake,
            examiner=examiner,
            state=self.discover.stands,
            below=self.discover.below,
            names=self.discover.names,
        )
        self._markers = Markers(
            folder=state / "markers",
            history=self.history,
            requests=requests,
            discover=self.discover,
            gate=self.gate,
            clock=self._clock,
            rescan=self._rescan,
            bindings=bindings,
        )
        self._snapshot = Snapshot(
            device_id=self._robot,
            history=self.history,
            gate=self.gate,
            dispatch=self.dispatch,
            discover=self.discover,
            finder=self._finder,
            credentials=self._credentials,
            watcher_up=lambda: self._watch.alive,
            watch_failures=lambda: self._watch.failures,
            unasked=lambda: intake.unasked,
            waiting_markers=self._markers.waiting,
            clock=self._clock,
        )
        desk = Desk(
            snapshot=self._snapshot.take,
            requests=requests,
            bindings=bindings,
            markers=state / "markers",
            look_at_pause=self._markers.look_at_pause,
            tick=self.dispatch.tick,
            rescan=self._rescan,
            look_at_causes=self._look_at_causes,
        )
        self._control = ControlServer(state, desk)

    def run(self, stop: threading.Event) -> None:
        """Start, work until ``stop`` is set, then stop in order and save what is known."""
        self.start()
        while not stop.wait(min(_SUPERVISE, self._notify.beat)):
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
            ", ".join(str(root) for root in self._settings.watch.roots),
            extra={"event": "started"},
        )
        if damage := self.history.damage():
            _log.error(
                "%d damaged lines of the history were set aside, the rest is sound", damage, extra={"event": "damage"}
            )
        self._check_profiles()
        self._check_assets()
        self._limits.look_at_clock()  # before anything can be claimed
        if self._enrolling is not None:
            self._enrolling.prepare()
        self._prepare_markers()
        self._watch.start()
        self._serve()
        self._notify.ready()
        self.dispatch.cause_changed()  # whatever was mended while no agent ran
        self._finding.start()
        self._schedule.start()

    def _check_profiles(self) -> None:
        """Say at once, not only with the first recording, that nothing can be sent yet."""
        try:
            self._cloud.profiles.load()
        except CloudError as error:
            _log.warning("%s (%s)", error.message, judge(error).hint, extra={"event": error.code})

    def _check_assets(self) -> None:
        """Say once that no asset id can be told; the recordings that wait for that say so, too."""
        try:
            self._assets.known()
        except WaitingError as error:
            _log.error("%s (%s)", error.message, error.hint, extra={"event": error.code})

    def _prepare_markers(self) -> None:
        """The pause marker holds before anything can be claimed."""
        try:
            self._markers.prepare()
        except OSError as error:
            _log.warning("markers can't be dropped there: %s", error, extra={"event": "markers_failed"})
        self._markers.look_at_pause()

    def _serve(self) -> None:
        """Let commands ask. Without the socket they leave on disk what they ask for."""
        try:
            self._control.start()
        except OSError as error:
            _log.warning("commands can't ask this agent: %s", error, extra={"event": "control_failed"})

    def stop(self) -> None:
        """No new work; parts in flight get their time; states are saved. Bounded, whatever the network does."""
        self._stop.set()
        answered = self._control.stop(_HANGING_UP)
        if self._telemetry is not None:
            self._telemetry.stop()
        self._sightings.put(Sighting(self._state))  # wakes the finder
        self._clock.stop()
        self.dispatch.stop(_GRACE, _DROPPED)
        self._schedule.stop()
        self._cloud.gateway.close()  # ends the calls that are still under way
        self._cloud.store.close()
        self._workers.shutdown(wait=False, cancel_futures=True)
        self._watch.stop()
        self._finding.join(_DROPPED)
        quiet = self._forgetting.stop(_DROPPED) and (self._retention is None or self._retention.stop(_DROPPED))
        if self.dispatch.stop(_DROPPED, 0.0) and quiet and answered and not self._finding.is_alive():
            self.history.close()  # else somebody may still write: the lock ends with the process
        self._status.remove()
        _log.info("stopped", extra={"event": "stopped"})

    def _find(self) -> None:
        while not self._stop.is_set():
            try:
                if self._finder.once():
                    self.dispatch.tick()
            except HistoryFullError as error:
                self.dispatch.disk_failed(error)
            except Exception:  # noqa: BLE001 - whatever it is, looking must go on
                _log.exception("looking for recordings failed; it is tried again", extra={"event": "bug"})
                self._stop.wait(_SUPERVISE)

    def _rescan(self) -> None:
        self.discover.rescan()
        self._sightings.put(Sighting(self._state))  # wakes the finder

    # -- what others see of it

    def _build_health(self) -> Health:
        stuck = self._settings.watch.rescan_seconds + _STUCK
        return Health(
            {
                f"the scheduler has ended: {RESTART}": lambda: self._schedule.running,
                f"nobody looks for recordings any more: {RESTART}": self._finding.is_alive,
                "changes in a watched folder are not noticed, only scans find them: see the log": lambda: (
                    self._watch.alive
                ),
                f"the history is closed: {RESTART}": lambda: not self.history.closed,
            },
            {
                f"the queue was not looked at for {_DEAD:.0f} s: {RESTART}": Beat(lambda: self.dispatch.ticks, _DEAD),
                f"the disk was not looked at for {stuck:.0f} s: is a watched folder on a server that is away?": Beat(
                    lambda: self._finder.looks, stuck
                ),
            },
        )

    def _build_telemetry(self) -> Telemetry | None:
        listen, textfile = self._settings.metrics.listen, self._settings.metrics.textfile
        if not listen and textfile is None:
            return None
        from agent.telemetry import Telemetry  # noqa: PLC0415 - its library costs 14 MiB

        measuring = Measuring(
            history=self.history,
            dispatch=self.dispatch,
            gate=self.gate,
            credentials=self._credentials,
            discover=self.discover,
            watcher_up=lambda: self._watch.alive,
            clock=self._clock,
            built=_BUILT,
            folders=[*self._settings.watch.roots, self._state],
        )
        return Telemetry(listen, textfile, measuring.take, self.health.faults)

    # -- asset ids

    def _asset_when_found(self, recording: Recording) -> str:
        try:
            return self._cloud.asset_id(recording, "", self._cloud.profiles.load())
        except AgentError:
            return ""  # it is asked again at each claim

    # -- the scheduler

    def _build_schedule(self) -> Schedule:
        schedule = Schedule()
        for job, seconds in (
            (self.dispatch.tick, _TICK),
            (self._look_at_markers, _TICK),
            (self._refresh, _REFRESH),
            (self._watch.supervise, _SUPERVISE),
            (self._publish, _PUBLISH),
            (self._pay_debts, _PAY),
            (self._cloud.gateway.rest, _TEND),
            (self.history.tidy, _TIDY),
            (self._forgetting.forget, _FORGET),
            *([(self._look_at_clock, _TICK)] if self._settings.upload.windows else []),
            *([(self._look_at_link, _LINK)] if self._limits.asks_link else []),
            *([(self._enrolling.look, _REFRESH)] if self._enrolling is not None else []),
            *([(self._telemetry.tend, _TEND)] if self._telemetry else []),
            *([(self._retention.look, _RETAIN)] if self._retention is not None else []),
        ):
            schedule.every(seconds, job)
        return schedule

    def _refresh(self) -> None:
        for error in self._credentials.refresh_due() if self.gate.closed() is None else ():
            _log.warning("could not refresh credentials: %s", error.message, extra={"event": "refresh_failed"})
        self._look_at_causes()

    def _look_at_causes(self) -> None:
        stamp = self._cause_stamp()
        if stamp != self._stamp_seen:
            self._stamp_seen = stamp
            _log.info(
                "the file of profiles, keys or assets was changed, or the clock set", extra={"event": "cause_changed"}
            )
            self._check_assets()
            self.dispatch.cause_changed()

    def _cause_stamp(self) -> object:
        """Another one whenever something on this robot changes that the cloud's refusals may come from."""
        return self._cloud.stamp(), self._clock.now() >= _BUILT

    def _pay_debts(self) -> None:
        """Give up in the cloud what was given up here, while the cloud answers."""
        closed = self.gate.closed()
        nobody_probes = closed is not None and closed.cause == "cloud" and not self.history.open()
        if (closed is None or nobody_probes) and self.history.debts():
            try:
                self._upload.pay_debts(self._cloud.profiles.load())
            except CloudError as error:
                _log.warning("could not give up old uploads yet: %s", error.message, extra={"event": "debts"})

    def _look_at_markers(self) -> None:
        try:
            if self._markers.look():
                self.dispatch.tick()
        except HistoryFullError as error:
            self.dispatch.disk_failed(error)

    def _retention_asked_for(self, delays: Delays) -> Retention | None:
        """What deletes, where a setting asks for it."""
        asked, watch = self._settings.retention, self._settings.watch
        if not asked.delete_after_upload and not asked.min_free_gib:
            return None
        confirm = Confirm(
            history=self.history,
            gate=self.gate,
            credentials=self._credentials,
            profiles=self._cloud.profiles,
            clock=self._clock,
            delays=delays,
        )
        return Retention(
            history=self.history,
            confirm=confirm,
            removal=Removal(watch.roots, with_sidecar=watch.sidecar != "ignore"),
            ages=Ages(self._clock, built=_BUILT, offset=lambda: self._cloud.store.offset),
            clock=self._clock,
            names=self.discover.names,
            there=self.discover.there,
            busy=lambda fingerprint: any(claim.log.fingerprint == fingerprint for claim in self.dispatch.in_flight()),
            roots=watch.roots,
            keep_seconds=asked.keep_hours * 3600 if asked.delete_after_upload else None,
            min_free=asked.min_free_gib * _GIB,
        )

    def _look_at_clock(self) -> None:
        time.tzset()  # somebody may have set another time zone
        self._limits.look_at_clock()

    def _look_at_link(self) -> None:
        """The way to the cloud is the way to the proxy, where there is one."""
        proxy = self._settings.cloud.proxy.get_secret_value()
        link = self._link.look({proxy} if proxy else self._cloud.places())
        if link is not None:
            self._limits.see(link)

    def _publish(self) -> None:
        """Write down for `status` what only this process knows, when it has changed."""
        seen = self._snapshot.take()
        self._notify.status(line(seen))
        try:
            self._status.write(seen)
        except OSError as error:
            _log.debug("could not write the status file: %s", error, extra={"event": "publish_failed"})
