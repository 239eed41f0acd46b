"""Tests of the commands that send requests, with an agent that runs and without one."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.control import ControlServer
from agent.model.sync_log import Fault
from tests.harness.console import Console
from tests.harness.fakes.operator import FakeOperator
from tests.harness.recorders import write_mcap

FAILED = Fault("counted", "checksum", "UploadPart: checksum", "")


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


@pytest.fixture
def agent(console: Console) -> Iterator[FakeOperator]:
    """A fake agent that runs."""
    operator = FakeOperator()
    server = ControlServer(console.state, operator)
    server.start()
    yield operator
    assert server.stop(5)


def queued_requests(console: Console) -> list[dict[str, Any]]:
    """Return the requests on disk, in their order."""
    return [
        json.loads(path.read_bytes())
        for path in sorted((console.state / "markers").glob("*.request"))
    ]


def test_each_target_has_a_line_and_one_that_is_unknown_fails_the_command(
    console: Console, agent: FakeOperator
) -> None:
    result = console.run("resync", agent.PATH, "nobody", "--reason", "too dark")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "accepted       /recordings/a.mcap  episode episode-1",
        "not_found      nobody  (nothing is known of nobody)",
    ]
    assert result.stderr == "1 of 2 could not be done\n"
    assert agent.asked == [(agent.PATH, "too dark")]


def test_what_is_queued_already_counts_as_done(console: Console, agent: FakeOperator) -> None:
    assert console.run("resync", agent.EPISODE).exit_code == 0
    result = console.run("resync", agent.EPISODE, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == [
        {
            "target": "episode-1",
            "episode_id": "episode-1",
            "status": "already_queued",
            "message": "",
        }
    ]


@pytest.mark.usefixtures("agent")
def test_a_relative_path_is_one_from_where_the_caller_stands(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(console.root)
    (console.root / "episode-1").touch()
    asked = ("episode-1", "./gone", "../x.mcap", "unknown")
    result = json.loads(console.run("first", *asked, "--json").stdout)
    assert [item["target"] for item in result] == [
        f"{console.root}/episode-1",
        f"{console.root}/gone",
        f"{console.root.parent}/x.mcap",
        "unknown",
    ]


def test_all_that_failed_can_be_asked_for_at_once(console: Console, agent: FakeOperator) -> None:
    assert "accepted" in console.run("resync", "--failed").stdout
    assert console.run("resync", "--failed", "--code", "other").stderr == "nothing to do\n"
    assert [target for target, _ in agent.asked] == [agent.PATH]


@pytest.mark.parametrize("arguments", [(), ("x", "--failed"), ("x", "--code", "checksum")])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], console: Console) -> None:
    assert console.run("resync", *arguments).exit_code == 2


def test_pause_resume_and_rescan_reach_the_agent(console: Console, agent: FakeOperator) -> None:
    assert "keystone-agent resume" in console.run("pause").stdout
    assert agent.asked_for == ["pause"]
    assert console.run("resume").exit_code == 0
    assert console.run("rescan").exit_code == 0
    assert agent.asked_for == ["pause", "resume", "rescan"]


def test_assets_are_bound_listed_and_unbound(console: Console, agent: FakeOperator) -> None:
    assert console.run("asset", "set", "arm-7", "asset-1").exit_code == 0
    assert console.json("asset", "list") == {"arm-7": "asset-1"}
    assert console.run("asset", "unset", "arm-7").exit_code == 0
    assert agent.bound == {"arm-7": ""}
    assert "bound to no asset" in console.run("asset", "list").stdout


def test_status_is_live_where_the_agent_answers(console: Console, agent: FakeOperator) -> None:
    assert console.json("status")["agent"]["paused"] is False
    agent.pause()
    assert console.json("status")["agent"]["paused"] is True


# In these tests no agent runs.


def test_requests_are_left_for_the_next_agent(console: Console) -> None:
    recording = write_mcap(console.root / "a.mcap")
    console.remember("/elsewhere/b.mcap", episode="ep-b")
    result = console.run(
        "resync", recording, "ep-b", "nobody", console.root / "none", "--json", "--reason", "dark"
    )
    assert result.exit_code == 1
    assert [
        (item["target"], item["episode_id"], item["status"]) for item in json.loads(result.stdout)
    ] == [
        (str(recording), "", "accepted"),
        ("ep-b", "ep-b", "accepted"),
        ("nobody", "", "not_found"),
        (str(console.root / "none"), "", "not_found"),
    ]
    assert console.run("first", "ep-b").exit_code == 0
    assert queued_requests(console) == [
        {"ask": "resync", "target": str(recording), "reason": "dark"},
        {"ask": "resync", "target": "ep-b", "reason": "dark"},
        {"ask": "first", "target": "ep-b", "reason": ""},
    ]


def test_what_is_left_belongs_to_the_state_folders_owner(console: Console) -> None:
    if os.geteuid() == 0:
        os.chown(console.state, 65534, 4711)
    recording = write_mcap(console.root / "a.mcap")
    assert console.run("first", recording).exit_code == 0
    assert console.run("pause").exit_code == 0
    owner = console.state.stat()
    markers = console.state / "markers"
    for path in (markers, *markers.iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == (owner.st_uid, owner.st_gid)
    assert stat.S_IMODE(markers.stat().st_mode) == 0o2770


def test_all_that_failed_is_left_recording_by_recording(console: Console) -> None:
    there = write_mcap(console.root / "a.mcap")
    console.remember(there, status="failed", error=FAILED)
    console.remember("/gone/b.mcap", episode="ep-b", status="failed", error=FAILED)
    console.remember("/gone/c.mcap", status="failed", error=Fault("final", "damaged", "", ""))
    console.remember("/gone/d.mcap", status="failed", error=FAILED)
    console.remember("/gone/d.mcap", status="completed")
    assert console.run("resync", "--failed", "--code", "checksum").exit_code == 0
    assert {request["target"] for request in queued_requests(console)} == {str(there), "ep-b"}


def test_a_name_that_is_no_utf_8_is_left_as_it_is(console: Console) -> None:
    recording = write_mcap(console.root / "a.mcap").rename(console.root / "\udcff.mcap")
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "agent",
            "first",
            recording,
            "--json",
            "--config",
            str(console.config),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert [(item["target"], item["status"]) for item in json.loads(result.stdout)] == [
        (str(recording), "accepted")
    ]
    assert [request["target"] for request in queued_requests(console)] == [str(recording)]


def test_pause_is_a_marker_that_stays(console: Console) -> None:
    marker = console.state / "markers" / "pause"
    for _ in range(2):
        assert console.run("pause").exit_code == 0
    assert marker.exists()
    for _ in range(2):
        assert console.run("resume").exit_code == 0
    assert not marker.exists()
    assert console.run("rescan").exit_code == 0


@pytest.mark.parametrize(
    "arguments", [("pause",), ("asset", "set", "arm-7", "x"), ("asset", "unset", "arm-7")]
)
def test_nothing_can_be_left_where_no_agent_ever_was(
    arguments: tuple[str, ...], console: Console
) -> None:
    result = command(console, *arguments, AGENT__STATE_DIR=str(console.state / "none"))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"{console.state / 'none'} is not there\n→ start the agent once\n"


def test_an_asset_is_set_here_and_now_by_the_same_rules(console: Console) -> None:
    profiles = console.state / "dp-config.json"
    device = {"deviceId": "asset-1", "apiKey": "key", "tags": {"site": "here"}}
    endpoints = {"auth": "http://a", "gateway": "http://g"}
    profiles.write_text(json.dumps({"version": 3, "endpoints": endpoints, "devices": [device]}))
    profiles.chmod(0o600)
    assert console.run("asset", "set", "arm-7", "asset-1").exit_code == 0
    assert console.json("asset", "list") == {"arm-7": "asset-1"}
    assert json.loads((console.state / "assets.json").read_text()) == {"arm-7": "asset-1"}
    refused = command(console, "asset", "set", "arm-7", "asset-2")
    assert refused.returncode == 1
    assert refused.stderr.startswith("the device profile file has no asset asset-2\n→ ")
    assert console.run("asset", "unset", "arm-7").exit_code == 0
    assert console.json("asset", "list") == {"arm-7": ""}
    assert not (console.state / "markers").exists()


def test_where_the_profiles_can_not_be_seen_the_agent_is_to_judge(console: Console) -> None:
    result = console.run("asset", "set", "arm-7", "asset-1")
    assert result.exit_code == 0
    assert "carried out when one starts" in result.stderr
    assert queued_requests(console) == [{"ask": "asset", "robot": "arm-7", "asset": "asset-1"}]
    assert not (console.state / "assets.json").exists()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder for other users, because pytest's own folders are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


AS_ONE_OF_THE_GROUP = """
import os
from agent.__main__ import main
os.setgroups([4711])
os.setgid(65534)
os.setuid(65534)
main()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch to another user")
def test_one_of_the_group_leaves_what_it_may_not_write(open_folder: Path) -> None:
    console = Console(open_folder)
    os.chown(console.state, 0, 4711)
    console.state.chmod(0o750)
    console.remember("/b.mcap", episode="ep-b")
    subprocess.run(["chgrp", "-R", "4711", str(console.state)], check=True)
    markers = console.state / "markers"
    markers.mkdir()
    os.chown(markers, 0, 4711)
    markers.chmod(0o2770)
    for arguments in (["asset", "unset", "arm-7"], ["first", "ep-b"], ["pause"]):
        program = [
            sys.executable,
            "-c",
            AS_ONE_OF_THE_GROUP,
            *arguments,
            "--config",
            str(console.config),
        ]
        result = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stderr
    assert queued_requests(console) == [
        {"ask": "asset", "robot": "arm-7", "asset": None},
        {"ask": "first", "target": "ep-b", "reason": ""},
    ]
    assert {path.stat().st_gid for path in markers.iterdir()} == {4711}


def command(console: Console, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the real command, with settings of its own."""
    given = {f"KEYSTONE_AGENT_{name}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "agent", *arguments, "--config", str(console.config)],
        capture_output=True,
        text=True,
        env={**os.environ, **given},
        timeout=60,
        check=False,
    )
