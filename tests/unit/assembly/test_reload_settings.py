"""Each setting that a reload changes is used by the parts that need it.

A new configuration goes the way that it goes in the agent: from the environment through the reload
of ``run`` into the parts. Then the value is read where it takes effect. A setting without a case
here fails a test.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.adapters import logs
from agent.adapters.config import KEYS, PREFIX, load
from agent.adapters.systemd import SystemdNotifier
from agent.assembly.app import App
from agent.assembly.cloud_adapters import CloudAdapters
from agent.assembly.cloud_connection import CloudConnection
from agent.assembly.ports import AgentPorts
from agent.assembly.reload import NEEDS_RESTART
from agent.cli.commands import run
from agent.devcloud.certificates import certificates
from agent.discovery.discover import Discover
from agent.model.errors import WaitingError
from agent.model.hours import Hours
from agent.model.values import Recording
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.gateway import PROFILE
from tests.harness.fakes.history import MemoryHistory
from tests.harness.recorders import unfinished, write_mcap
from tests.harness.robot import DeferredExecutor, ManualScheduler

MIB = 1024 * 1024
GIB = 1024**3

# Stands for the folder of the test in the text of a setting.
FOLDER = "FOLDER"

PROXY = "http://proxy.example.org:3128"
PLATFORM = {"CLOUD__MODE": "platform"}
BUCKET = {
    "CLOUD__MODE": "bucket",
    "BUCKET__ENDPOINT": "https://s3.example.org",
    "BUCKET__NAME": "recordings",
}


class ReloadScene:
    """An agent that is not started: the real adapters of the cloud, and fakes for all else."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, mode: dict[str, str]) -> None:
        self.folder = folder
        self.root = folder / "recordings"
        for name in ("recordings", "other", "state"):
            (folder / name).mkdir()
        self.authority = certificates(folder, "localhost").ca_file
        self._monkeypatch = monkeypatch
        self._config = folder / "agent.toml"
        self._config.touch()
        self._numbers = itertools.count()
        self.configure(
            **mode,
            AGENT__STATE_DIR=f"{FOLDER}/state",
            WATCH__ROOTS=f'["{FOLDER}/recordings"]',
            RETENTION__DELETE_AFTER_UPLOAD="true",
            RETRY__JITTER_SECONDS="0",
            LOG__DIR=f"{FOLDER}/logs",
            METRICS__TEXTFILE=f"{FOLDER}/metrics.prom",
        )
        settings = load(self._config, os.environ).settings
        log = settings.log
        self._redactor = logs.start(log.level, log.dir, log.max_mib, log.files, console=False)
        # The arguments with which the log was started last.
        self.log_started: Sequence[Any] = (log.level, log.dir, log.max_mib, log.files)
        self.clock = FakeClock()
        self.scheduler = ManualScheduler()
        ports = AgentPorts(
            robot="robot",
            clock=self.clock,
            history=MemoryHistory(self.clock),
            cloud=CloudAdapters({}, self.clock, self._redactor.hide, connections=1),
            executor=DeferredExecutor(),
            scheduler=self.scheduler,
            notifier=SystemdNotifier({}),
            hide=self._redactor.hide,
            built=0.0,
        )
        self.app = App(settings, ports)
        self.app.prepare()
        self.scheduler.set(self.app.jobs.periods())

    def configure(self, **values: str) -> None:
        """Set environment variables, SECTION__KEY."""
        for name, text in values.items():
            self._monkeypatch.setenv(PREFIX + name, text.replace(FOLDER, str(self.folder)))

    def reload(self) -> None:
        """Reload the configuration as the agent does at SIGHUP."""
        start = logs.start

        def noted(*arguments: Any, **named: Any) -> logs.Redactor:
            self.log_started = arguments
            return start(*arguments, console=False, **named)

        self._monkeypatch.setattr(logs, "start", noted)
        run._reload(self.app, self._config, self._redactor)
        assert not self.app.shared.configuration.refused
        # From here on the test itself runs the search.
        self.app.engine.discovery.stop(30)

    @property
    def connection(self) -> CloudConnection:
        """The connection for new uploads."""
        connection = self.app.connections.current
        assert self.app.engine.connection is connection
        assert self.app.dispatch.terms.upload is connection.upload
        return connection

    def job(self, name: str) -> Any:
        """Return the part whose method the scheduler runs, or None if it runs no such job."""
        job = self.scheduler.jobs.get(name)
        return job and job.__self__

    def find(self, name: str, *, root: str = "recordings", linked: bool = False) -> float | None:
        """Write a recording, and return after how many seconds discovery finds it.

        Return None where it is not found within a minute.
        """
        discover = self._idle_discover()
        path = self.folder / root / f"{next(self._numbers)}-{name}"
        target = self.folder / path.name if linked else path
        write_mcap(target, size=1000)
        if linked:
            path.symlink_to(target)
        began = self.clock.monotonic()
        discover.rescan()
        while (seconds := self.clock.monotonic() - began) < 60:
            if any(found.path == path for found in discover.step()):
                return seconds
            self.clock.advance(1)
        return None

    def minutes_until_unfinished(self) -> float:
        """Return after how many minutes a file without an end is called unfinished."""
        discover, began = self._idle_discover(), self.clock.monotonic()
        path = unfinished(self.root / f"{next(self._numbers)}.mcap", size=1000)
        discover.rescan()
        while (discover.state(path) or [""])[0] != "unfinished":
            discover.step()
            self.clock.advance(10)
        return round((self.clock.monotonic() - began) / 60)

    def seconds_until_scan(self) -> float:
        """Return how many seconds after a scan the next one begins."""
        discover = self._idle_discover()
        self.clock.advance(1000)
        discover.step()
        return discover.next_step() - self.clock.monotonic()

    def _idle_discover(self) -> Discover:
        """Return the search, after all scans that were requested by the start or the reload."""
        discover = self.app.engine.discovery.discover
        for _ in range(2):
            discover.step()
            self.clock.advance(50)
        return discover

    def asset_id(self) -> str:
        """Return the asset id that a recording of this robot gets now, or "" for none."""
        path = write_mcap(self.root / f"{next(self._numbers)}.mcap", size=1000)
        recording = self.app.engine.discovery.examiner.look(path, sidecar_overdue=True)
        assert isinstance(recording, Recording)
        profiles = {asset: replace(PROFILE, asset_id=asset) for asset in ("asset-1", "asset-2")}
        try:
            return self.connection.backend.asset_id(recording, "", profiles)
        except WaitingError:
            return ""

    def delays(self, name: str) -> set[float]:
        """Return a delay of ``retry.*`` as each part knows it."""
        engine = self.app.engine
        assert self.connection.enrolling is not None
        assert engine.retention is not None
        users = (
            self.app.gate.delays,
            self.app.dispatch.terms.delays,
            self.connection.enrolling._delays,
            engine.retention._confirm._delays,
        )
        return {getattr(delays, name) for delays in users}

    def watched(self) -> set[str]:
        """Return the names of the watched folders as each part knows them."""
        engine = self.app.engine
        assert engine.retention is not None
        prepare = self.app.dispatch.terms.prepare
        metrics: Any = engine.metrics_endpoint
        return {
            ",".join(Path(root).name for root in roots)
            for roots in (
                engine.discovery.watcher._roots,
                engine.discovery.examiner._roots,
                prepare._examiner._roots,
                engine.retention._roots,
                engine.retention._recordings._deletion._roots,
                self.job("HistoryExpiry.expire")._roots,
                metrics._exporter._take.__self__._folders[:-1],
            )
        }


@dataclass(frozen=True)
class Case:
    """A new value of a setting as text, and what ``read`` returns once it is in force."""

    key: str
    text: str
    expected: Any
    read: Callable[[ReloadScene], Any]


def _policy(scene: ReloadScene) -> Any:
    assert scene.app.jobs._policy is scene.app._policy
    return scene.app._policy


def _retention(scene: ReloadScene) -> Any:
    assert scene.job("Retention.delete_due") is scene.app.engine.retention
    return scene.app.engine.retention


def _endpoint(scene: ReloadScene) -> Any:
    assert scene.job("MetricsEndpoint.tend") is scene.app.engine.metrics_endpoint
    return scene.app.engine.metrics_endpoint


def _gateway(scene: ReloadScene) -> Any:
    return scene.connection.backend.gateway


def _profiles(scene: ReloadScene) -> Any:
    return scene.connection.backend.profiles


def _pools(scene: ReloadScene) -> Any:
    """Return the options of the store's connections."""
    store: Any = scene.connection.backend.store
    return store._connections.connection_pool_kw


CASES = (
    Case("watch.roots", f'["{FOLDER}/other"]', {"other"}, ReloadScene.watched),
    Case("watch.roots", f'["{FOLDER}/other"]', 5, lambda at: at.find("a.mcap", root="other")),
    Case("watch.include", '["*.bag"]', 5, lambda at: at.find("a.bag")),
    Case("watch.exclude", '["*-no.mcap"]', None, lambda at: at.find("no.mcap")),
    Case(
        "watch.exclude",
        '["*-no.mcap"]',
        True,
        lambda at: bool(at.app.engine.discovery.watcher._excluded.fullmatch("1-no.mcap")),
    ),
    Case("watch.auto", "false", False, lambda at: at.app.engine.discovery.intake._auto),
    Case("watch.newer_than", "2100-01-01", None, lambda at: at.find("a.mcap")),
    Case("watch.settle_seconds", "7", 7, lambda at: at.find("a.mcap")),
    Case("watch.settle_seconds", "7", 7, lambda at: at.app.dispatch.terms.settle_seconds),
    Case("watch.rescan_seconds", "77", 77, ReloadScene.seconds_until_scan),
    Case(
        "watch.rescan_seconds",
        "77",
        77 + 600,
        lambda at: at.app.engine.health._progress[1].max_seconds,
    ),
    Case("watch.sidecar", "ignore", 2, lambda at: at.find("a.mcap")),
    Case(
        "watch.sidecar",
        "required",
        True,
        lambda at: at.app.dispatch.terms.prepare._sidecar_required,
    ),
    Case(
        "watch.sidecar",
        "ignore",
        False,
        lambda at: _retention(at)._recordings._deletion._with_sidecar,
    ),
    Case("watch.sidecar_wait_seconds", "9", 9, lambda at: at.find("a.mcap")),
    Case("watch.unfinished_minutes", "3", 3, ReloadScene.minutes_until_unfinished),
    Case(
        "watch.unfinished_minutes",
        "3",
        180,
        lambda at: at.app.dispatch.terms.prepare._unfinished_seconds,
    ),
    Case(
        "watch.unfinished",
        "upload",
        True,
        lambda at: at.app.dispatch.terms.prepare._examiner.send_unfinished,
    ),
    Case("watch.polling", "always", "always", lambda at: at.app.engine.discovery.watcher._polling),
    Case("watch.follow_symlinks", "true", 5, lambda at: at.find("a.mcap", linked=True)),
    Case(
        "watch.follow_symlinks",
        "true",
        True,
        lambda at: at.app.dispatch.terms.prepare._examiner.follow_symlinks,
    ),
    Case(
        "cloud.dp_config",
        f"{FOLDER}/dp.json",
        "dp.json",
        lambda at: _profiles(at).path.name,
    ),
    Case("cloud.request_timeout_seconds", "7", 7, lambda at: _gateway(at)._timeout),
    Case(
        "cloud.tls_ca_file",
        f"{FOLDER}/ca-localhost.pem",
        (True, 1),
        lambda at: (
            _gateway(at)._roots == at.authority.read_bytes(),
            _pools(at)["ssl_context"].cert_store_stats()["x509_ca"],
        ),
    ),
    Case("cloud.proxy", PROXY, {PROXY}, lambda at: at.connection.addresses()),
    Case(
        "cloud.proxy", PROXY, PROXY, lambda at: dict(_gateway(at)._options).get("grpc.http_proxy")
    ),
    Case(
        "cloud.proxy",
        PROXY,
        True,
        lambda at: "proxy.example.org" in str(_pools(at).get("_proxy")),
    ),
    Case("assets.default", "asset-2", "asset-2", ReloadScene.asset_id),
    Case("assets.map", '{"robot": "asset-1"}', "asset-1", ReloadScene.asset_id),
    Case("upload.order", "newest", True, lambda at: at.app.dispatch.terms.newest_first),
    Case("upload.max_concurrent", "7", 7, lambda at: at.app.dispatch.terms.max_concurrent),
    Case("upload.part_concurrency", "3", 3, lambda at: at.connection.upload._pace._fixed),
    Case(
        "upload.max_restarts",
        "9",
        9,
        lambda at: at.connection.upload._sessions._max_restarts,
    ),
    Case("upload.part_size_mib", "16", 16 * MIB, lambda at: _gateway(at)._part_size),
    Case(
        "upload.bandwidth_mbit",
        "8",
        1_000_000,
        lambda at: at.app.shared.bandwidth._bytes_per_second,
    ),
    Case(
        "upload.windows",
        '["01:00-02:00"]',
        (Hours.parse(["01:00-02:00"]), True),
        lambda at: (_policy(at)._hours, "ScheduledJobs.check_hours" in at.scheduler.jobs),
    ),
    Case(
        "upload.interfaces",
        '["wl*"]',
        (("wl*",), True),
        lambda at: (_policy(at)._interfaces, "ScheduledJobs.check_link" in at.scheduler.jobs),
    ),
    Case(
        "upload.metered",
        "pause",
        (True, True, True),
        lambda at: (
            _policy(at)._pause_metered,
            at.app.engine.link_watch._metered,
            "ScheduledJobs.check_link" in at.scheduler.jobs,
        ),
    ),
    Case("retry.base_seconds", "11", {11}, lambda at: at.delays("base")),
    Case("retry.max_seconds", "4000", {4000}, lambda at: at.delays("maximum")),
    Case("retry.jitter_seconds", "5", {5}, lambda at: at.delays("jitter")),
    Case("retry.max_attempts", "9", 9, lambda at: at.app.dispatch.terms.max_attempts),
    Case("retention.delete_after_upload", "false", None, _retention),
    Case("retention.keep_hours", "5", 5 * 3600, lambda at: _retention(at)._keep_seconds),
    Case("retention.min_free_gib", "2", 2 * GIB, lambda at: _retention(at)._min_free),
    Case("history.keep_days", "5", 5, lambda at: at.job("HistoryExpiry.expire")._keep_days),
    Case("log.level", "DEBUG", logging.DEBUG, lambda _: logging.getLogger("agent").level),
    Case("log.dir", f"{FOLDER}/new", True, lambda at: (at.folder / "new" / "agent.log").exists()),
    Case("log.max_mib", "3", 3, lambda at: at.log_started[2]),
    Case("log.files", "4", 4, lambda at: at.log_started[3]),
    Case("metrics.listen", "127.0.0.1:9464", "127.0.0.1:9464", lambda at: _endpoint(at)._listen),
    Case(
        "metrics.textfile",
        f"{FOLDER}/new.prom",
        "new.prom",
        lambda at: _endpoint(at)._textfile.name,
    ),
)


@pytest.fixture
def _quiet_afterwards() -> Iterator[None]:
    root, agent = logging.getLogger(), logging.getLogger("agent")
    levels = root.level, agent.level
    yield
    logs.stop()
    root.setLevel(levels[0])
    agent.setLevel(levels[1])


@pytest.mark.usefixtures("_quiet_afterwards")
@pytest.mark.parametrize("case", CASES, ids=[f"{case.key}-{n}" for n, case in enumerate(CASES)])
def test_the_part_that_uses_a_setting_takes_its_new_value(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a bucket asks this robot for the size of a part.
    mode = BUCKET if case.key == "upload.part_size_mib" else PLATFORM
    scene = ReloadScene(tmp_path, monkeypatch, mode)
    try:
        assert case.read(scene) != case.expected, "the case proves nothing"
        scene.configure(**{case.key.upper().replace(".", "__"): case.text})
        scene.reload()
        assert case.read(scene) == case.expected
    finally:
        scene.app.stop()


def test_every_setting_that_a_reload_changes_has_a_case() -> None:
    assert {case.key for case in CASES} == set(KEYS) - set(NEEDS_RESTART)
