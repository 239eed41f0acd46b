"""Tests of `enroll`, and of the first start of `run`, with the real command and embedded cloud."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.devcloud.cloud import DevCloud
from tests.harness.agent_process import Agent, running
from tests.harness.phase import phase_of
from tests.harness.recorders import write_mcap

MIB = 1024 * 1024
ROBOT = "arm-7"


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[DevCloud]:
    with DevCloud(tmp_path / "cloud", devices=(), bandwidth=8 * MIB) as cloud:
        yield cloud


@pytest.fixture
def profile(cloud: DevCloud, tmp_path: Path) -> Path:
    """Write a profile file with endpoints and nothing else, as an image brings it."""
    path = tmp_path / "state" / "dp-config.json"
    path.parent.mkdir()
    path.write_text(
        json.dumps(
            {"endpoints": dict.fromkeys(("auth", "gateway", "deviceInit"), cloud.gateway_url)}
        )
    )
    return path


@pytest.fixture
def settings(profile: Path) -> dict[str, str]:
    return {"CLOUD__DP_CONFIG": str(profile), "AGENT__DEVICE_ID": ROBOT}


def devices(path: Path) -> dict[str, str]:
    return {
        known["deviceId"]: known["apiKey"]
        for known in json.loads(path.read_text()).get("devices", [])
    }


def keys(cloud: DevCloud) -> dict[str, str]:
    return {known.id: known.api_key for known in cloud.devices()}


def test_the_first_start_enrols_and_uploads(
    cloud: DevCloud, tmp_path: Path, profile: Path, settings: dict[str, str]
) -> None:
    cloud.stop_gateway()
    with running(cloud.agent_files, tmp_path, **settings) as agent:
        recording = write_mcap(agent.root / "a.mcap")
        agent.wait(lambda _: "InitDevice: refused" in agent.command("status").stdout)
        status = agent.command("status").stdout
        assert f"robot {ROBOT} is not enrolled yet" in status
        assert "next try at" in status
        cloud.start_gateway()
        (log,) = agent.wait_completed(1)
        assert cloud.read_object(log.object_key) == recording.read_bytes()
        assert (log.asset_id, log.attempt_count) == (ROBOT, 1)
    assert devices(profile) == keys(cloud)
    assert list(keys(cloud)) == [ROBOT]
    assert profile.stat().st_mode & 0o777 == 0o600
    written = agent.said() + "".join(
        path.read_text() for path in agent.logs.rglob("*.*") if path.is_file()
    )
    assert "is enrolled" in written
    assert keys(cloud)[ROBOT] not in written


def test_a_rotation_in_mid_upload_drops_nothing(
    cloud: DevCloud, tmp_path: Path, profile: Path, settings: dict[str, str]
) -> None:
    front = cloud._store_proxy
    assert front is not None
    # The link is so slow that the upload lasts longer than the command, on any machine.
    front.pace.bytes_per_second = MIB / 4
    with running(cloud.agent_files, tmp_path, **settings) as agent:
        write_mcap(agent.root / "a.mcap", size=32 * MIB, seed=1)
        agent.wait(lambda logs: logs and phase_of(logs[0]) == "uploading")
        before = keys(cloud)
        result = agent.command("enroll", "--rotate")
        assert result.returncode == 0, result.stderr
        assert "the old one has stopped working" in result.stdout
        assert phase_of(agent.documents()[0]) == "uploading"
        front.pace.bytes_per_second = 64 * MIB
        cloud.expire_tokens()
        write_mcap(agent.root / "b.mcap", seed=2)
        logs = agent.wait_completed(2)
    assert [log.attempt_count for log in logs] == [1, 1]
    assert len(cloud.sessions()) == 2
    assert devices(profile) == keys(cloud) != before


def test_enroll_says_what_it_did_and_keeps_the_robots_id(
    cloud: DevCloud, tmp_path: Path, profile: Path
) -> None:
    agent = Agent(
        cloud.agent_files, tmp_path, CLOUD__DP_CONFIG=str(profile), AGENT__DEVICE_ID=ROBOT
    )
    first, second = agent.command("enroll"), agent.command("enroll")
    assert (first.returncode, first.stdout) == (0, f"device {ROBOT} is enrolled: {profile}\n")
    assert (second.returncode, second.stdout) == (
        0,
        f"device {ROBOT} is enrolled already: {profile}\n",
    )
    assert (agent.state / "device-id").read_text() == f"{ROBOT}\n"
    assert devices(profile) == keys(cloud)
    agent.environ["KEYSTONE_AGENT_AGENT__DEVICE_ID"] = "arm-8"
    other = agent.command("enroll")
    assert (other.returncode, list(keys(cloud))) == (1, [ROBOT])
    assert "--device-id" in other.stderr
    assert agent.command("enroll", "--device-id", "arm-8").returncode == 0
    assert set(devices(profile)) == {ROBOT, "arm-8"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_enrols_belongs_to_the_agents_user(
    tmp_path: Path, cloud: DevCloud, profile: Path
) -> None:
    os.chown(profile.parent, 4711, 4712)
    agent = Agent(
        cloud.agent_files, tmp_path, CLOUD__DP_CONFIG=str(profile), AGENT__DEVICE_ID=ROBOT
    )
    assert agent.command("enroll").returncode == 0
    owned = {
        path.name: (path.stat().st_uid, path.stat().st_gid) for path in profile.parent.iterdir()
    }
    assert owned == dict.fromkeys(
        [".dp-config.json.lock", "device-id", "dp-config.json"], (4711, 4712)
    )


def test_what_waiting_cannot_mend_ends_the_command_with_a_remedy(
    cloud: DevCloud, tmp_path: Path, profile: Path, settings: dict[str, str]
) -> None:
    agent = Agent(cloud.agent_files, tmp_path, **settings)
    result = agent.command("enroll", "--rotate")
    assert (result.returncode, result.stdout) == (1, "")
    assert "→ it was never enrolled" in result.stderr
    cloud.rules.enrol(ROBOT, {"site": "here"})
    result = agent.command("enroll")
    assert (result.returncode, result.stdout) == (1, "")
    assert "keystone-agent enroll --rotate makes a new key" in result.stderr
    assert agent.command("enroll", "--device-id", "ubuntu").returncode == 2
    profile.unlink()
    assert agent.command("enroll").returncode == 1


def test_enroll_goes_on_until_it_is_stopped_with_a_line_for_each_new_reason(
    cloud: DevCloud, tmp_path: Path, settings: dict[str, str]
) -> None:
    cloud.stop_gateway()
    agent = Agent(
        cloud.agent_files,
        tmp_path,
        **{**settings, "RETRY__BASE_SECONDS": "0.1", "RETRY__MAX_SECONDS": "0.1"},
    )
    command = [sys.executable, "-m", "agent", "enroll", "--config", agent.config]
    with subprocess.Popen(command, env=agent.environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        first = next(line for line in process.stderr if line.startswith("not yet"))
        assert "InitDevice: refused" in first
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=30) == 1
    assert f"stopped: device {ROBOT} is not enrolled" in rest


def test_a_platform_that_never_answers_keeps_nobody_who_wants_to_stop(
    cloud: DevCloud, tmp_path: Path, profile: Path, settings: dict[str, str]
) -> None:
    agent = Agent(cloud.agent_files, tmp_path, **settings)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        profile.write_text(
            json.dumps({"endpoints": dict.fromkeys(("auth", "gateway", "deviceInit"), url)})
        )
        command = [sys.executable, "-m", "agent", "enroll", "--config", agent.config]
        with subprocess.Popen(
            command, env=agent.environ, stderr=subprocess.PIPE, text=True
        ) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(signal.SIGINT)
                _, result = process.communicate(timeout=10)
    assert process.returncode == 1
    assert f"stopped: device {ROBOT} is not enrolled" in result


@pytest.mark.parametrize("step", range(1, 6))
def test_killed_before_any_step_the_file_is_whole_and_the_way_on_is_told(
    cloud: DevCloud, tmp_path: Path, profile: Path, settings: dict[str, str], step: int
) -> None:
    agent = Agent(cloud.agent_files, tmp_path, **settings)
    before = profile.read_text()
    command = [
        sys.executable,
        "-m",
        "tests.harness.kill_at_step",
        str(step),
        "enroll",
        "--config",
        agent.config,
    ]
    killed = subprocess.run(
        command, env=agent.environ, capture_output=True, timeout=60, check=False
    )
    assert killed.returncode == (-signal.SIGKILL if step < 5 else 0)
    if not devices(profile):
        assert profile.read_text() == before
    again = agent.command("enroll")
    if again.returncode:
        assert "DEVICE_ALREADY_INITIALIZED" in again.stderr, (
            "the platform told the key to nobody who is left"
        )
        assert agent.command("enroll", "--rotate").returncode == 0
    assert devices(profile) == keys(cloud)
    assert list(keys(cloud)) == [ROBOT]
    assert not list(profile.parent.glob(".*.new"))
