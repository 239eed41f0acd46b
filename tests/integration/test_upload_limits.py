"""Journeys of the real command within the operator's limits: hours, links, bandwidth."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.devcloud.cloud import DevCloud
from tests.harness.agent_process import Agent, running
from tests.harness.phase import phase_of
from tests.harness.recorders import write_mcap

MIB = 1024 * 1024


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[DevCloud]:
    with DevCloud(tmp_path / "cloud") as cloud:
        yield cloud


def gate(agent: Agent) -> dict[str, Any]:
    """Return the gate as status shows it, once the agent has written a status."""
    nap = threading.Event()
    for _ in range(100):
        status = json.loads(agent.command("status", "--json").stdout)["agent"]
        if status:
            return dict(status["gate"] or {})
        nap.wait(0.1)
    raise AssertionError("the agent says nothing")


def test_a_closed_window_holds_uploads_and_status_says_until_when(
    cloud: DevCloud, tmp_path: Path
) -> None:
    opening = (datetime.now().astimezone() + timedelta(hours=2)).replace(second=0, microsecond=0)
    closing = opening + timedelta(hours=1)
    window = f"{opening:%H:%M}-{closing:%H:%M}"
    with running(cloud.agent_files, tmp_path, UPLOAD__WINDOWS=json.dumps([window])) as agent:
        write_mcap(agent.root / "a.mcap")
        (log,) = agent.wait(lambda logs: len(logs) == 1)
        held = gate(agent)
        shown = agent.command("status").stdout
        assert (held["code"], held["reason"]) == ("windows", "outside upload.windows")
        assert datetime.fromisoformat(held["next_probe"].replace("Z", "+00:00")) == opening
        assert f"until {opening:%Y-%m-%d %H:%M}:00" in shown
        assert "outside upload.windows" in shown
        assert agent.stop() == 0
        (log,) = agent.documents()
    assert (log.status, log.attempt_count) == ("pending", 0)
    assert cloud.sessions() == []
    with running(
        cloud.agent_files, tmp_path, UPLOAD__WINDOWS='["00:00-12:00", "12:00-24:00"]'
    ) as agent:
        agent.wait_completed(1)
        assert gate(agent) == {}


def test_nothing_goes_over_an_interface_that_is_not_allowed(
    cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud.agent_files, tmp_path, UPLOAD__INTERFACES='["wl*"]') as agent:
        write_mcap(agent.root / "a.mcap")
        agent.wait(lambda logs: len(logs) == 1)
        nap = threading.Event()
        while " lo;" not in (held := gate(agent))["reason"]:
            nap.wait(0.1)
        assert held["code"] == "link"
        assert held["reason"] == "the way to the cloud is lo; upload.interfaces allows wl*"
        assert "upload.interfaces" in held["hint"]
        (log,) = agent.documents()
    assert (log.status, log.attempt_count) == ("pending", 0)
    assert cloud.sessions() == []
    with running(
        cloud.agent_files, tmp_path, UPLOAD__INTERFACES='["wl*", "lo"]', UPLOAD__METERED="pause"
    ) as agent:
        agent.wait_completed(1)


def test_two_uploads_share_the_cap(cloud: DevCloud, tmp_path: Path) -> None:
    """Two times 10 MiB at 40 Mbit/s take 4.2 s on any machine."""
    with running(
        cloud.agent_files, tmp_path, UPLOAD__BANDWIDTH_MBIT="40", UPLOAD__MAX_CONCURRENT="2"
    ) as agent:
        for number in range(2):
            write_mcap(tmp_path / f"{number}.mcap", size=10 * MIB, seed=number).rename(
                agent.root / f"{number}.mcap"
            )
        logs = agent.wait_completed(2)
    sent = sum(log.bytes_sent for log in logs)
    begun, ended = (
        min(log.started_at or "" for log in logs),
        max(log.completed_at or "" for log in logs),
    )
    took = (datetime.fromisoformat(ended[:-1]) - datetime.fromisoformat(begun[:-1])).total_seconds()
    assert sent >= 20 * MIB
    assert sent / took < 1.05 * 40 * 125_000
    assert took < 20


def test_a_stop_in_a_throttled_upload_is_in_time_and_loses_nothing(
    cloud: DevCloud, tmp_path: Path
) -> None:
    """A part takes a minute at this rate. The agent drops it when its ten seconds are over."""
    with running(cloud.agent_files, tmp_path, UPLOAD__BANDWIDTH_MBIT="1") as agent:
        recording = write_mcap(agent.root / "a.mcap", size=24 * MIB)
        agent.wait(lambda logs: logs and phase_of(logs[0]) == "uploading")
        begun = time.monotonic()
        assert agent.stop() == 0
        assert time.monotonic() - begun < 14
        (log,) = agent.documents()
    assert (log.status, log.attempt_count, log.error) == ("pending", 0, None)
    with running(cloud.agent_files, tmp_path) as agent:
        (log,) = agent.wait_completed(1)
        assert cloud.read_object(log.object_key) == recording.read_bytes()
    assert log.attempt_count == 1
