"""Tests of SIGHUP: another configuration while the agent runs.

Uploads in flight go on, and a configuration that can't be used is rejected.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.config import KEYS, PREFIX, Settings, load
from agent.assembly.app import App
from agent.assembly.discovery_service import DiscoveryService
from agent.assembly.ports import open_ports
from agent.assembly.reload import NEEDS_RESTART, change
from agent.devcloud.cloud import DevCloud
from agent.devcloud.servers import free_port
from agent.dispatch.dispatch import Dispatch
from agent.pb.data_gateway_pb2 import InitDeviceRequest, InitDeviceResponse
from tests.harness.agent_process import Agent, running
from tests.harness.eventually import eventually
from tests.harness.phase import phase_of
from tests.harness.prometheus import fetch
from tests.harness.recorders import unfinished, write_mcap

MIB = 1024 * 1024


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[DevCloud]:
    with DevCloud(tmp_path / "cloud") as cloud:
        yield cloud


def settings_with(**changes: Any) -> Settings:
    """Return settings in which these keys, SECTION__KEY, differ from the defaults."""
    return load(None, {PREFIX + key: value for key, value in changes.items()}).settings


def test_who_the_agent_is_and_where_its_sessions_belong_needs_a_restart_and_all_else_does_not() -> (
    None
):
    assert set(NEEDS_RESTART) == {
        key for key in KEYS if key.partition(".")[0] in ("agent", "bucket")
    } | {"cloud.mode"}
    new = settings_with(
        AGENT__STATE_DIR="/elsewhere",
        CLOUD__MODE="bucket",
        CLOUD__PROXY="http://proxy:1",
        BUCKET__ENDPOINT="https://s3.example.org",
        BUCKET__NAME="robots",
        UPLOAD__BANDWIDTH_MBIT="5",
    )
    changed = change(Settings(), new)
    assert changed.restart_for == [
        "agent.state_dir",
        "cloud.mode",
        "bucket.endpoint",
        "bucket.name",
    ]
    assert changed.keys == {"cloud.proxy", "upload.bandwidth_mbit"}
    now = changed.settings
    assert (now.agent, now.bucket, now.cloud.mode) == (
        Settings().agent,
        Settings().bucket,
        "platform",
    )
    assert (now.cloud.proxy, now.upload) == (new.cloud.proxy, new.upload)
    assert changed.touches("upload.")
    assert not changed.touches("watch.", "upload.windows")
    assert change(now, Settings()).restart_for == []


# These tests run the agent in this process.


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "state").mkdir()
    named = {
        "AGENT__STATE_DIR": str(tmp_path / "state"),
        "WATCH__ROOTS": json.dumps([str(tmp_path / "recordings")]),
        "WATCH__SETTLE_SECONDS": "0.1",
        "WATCH__SIDECAR_WAIT_SECONDS": "0.1",
        "LOG__DIR": "",
    }
    return {PREFIX + key: value for key, value in named.items()}


@pytest.fixture
def reload(cloud: DevCloud, environ: dict[str, str]) -> Iterator[Callable[..., App]]:
    """Start the agent, and reload it at each further call; keys are written as SECTION__KEY."""
    apps: list[App] = []

    def by(**changes: str) -> App:
        environ.update({PREFIX + key: value for key, value in changes.items()})
        settings = load(cloud.agent_files.config_path, environ).settings
        if apps:
            apps[0].reload(lambda: settings)
        else:
            ports = open_ports(settings, environ, hide=lambda *_, **__: None)
            apps.append(App(settings, ports))
            apps[0].start()
        return apps[0]

    yield by
    for app in apps:
        app.stop()


def test_an_upload_in_flight_keeps_its_route_which_is_let_go_of_after_that(
    reload: Callable[..., App], cloud: DevCloud, tmp_path: Path
) -> None:
    app = reload(UPLOAD__BANDWIDTH_MBIT="1")
    recording = write_mcap(tmp_path / "recordings" / "a.mcap", size=9 * MIB)
    eventually(lambda: any(claim.transfer.sent for claim in app.dispatch.in_flight()))
    (claim,) = app.dispatch.in_flight()
    reload(CLOUD__REQUEST_TIMEOUT_SECONDS="7", RETRY__MAX_ATTEMPTS="9")
    app.jobs.refresh()
    assert len(app.connections) == 2
    assert app.dispatch.terms.max_attempts == 9
    assert claim.terms.max_attempts == 5
    reload(UPLOAD__BANDWIDTH_MBIT="0")
    eventually(lambda: app.history.counts()["completed"])
    log = app.history.get(1)
    assert (log.attempt_count, log.bytes_sent) == (1, recording.stat().st_size)
    assert cloud.read_object(log.object_key) == recording.read_bytes()
    eventually(lambda: not app.dispatch.in_flight())
    app.jobs.refresh()
    assert len(app.connections) == 1
    write_mcap(tmp_path / "recordings" / "b.mcap", seed=2)
    eventually(lambda: app.history.counts()["completed"] == 2)


def test_a_route_that_claims_are_still_made_for_is_kept(reload: Callable[..., App]) -> None:
    app = reload()
    # While the scheduler is stopped, the connections are not refreshed.
    app.shared.ports.scheduler.stop()
    before = app.connections.current
    new = app.engine.successor(change(app.settings, app.settings), app.shared, app.connections)
    app.connections.replace(new.connection)
    app.jobs.refresh()
    assert before in app.connections
    app.dispatch.terms = new.terms
    app.jobs.refresh()
    assert before not in app.connections


def test_a_marker_that_waits_goes_on_waiting(reload: Callable[..., App], tmp_path: Path) -> None:
    app = reload(WATCH__RESCAN_SECONDS="3600")
    begun = unfinished(tmp_path / "recordings" / "a.mcap")
    marker = Path(f"{begun}.resync")
    marker.touch()
    eventually(lambda: marker in app.engine.markers.report().waiting)
    markers = app.engine.markers
    reload()
    assert app.engine.markers is not markers
    eventually(lambda: marker in app.engine.markers.report().waiting)


@pytest.mark.parametrize("stops", [False, True])
def test_a_key_that_is_just_being_told_is_not_lost(
    reload: Callable[..., App],
    cloud: DevCloud,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stops: bool,
) -> None:
    asked, told, init_device = threading.Event(), threading.Event(), cloud.rules.init_device

    def slow(request: InitDeviceRequest) -> InitDeviceResponse:
        """Hold the answer back after the platform has made the key."""
        answer = init_device(request)
        asked.set()
        assert told.wait(30)
        return answer

    monkeypatch.setattr(cloud.rules, "init_device", slow)
    cloud.stop_gateway()
    cloud.start_gateway()
    file = tmp_path / "dp-config.json"
    file.write_text(
        json.dumps(
            {"endpoints": dict.fromkeys(("auth", "gateway", "deviceInit"), cloud.gateway_url)}
        )
    )
    app = reload(CLOUD__DP_CONFIG=str(file), AGENT__DEVICE_ID="arm-7")
    app.shared.boot_jitter.until = 0.0
    if app.connections.current.enrolling is not None:
        app.connections.current.enrolling.prepare()
    assert asked.wait(30)
    if stops:
        threading.Timer(0.5, told.set).start()
        app.stop()
    else:
        reload(RETRY__MAX_ATTEMPTS="9")
        app.jobs.refresh()
        told.set()
    eventually(app.connections.current.backend.profiles.load)
    if not stops:
        eventually(lambda: app.gate.closed() is None)


def test_hours_and_links_are_heeded_at_once_and_forgotten_at_once(
    reload: Callable[..., App],
) -> None:
    app = reload()
    assert app.gate.closed() is None
    reload(UPLOAD__WINDOWS='["00:00-00:01", "23:58-23:59"]', UPLOAD__INTERFACES='["none*"]')
    assert {code for code in ("windows", "link") if app.gate.closed(but=code)} == {
        "windows",
        "link",
    }
    reload(UPLOAD__WINDOWS="[]", UPLOAD__INTERFACES="[]")
    assert app.gate.closed() is None


def test_metrics_are_served_where_the_new_configuration_says(reload: Callable[..., App]) -> None:
    def served(at: str) -> bool:
        try:
            return fetch(at, "/healthz")[0] == 200
        except ConnectionError:
            return False

    first, second = (f"127.0.0.1:{free_port()}" for _ in range(2))
    app = reload()
    reload(METRICS__LISTEN=first)
    eventually(lambda: served(first))
    reload(METRICS__LISTEN=second)
    eventually(lambda: served(second))
    assert not served(first)
    reload(METRICS__LISTEN="")
    assert not served(second)
    assert app.engine.health.faults() == []


def test_other_rules_for_recordings_hold_for_those_that_lie_there(
    reload: Callable[..., App], tmp_path: Path
) -> None:
    app = reload(WATCH__AUTO="false", UPLOAD__MAX_CONCURRENT="1")
    for number in range(3):
        write_mcap(tmp_path / "recordings" / f"{number}.mcap", seed=number)
    eventually(lambda: app.engine.discovery.intake.unasked == 3)
    reload(WATCH__AUTO="true", WATCH__EXCLUDE='["2.*"]', UPLOAD__MAX_CONCURRENT="3")
    eventually(lambda: app.history.counts()["completed"] == 2)
    reload(WATCH__EXCLUDE="[]")
    eventually(lambda: app.history.counts()["completed"] == 3)


def test_what_other_rules_find_is_carried_by_them(
    reload: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = reload()
    start, told = DiscoveryService.start, []

    def begun(discovery: DiscoveryService, dispatch: Dispatch) -> None:
        told.append(dispatch.terms.prepare._examiner is discovery.examiner)
        start(discovery, dispatch)

    monkeypatch.setattr(DiscoveryService, "start", begun)
    (tmp_path / "other").mkdir()
    write_mcap(tmp_path / "other" / "a.mcap")
    reload(WATCH__ROOTS=json.dumps([str(tmp_path / "other")]))
    assert told == [True], "else it would be refused: it lies in none of the old folders"
    eventually(lambda: app.history.counts()["completed"] == 1)


def test_what_is_refused_changes_nothing(reload: Callable[..., App], tmp_path: Path) -> None:
    app = reload()
    before = app.settings, app.dispatch.terms, app.engine, app.connections.current
    reload(CLOUD__TLS_CA_FILE=str(tmp_path / "none.pem"), UPLOAD__BANDWIDTH_MBIT="1")
    assert (app.settings, app.dispatch.terms, app.engine, app.connections.current) == before
    assert "cloud.tls_ca_file" in app.engine.snapshot.take()["settings"]["refused"]
    reload(CLOUD__TLS_CA_FILE="")
    assert app.engine.snapshot.take()["settings"] == {
        "restart_for": [],
        "refused": "",
        "unknown_keys": [],
    }


# These tests run the real process.


def configure(agent: Agent, /, **sections: Mapping[str, Any]) -> None:
    """Write a drop-in beside the configuration."""
    file = Path(f"{agent.config}.d") / "test.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        "".join(
            f"[{name}]\n"
            + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
            for name, section in sections.items()
        )
    )


def send_sighup(agent: Agent, until: str) -> None:
    """Send SIGHUP, and wait until the agent has logged a text that it had not logged before."""
    before = agent.said().count(until)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    eventually(lambda: agent.said().count(until) > before)


@pytest.fixture
def agent(cloud: DevCloud, tmp_path: Path) -> Iterator[Agent]:
    """An agent that is not started yet, and gets no folder from its environment."""
    agent = Agent(cloud.agent_files, tmp_path)
    # Variables of the environment would win over the file.
    for key in ("WATCH__ROOTS", "AGENT__STATE_DIR", "LOG__DIR"):
        del agent.environ[PREFIX + key]
    yield agent
    if agent.process is not None:
        agent.stop()


def folders(agent: Agent, root: Path, logs: Path) -> dict[str, Mapping[str, Any]]:
    """Return settings by which the agent watches ``root`` and writes its log below ``logs``."""
    return {
        "agent": {"state_dir": str(agent.state)},
        "watch": {"roots": [str(root)]},
        "log": {"dir": str(logs)},
    }


def test_a_reload_takes_effect_while_an_upload_goes_on(
    cloud: DevCloud, agent: Agent, tmp_path: Path
) -> None:
    other, new_logs = tmp_path / "other", tmp_path / "logs-2"
    other.mkdir()
    configure(agent, **folders(agent, agent.root, agent.logs), upload={"bandwidth_mbit": 1})
    agent.start()
    # This upload takes about three minutes.
    recording = write_mcap(agent.root / "a.mcap", size=20 * MIB)
    (begun,) = agent.wait(lambda logs: logs and phase_of(logs[0]) == "uploading")

    configure(agent, **folders(agent, other, new_logs))
    send_sighup(agent, "settings reloaded: log.dir, upload.bandwidth_mbit, watch.roots")
    elsewhere = write_mcap(other / "b.mcap", seed=2)
    # The agent no longer watches this folder.
    write_mcap(agent.root / "c.mcap", seed=3)
    logs = agent.wait_completed(2)
    assert [log.path for log in logs] == [str(recording), str(elsewhere)]
    upload_ids = [log.require_session().logical_upload_id for log in (logs[0], begun)]
    assert upload_ids[0] == upload_ids[1]
    assert logs[0].attempt_count == 1
    assert logs[0].bytes_sent == recording.stat().st_size, "nothing was sent twice"
    assert cloud.read_object(logs[0].object_key) == recording.read_bytes()
    assert "completed" in (new_logs / "agent.log").read_text()
    assert agent.stop() == 0


def test_a_wrong_file_changes_nothing_and_some_settings_need_a_restart(
    agent: Agent, tmp_path: Path
) -> None:
    settings = folders(agent, agent.root, agent.logs)
    configure(agent, **settings)
    agent.start()
    write_mcap(agent.root / "a.mcap", seed=1)
    agent.wait_completed(1)

    configure(agent, **settings, upload={"order": "best", "colour": "red"})
    send_sighup(agent, "the configuration is refused, and the old one stays")
    refusal = agent.said().splitlines()[-1]
    assert "upload.order" in refusal
    assert "upload.colour" in refusal
    configure(agent, **settings)
    told = agent.command("status").stdout
    assert "the new configuration was refused, the old one stays" in told
    write_mcap(agent.root / "b.mcap", seed=2)
    agent.wait_completed(2)

    configure(agent, **settings, bucket={"name": "another"})
    send_sighup(agent, "restart the agent for bucket.name")
    told = agent.command("status").stdout
    assert "restart for bucket.name" in told
    assert "refused" not in told
    configure(agent, **{**settings, "agent": {"state_dir": str(tmp_path / "state-2")}})
    send_sighup(agent, "restart the agent for agent.state_dir")
    assert not (tmp_path / "state-2").exists()
    write_mcap(agent.root / "c.mcap", seed=3)
    agent.wait_completed(3)
    assert agent.stop() == 0


def test_a_storm_of_signals_is_one_reload_and_a_stop_gets_through(
    cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud.agent_files, tmp_path) as agent:
        eventually(lambda: "watches" in agent.said())
        send_sighup(agent, "settings reloaded: no changes")
        assert agent.process is not None
        for _ in range(200):
            agent.process.send_signal(signal.SIGHUP)
        assert agent.stop() == 0
    assert agent.said().count("settings reloaded") < 20
