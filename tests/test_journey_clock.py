"""The real command with another time than the cloud's: a robot without a battery boots in 1970."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.devcloud.cloud import DevCloud
from tests.journey import Agent
from tests.recorders import write_mcap

LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")), None)
YEAR = 365 * 86400

pytestmark = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")


class Elsewhen(Agent):
    """An agent whose wall clock is where a file says."""

    def __init__(self, cloud: DevCloud, folder: Path, offset: float) -> None:
        super().__init__(cloud, folder)
        self._time = folder / "time"
        self.set_offset(offset)
        self.environ |= {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(self._time),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }

    def set_offset(self, seconds: float) -> None:
        """Let the clock jump, also while the agent runs; 0 is the true time."""
        aside = self._time.with_suffix(".new")
        aside.write_text(f"{seconds:+.0f}\n")
        aside.replace(self._time)


def gate_of(agent: Agent) -> str:
    told = json.loads(agent.command("status", "--json").stdout)
    return json.dumps(told["agent"]["gate"]) if told["agent"] else ""


def until(agent: Agent, told: Callable[[str], bool]) -> None:
    agent.wait(lambda _: told(gate_of(agent)))


def test_a_year_ahead_an_upload_over_tls_completes(tmp_path: Path) -> None:
    with DevCloud(tmp_path / "cloud", tls=True) as cloud:
        agent = Elsewhen(cloud, tmp_path, YEAR)
        agent.start()
        try:
            recording = write_mcap(agent.root / "a.mcap", size=9 << 20)
            (log,) = agent.wait_completed(1)
            assert cloud.read_object(log.object_key) == recording.read_bytes()
            assert log.completed_at is not None
            assert int(log.completed_at[:4]) > time.gmtime().tm_year, "the clock was ahead indeed"
        finally:
            agent.stop()


def test_in_1970_the_gate_blames_the_clock_and_opens_once_it_is_set(tmp_path: Path) -> None:
    with DevCloud(tmp_path / "cloud", tls=True) as cloud:
        agent = Elsewhen(cloud, tmp_path, -time.time() + 86400)
        agent.start()
        try:
            write_mcap(agent.root / "a.mcap")
            until(agent, lambda gate: "this robot's clock says 1970" in gate)
            agent.set_offset(0)
            (log,) = agent.wait_completed(1)
            assert log.attempt_count == 1
        finally:
            agent.stop()


def test_a_clock_that_jumps_while_the_agent_runs_stops_nothing(tmp_path: Path) -> None:
    with DevCloud(tmp_path / "cloud", tls=True) as cloud:
        agent = Elsewhen(cloud, tmp_path, 0)
        agent.start()
        try:
            for number, offset in enumerate((0, -7 * 86400, 120 * 86400, 0)):
                agent.set_offset(offset)
                write_mcap(agent.root / f"{number}.mcap", seed=number)
                agent.wait_completed(number + 1)
        finally:
            assert agent.stop() == 0
    assert len(list(agent.root.iterdir())) == 4
