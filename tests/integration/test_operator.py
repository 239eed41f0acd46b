"""Journeys of the operator.

The real commands send requests to the real agent, or leave them for the next agent.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.adapters.control import Control
from agent.devcloud.cloud import DevCloud
from agent.model.errors import NotRunningError
from tests.harness.agent_process import Agent, running
from tests.harness.eventually import eventually
from tests.harness.phase import phase_of
from tests.harness.recorders import write_mcap

MIB = 1024 * 1024
PATIENT = {"AGENT__DEVICE_ID": "arm-7", "ASSETS__DEFAULT": "", "RETRY__MAX_SECONDS": "1000"}


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[DevCloud]:
    """A cloud with two assets: a robot can not find out by itself which one it is."""
    with DevCloud(tmp_path / "cloud", devices=("robot-1", "robot-2"), bandwidth=16 * MIB) as cloud:
        yield cloud


def run_successfully(agent: Agent, *arguments: str) -> str:
    """Return the output of a command that must succeed."""
    result = agent.command(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def code_of(agent: Agent) -> str:
    (log,) = agent.documents()
    return log.error.code if log.error else ""


def test_what_waits_for_its_asset_goes_on_when_it_is_set(cloud: DevCloud, tmp_path: Path) -> None:
    with running(cloud.agent_files, tmp_path, **PATIENT) as agent:
        write_mcap(agent.root / "a.mcap")
        agent.wait(lambda logs: logs and logs[0].status == "failed")
        assert code_of(agent) == "no_asset_id"
        refused = agent.command("asset", "set", "arm-7", "robot-3")
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("the device profile file has no asset robot-3\n→ ")
        run_successfully(agent, "asset", "set", "arm-7", "robot-2")
        (log,) = agent.wait_completed(1)
        assert log.asset_id == "robot-2"
        run_successfully(agent, "asset", "unset", "arm-7")
        write_mcap(agent.root / "b.mcap", seed=1)
        agent.wait(lambda logs: len(logs) == 2 and logs[1].status == "failed")
        assert json.loads(run_successfully(agent, "asset", "list", "--json")) == {"arm-7": ""}
        assert agent.stop() == 0
        run_successfully(agent, "asset", "set", "arm-7", "robot-1")
        agent.start()
        assert agent.wait_completed(2)[1].asset_id == "robot-1"


def test_a_file_edited_by_hand_is_taken_and_a_broken_one_is_told_and_noticed_when_mended(
    cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud.agent_files, tmp_path, **PATIENT) as agent:
        write_mcap(agent.root / "a.mcap")
        agent.wait(lambda logs: logs and logs[0].status == "failed")
        path = agent.state / "assets.json"
        path.write_text('{"arm-7": "robot-2",}')
        agent.wait(lambda _: code_of(agent) == "asset_file")
        refused = agent.command("asset", "set", "arm-7", "robot-1")
        assert (refused.returncode, refused.stderr) == (
            1,
            f"{path} is no JSON\n→ mend or delete it; the agent notices by itself\n",
        )
        assert str(path) in run_successfully(agent, "status")
        path.write_text('{"arm-7": "robot-2"}')
        (log,) = agent.wait_completed(1)
        assert log.asset_id == "robot-2"
    assert agent.said().count(f"{path} is no JSON (mend") == 1


@pytest.mark.parametrize("bound", ["robot-1", "robot-2"])
def test_an_open_upload_keeps_its_session_unless_its_robot_became_another_asset(
    bound: str, cloud: DevCloud, tmp_path: Path
) -> None:
    with running(
        cloud.agent_files, tmp_path, UPLOAD__BANDWIDTH_MBIT="20", AGENT__DEVICE_ID="arm-7"
    ) as agent:
        eventually((agent.state / "control.sock").exists)
        run_successfully(agent, "asset", "set", "arm-7", "robot-1")
        recording = write_mcap(agent.root / "a.mcap", size=40 * MIB)
        agent.wait(lambda logs: logs and phase_of(logs[0]) == "uploading" and cloud.sessions())
        agent.stop(signal.SIGKILL)
        (before,) = agent.documents()
        assert (phase_of(before), before.asset_id) == ("uploading", "robot-1")
        run_successfully(agent, "asset", "set", "arm-7", bound)
    with running(cloud.agent_files, tmp_path, AGENT__DEVICE_ID="arm-7") as agent:
        (log,) = agent.wait_completed(1)
    assert log.asset_id == bound
    assert (
        log.require_session().logical_upload_id == before.require_session().logical_upload_id
    ) is (bound == "robot-1")
    assert cloud.read_object(log.object_key) == recording.read_bytes()
    ends = {session.device_id: session.status for session in cloud.sessions()}
    assert ends == (
        {"robot-1": "COMPLETED"}
        if bound == "robot-1"
        else {"robot-1": "TERMINAL", "robot-2": "COMPLETED"}
    )


def test_progress_comes_as_a_stream_until_the_agent_stops(cloud: DevCloud, tmp_path: Path) -> None:
    with running(
        cloud.agent_files, tmp_path, UPLOAD__BANDWIDTH_MBIT="40", ASSETS__DEFAULT="robot-1"
    ) as agent:
        write_mcap(agent.root / "a.mcap", size=20 * MIB)
        eventually((agent.state / "control.sock").exists)
        with closing(Control(agent.state)) as control:
            stream = control.watch(0.1)
            sent = {
                upload["bytes_sent"]
                for _, result in zip(range(30), stream, strict=False)
                for upload in result["uploads"]
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


def test_a_recording_is_sent_again_by_command_whether_the_agent_runs_or_not(
    cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud.agent_files, tmp_path) as agent:
        recording = write_mcap(agent.root / "a.mcap")
        (first,) = agent.wait_completed(1)
        result = json.loads(
            run_successfully(agent, "resync", str(recording), "--reason", "too dark", "--json")
        )
        assert [(item["status"], item["episode_id"]) for item in result] == [
            ("accepted", first.episode_id)
        ]
        agent.wait_completed(2)
        assert agent.command("resync", "nobody").returncode == 1
        assert agent.stop() == 0
        assert "carried out when one starts" in run_successfully(
            agent, "resync", first.episode_id, "--reason", "once more"
        )
        agent.start()
        logs = agent.wait_completed(3)
        eventually(lambda: not list((agent.state / "markers").iterdir()))
        assert agent.stop() == 0
    assert [(log.resync, log.trigger, log.reason) for log in logs] == [
        (False, "discovered", ""),
        (True, "cli", "too dark"),
        (True, "cli", "once more"),
    ]
    assert logs[0] == first


def test_a_pause_holds_at_once_and_across_a_restart(cloud: DevCloud, tmp_path: Path) -> None:
    with running(cloud.agent_files, tmp_path) as agent:
        eventually((agent.state / "control.sock").exists)
        run_successfully(agent, "pause")
        write_mcap(agent.root / "a.mcap")
        agent.wait(lambda logs: len(logs) == 1)
        assert (
            json.loads(run_successfully(agent, "status", "--json"))["agent"]["gate"]["code"]
            == "pause"
        )
        assert agent.stop() == 0
        agent.start()
        gate = eventually(
            lambda: (json.loads(run_successfully(agent, "status", "--json"))["agent"] or {}).get(
                "gate"
            )
        )
        assert gate["code"] == "pause"
        assert "keystone-agent resume" in gate["hint"]
        (log,) = agent.documents()
        assert (log.status, log.attempt_count) == ("pending", 0)
        run_successfully(agent, "resume")
        agent.wait_completed(1)
        assert agent.stop() == 0


def test_an_asset_that_could_not_be_judged_is_set_when_the_agent_starts(
    cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud.agent_files, tmp_path, **PATIENT) as agent:
        write_mcap(agent.root / "a.mcap")
        agent.wait(lambda logs: logs and logs[0].status == "failed")
        assert agent.stop() == 0
        hidden = cloud.agent_files.profile_path.rename(tmp_path / "hidden")
        run_successfully(agent, "asset", "set", "arm-7", "robot-2")
        assert not (agent.state / "assets.json").exists()
        hidden.rename(cloud.agent_files.profile_path)
        agent.start()
        (log,) = agent.wait_completed(1)
        assert log.asset_id == "robot-2"
