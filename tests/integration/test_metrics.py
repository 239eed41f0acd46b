"""Tests of the metric names that others build on.

The real command exposes them, Prometheus accepts them, and the files in deploy/ use them.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.devcloud.cloud import DevCloud
from agent.devcloud.servers import free_port
from tests.harness.agent_process import Agent, running
from tests.harness.prometheus import (
    DEPLOY,
    RULES,
    fetch,
    needs_prometheus,
    needs_promtool,
    prometheus,
)
from tests.harness.recorders import write_mcap

CONTRACT = {
    "recordings",
    "oldest_unsynced_seconds",
    "backlog_bytes",
    "uploaded_bytes_total",
    "uploads_total",
    "errors_total",
    "gate_closed",
    "last_success_timestamp_seconds",
    "disk_free_bytes",
    "lease_remaining_seconds",
    "orphaned_uploads",
    "watcher_up",
    "scan_seconds",
    "build_info",
}
PAGE = (DEPLOY / "README.md").read_text("utf-8")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """The real command, which has uploaded a recording."""
    folder = tmp_path_factory.mktemp("metrics")
    listen = f"127.0.0.1:{free_port()}"
    textfile = str(folder / "keystone-agent.prom")
    with (
        DevCloud(folder / "cloud") as cloud,
        running(
            cloud.agent_files, folder, METRICS__LISTEN=listen, METRICS__TEXTFILE=textfile
        ) as agent,
    ):
        write_mcap(agent.root / "a.mcap", size=9 * 1024 * 1024)
        agent.wait_completed(1)
        yield agent


@pytest.fixture
def address(agent: Agent) -> str:
    return agent.environ["KEYSTONE_AGENT_METRICS__LISTEN"]


@pytest.fixture
def exposed(address: str) -> str:
    status, headers, text = fetch(address, "/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    return text


def names(text: str) -> set[str]:
    return {
        name.removeprefix("keystone_agent_") for name in re.findall(r"keystone_agent_[a-z_]+", text)
    }


def promtool(*arguments: str, given: str = "") -> str:
    done = subprocess.run(
        ["promtool", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_exactly_the_promised_names_are_exposed_each_with_help(exposed: str) -> None:
    assert {line.split()[2] for line in exposed.splitlines() if line.startswith("# TYPE")} == {
        f"keystone_agent_{name}" for name in CONTRACT
    }
    helped = {
        line.split()[2]: line.split(maxsplit=3)[3:]
        for line in exposed.splitlines()
        if line.startswith("# HELP")
    }
    assert [name for name, words in helped.items() if not words] == []
    assert helped.keys() == {f"keystone_agent_{name}" for name in CONTRACT}


def test_every_combination_of_a_small_set_is_there_from_the_start(exposed: str) -> None:
    series = dict(line.rsplit(" ", 1) for line in exposed.splitlines() if not line.startswith("#"))
    expected = {
        'recordings{state="%s"}': ["pending", "in_progress", "completed", "failed"],
        'uploads_total{outcome="%s"}': ["completed", "retried", "waiting", "put_back", "failed"],
        'errors_total{kind="%s"}': ["offline", "blocked", "counted", "final", "lease_lost"],
        'gate_closed{reason="%s"}': [
            "disk_full",
            "link",
            "not_enrolled",
            "pause",
            "power_on",
            "windows",
        ],
    }
    labelled = {
        f"keystone_agent_{name % value}" for name, values in expected.items() for value in values
    }
    assert {name for name in series if "{" in name and "build_info" not in name} == labelled
    above_0 = {name for name in labelled if float(series[name])}
    assert above_0 == {
        'keystone_agent_recordings{state="completed"}',
        'keystone_agent_uploads_total{outcome="completed"}',
    }
    assert float(series["keystone_agent_uploaded_bytes_total"]) > 9 * 1024 * 1024


@needs_promtool
def test_promtool_has_nothing_to_say_against_the_metrics(agent: Agent, exposed: str) -> None:
    assert promtool("check", "metrics", given=exposed) == ""
    textfile = Path(agent.environ["KEYSTONE_AGENT_METRICS__TEXTFILE"]).read_text()
    assert names(textfile) == CONTRACT
    assert promtool("check", "metrics", given=textfile) == ""


@needs_promtool
def test_the_alert_rules_are_sound_and_raise_what_they_should() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULES.with_name("keystone-agent.test.yml")))
    promtool("check", "config", "--syntax-only", str(RULES.with_name("scrape.yml")))


def test_every_alert_says_what_to_do_and_is_tried() -> None:
    rules = RULES.read_text()
    tried = RULES.with_name("keystone-agent.test.yml").read_text()
    alerts = re.findall(r"alert: (\w+)", rules)
    assert len(alerts) > 8
    assert (
        rules.count("summary:") == rules.count("remedy:") == rules.count("severity:") == len(alerts)
    )
    raised = re.findall(r"alertname: (\w+)\n\s+exp_alerts:\n\s+- ", tried)
    assert set(alerts) == set(raised)


def test_deploy_and_its_page_use_only_names_that_are_there(exposed: str) -> None:
    there = names(exposed)
    files = [path for place in ("prometheus", "grafana") for path in (DEPLOY / place).iterdir()]
    used = {name: path for path in files for name in names(path.read_text())}
    assert {name: path for name, path in used.items() if name not in there} == {}
    assert there <= used.keys()
    section = PAGE.partition("\n## Metrics\n")[2].partition("\n## ")[0]
    assert names(section) == there


def test_the_dashboard_is_valid_and_each_panel_asks_for_something() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "keystone-agent.json").read_text())
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert variables == ["datasource", "job", "instance"]
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    assert [
        panel["title"] for panel in panels if not all(target["expr"] for target in panel["targets"])
    ] == []


@needs_prometheus
def test_a_real_prometheus_scrapes_the_real_agent(
    agent: Agent, address: str, tmp_path: Path
) -> None:
    del agent
    with prometheus(tmp_path / "prometheus", address) as server:
        (info,) = server.wait("keystone_agent_build_info")
        assert info["metric"]["instance"] == address
        server.wait("count_over_time(up[1m]) > 2")
        assert [value for _, value in server.query("up[1m]")[0]["values"] if value != "1"] == []
        assert (
            server.query('keystone_agent_uploads_total{outcome="completed"}')[0]["value"][1] == "1"
        )
        panels = json.loads((DEPLOY / "grafana" / "keystone-agent.json").read_text())["panels"]
        for panel in panels:
            # Prometheus understands each query, also where no value answers it at the moment.
            for target in panel.get("targets", ()):
                server.query(target["expr"].replace("$job", ".*").replace("$instance", ".*"))
        (group,) = server.ask("/api/v1/rules")["groups"]
        assert {rule["state"] for rule in group["rules"]} == {"inactive"}
        assert "err" not in {
            rule["health"] for rule in server.ask("/api/v1/rules")["groups"][0]["rules"]
        }


def test_an_agent_uploads_though_its_port_is_taken_and_takes_its_textfile_along_when_it_stops(
    tmp_path: Path,
) -> None:
    textfile = tmp_path / "keystone-agent.prom"
    with socket.create_server(("127.0.0.1", 0)) as taken, DevCloud(tmp_path / "cloud") as cloud:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with running(
            cloud.agent_files, tmp_path, METRICS__LISTEN=listen, METRICS__TEXTFILE=str(textfile)
        ) as agent:
            write_mcap(agent.root / "a.mcap")
            agent.wait_completed(1)
            agent.wait(lambda _: textfile.exists())
            assert (
                f"metrics.listen = {listen} can't be used: Address already in use" in agent.said()
            )
            assert agent.stop() == 0
    assert not textfile.exists()


def test_the_library_is_not_paid_for_where_nobody_asks_for_metrics() -> None:
    program = (
        "import sys, agent.cli, agent.assembly.app; sys.exit('prometheus_client' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
