"""Journeys of the operator: the real commands ask the real agent, or leave what they ask for to the next one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.devcloud.cloud import DevCloud
from agent.edges.control import Control
from agent.model.errors import NotRunningError
from tests.journey import Agent, running
from tests.recorders import write_mcap

MIB = 1024 * 1024
PATIENT = {"AGENT__DEVICE_ID": "arm-7", "ASSETS__DEFAULT": "", "RETRY__MAX_SECONDS": "1000"}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[DevCloud]:
    """Two assets: nothing tells by itself which one a robot is."""
    with DevCloud(tmp_path / "cloud", devices=("robot-1", "robot-2"), bandwidth=16 * MIB) as cloud:
        yield cloud


def done(agent: Agent, *arguments: str) -> str:
    """What a command says that does what it is asked."""
    told = agent.command(*arguments)
    assert told.returncode == 0, told.stderr
    return told.stdout


def when(answer: Callable[[], Any]) -> Any:
    """The first answer that is one."""
    nap = threading.Event()
    for _ in range(400):
        if told := answer():
            return told
        nap.wait(0.05)
    raise AssertionError("never")


def code_of(agent: Agent) -> str:
    (log,) = agent.documents()
    return log.error.code if log.error else ""


def test_what_waits_for_its_asset_goes_on_when_it_is_set(cloud: DevCloud, tmp_path: Path) -> None:
    with running(cloud, tmp_path, **PATIENT) as agent:
        write_mcap(agent.root / "a.mcap")
        agent.wait(lambda logs: logs and logs[0].status == "failed")
        assert code_of(agent) == "no_asset_id"
        refused = agent.command("asset", "set", "arm-7", "robot-3")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("the device profile file has no asset robot-3\n→ ")
        done(agent, "asset", "set", "arm-7", "robot-2")
        (log,) = agent.wait_completed(1)
        assert log.asset_id == "robot-2"
        done(agent, "asset", "unset", "arm-7")
        write_mcap(agent.root / "b.mcap", seed=1)
        agent.wait(lambda logs: len(logs) == 2 and logs[1].status == "failed")
        assert json.loads(done(agent, "asset", "list", "--json")) == {"arm-7": ""}
        assert agent.stop() == 0
        done(agent, "asset", "set", "arm-7", "robot-1")
        agent.start()
        assert agent.wait_completed(2)[1].asset_id == "robot-1"


def test_a_file_edited_by_hand_is_taken_and_a_broken_one_is_told_and_noticed_when_mended(
    cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud, tmp_path, **PATIENT) as agent:
        write_mcap(agent.root / "a.mcap")
        agent.wait(lambda logs: logs and logs[0].status == "failed")
        path = agent.state / "assets.json"
        path.write_text('{"arm-7": "robot-2",}')
        agent.wait(lambda _: code_of(agent) == "asset_file")
        refused = agent.command("asset", "set", "arm-7", "robot-1")
        assert (refused.returncode, refused.stderr) == (
            1, f"{path} is no JSON\n→ mend or delete it; the agent notices by itself\n",
        )  # fmt: skip
        assert str(path) in done(agent, "status")
        path.write_text('{"arm-7": "robot-2"}')
        (log,) = agent.wait_completed(1)
        assert log.asset_id == "robot-2"
    assert agent.said().count(f"{path} is no JSON (mend") == 1


@pytest.mark.parametrize("bound", ["robot-1", "robot-2"])
def test_an_open_upload_keeps_its_session_unless_its_robot_became_another_asset(
    bound: str, cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud, tmp_path, UPLOAD__BANDWIDTH_MBIT="40", AGENT__DEVICE_ID="arm-7") as agent:
        when((agent.state / "control.sock").exists)
        done(agent, "asset", "set", "arm-7", "robot-1")
        recording = write_mcap(agent.root / "a.mcap", size=40 * MIB)
        agent.wait(lambda logs: logs and logs[0].phase == "uploading" and cloud.sessions())
        assert agent.stop() == 0
        (before,) = agent.documents()
        assert (before.status, before.asset_id) == ("pending", "robot-1")
        done(agent, "asset", "set", "arm-7", bound)
    with running(cloud, tmp_path, AGENT__DEVICE_ID="arm-7") as agent:
        (log,) = agent.wait_completed(1)
    assert log.asset_id == bound
    assert (log.logical_upload_id == before.logical_upload_id) is (bound == "robot-1")
    assert cloud.read_object(log.object_key) == recording.read_bytes()
    ends = {session.device_id: session.status for session in cloud.sessions()}
    assert ends == ({"robot-1": "COMPLETED"} if bound == "robot-1" else {"robot-1": "TERMINAL", "robot-2": "COMPLETED"})


def test_progress_comes_as_a_stream_until_the_agent_stops(cloud: DevCloud, tmp_path: Path) -> None:
    with running(cloud, tmp_path, UPLOAD__BANDWIDTH_MBIT="40", ASSETS__DEFAULT="robot-1") as agent:
        write_mcap(agent.root / "a.mcap", size=20 * MIB)
        when((agent.state / "control.sock").exists)
        with closing(Control(agent.state)) as control:
            stream = control.watch(0.1)
            sent = {
                upload["bytes_sent"] for _, told in zip(range(30), stream, strict=False) for upload in told["uploads"]
            }
            assert len(sent) > 3
            assert agent.process is not None
            assert control.status()["pid"] == agent.process.pid
            ended: list[BaseException] = []

            def follow() -> None:
                try:
                    for _ in stream:
                        pass
                except NotRunningError as error:
                    ended.append(error)

            follower = threading.Thread(target=follow)
            follower.start()
            assert agent.stop() == 0
            follower.join(30)
            assert len(ended) == 1
    assert not (agent.state / "control.sock").exists()
