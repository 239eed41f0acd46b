"""Tests of /healthz of the real agent.

Each part of the agent is really ended. Other tests cover the counters that must go on.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.adapters.config import PREFIX, load
from agent.assembly import jobs
from agent.assembly.app import App
from agent.assembly.ports import open_ports
from agent.devcloud.cloud import DevCloud
from agent.devcloud.servers import free_port
from agent.observe.health import Cure, Health, HealthFault, ProgressCheck, StateCheck
from tests.harness.prometheus import fetch

_POLL_SECONDS = 0.02


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """A running agent that repairs nothing by itself during a test."""
    monkeypatch.setattr(jobs, "_SUPERVISE_SECONDS", 3600.0)
    (tmp_path / "recordings").mkdir()
    with DevCloud(tmp_path / "cloud") as cloud:
        named = {
            PREFIX + "AGENT__STATE_DIR": str(tmp_path / "state"),
            PREFIX + "WATCH__ROOTS": json.dumps([str(tmp_path / "recordings")]),
            PREFIX + "WATCH__RESCAN_SECONDS": "1",
            PREFIX + "METRICS__LISTEN": f"127.0.0.1:{free_port()}",
        }
        (tmp_path / "state").mkdir()
        settings = load(cloud.agent_files.config_path, named).settings
        app = App(settings, open_ports(settings, named, hide=lambda *_, **__: None))
        app.start()
        try:
            wait(app, lambda answer: answer == (200, "ok\n"))
            yield app
        finally:
            app.stop()


def healthz(app: App) -> tuple[int, str]:
    try:
        status, _, body = fetch(app.settings.metrics.listen, "/healthz")
    except ConnectionError:
        # The endpoint is not served yet.
        return 0, ""
    return status, body


def wait(app: App, until: Callable[[tuple[int, str]], bool]) -> tuple[int, str]:
    """Return what /healthz answers as soon as ``until`` is true of the answer."""
    nap = threading.Event()
    for _ in range(int(20 / _POLL_SECONDS)):
        answer = healthz(app)
        if until(answer):
            return answer
        nap.wait(_POLL_SECONDS)
    raise AssertionError(answer)


def test_a_scheduler_that_has_ended_is_no_health(app: App) -> None:
    app.shared.ports.scheduler.stop()
    assert healthz(app) == (503, "the scheduler has stopped: restart the agent\n")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_finder_that_has_ended_is_no_health(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def ends() -> bool:
        raise SystemExit

    monkeypatch.setattr(app.engine.discovery.loop, "once", ends)
    assert app.engine.discovery._thread is not None
    app.engine.discovery._thread.join(10)
    assert healthz(app) == (503, "the search for new recordings has stopped: restart the agent\n")


def test_a_watcher_that_has_ended_is_no_health_until_it_is_healed(app: App) -> None:
    (post,) = app.engine.discovery.watcher._watched_roots.values()
    post.observer.stop()
    post.observer.join(10)
    status, why = healthz(app)
    assert (status, why.splitlines()) == (
        503,
        [
            (
                "changes in a watched folder are not noticed, only scans find new recordings: see "
                "the log"
            )
        ],
    )
    assert "keystone_agent_watcher_up 0.0" in fetch(app.settings.metrics.listen, "/metrics")[2]
    app.engine.discovery.watcher.supervise()
    assert healthz(app) == (200, "ok\n")


def test_a_history_that_was_closed_is_no_health(app: App) -> None:
    app.history.close()
    status, why = healthz(app)
    assert status == 503
    assert "the history is closed: restart the agent" in why.splitlines()


def test_a_dispatcher_and_a_finder_that_hang_are_no_health(app: App) -> None:
    with app.dispatch._lock, app.engine.discovery.discover._lock:
        app.engine.health.check()
        now = time.monotonic()
        app.engine.health._monotonic = lambda: now + 55
        assert healthz(app) == (200, "ok\n")
        app.engine.health._monotonic = lambda: now + 61
        assert healthz(app) == (503, "the queue was not checked for 60 s: restart the agent\n")
        app.engine.health._monotonic = lambda: now + 602
        status, why = healthz(app)
    assert (status, len(why.splitlines())) == (503, 2)
    assert "no scan has finished for 601 s" in why
    wait(app, lambda answer: answer == (200, "ok\n"))


def test_a_count_may_stand_still_for_its_time_and_no_longer() -> None:
    count, now = 7, 100.0
    fault = HealthFault("stuck", "it stands still", "restart")
    health = Health([], [ProgressCheck(fault, lambda: count, 60)], lambda: now)
    assert health.faults() == []
    now += 60
    assert health.faults() == []
    now += 1
    assert health.faults() == [fault]
    count += 1
    assert health.faults() == []


def test_a_fault_is_said_once_and_again_when_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault = HealthFault("broken", "it is broken", "operator")
    answers = iter((True, False, False, True, False))
    health = Health([StateCheck(fault, lambda: next(answers))], [])
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            health.check()
    assert [record.getMessage() for record in caplog.records] == ["not healthy: it is broken"] * 2


@pytest.mark.parametrize(
    ("cure", "needed"), [("restart", True), ("wait", False), ("operator", False)]
)
def test_only_a_fault_with_that_cure_needs_a_restart(cure: Cure, needed: bool) -> None:
    health = Health([StateCheck(HealthFault("broken", "it is broken", cure), lambda: False)], [])
    assert health.needs_restart() is needed
    assert health.messages() == ["it is broken"]
