"""Tests of `check`: one line for each precondition, in bounded time, and nothing is left behind."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest

from agent.adapters.clock import RealClock
from agent.adapters.config import ConfigError
from agent.adapters.store import MinioStore
from agent.model.error_table import TABLE
from agent.model.errors import AgentError
from agent.model.unforeseen import SHORTAGES
from agent.model.values import CredentialLease, UploadSession
from agent.preconditions.table import Finding, Note, Precondition, findings
from tests.harness.cli_scene import Scene, World
from tests.harness.faketime import LIBRARY
from tests.harness.faults.gateway_proxy import refused
from tests.harness.faults.script import FOREVER
from tests.harness.faults.store_proxy import Exchange, says
from tests.harness.paths import REPOSITORY
from tests.harness.scripted_http_server import raw_server

PAGE = REPOSITORY / "deploy" / "README.md"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


@pytest.fixture
def scene(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene(tmp_path, world, monkeypatch)
    with scene.stack:
        yield scene
    world.mend()


def multiparts(world: World, key: str) -> list[str]:
    """Return the multipart uploads begun under a key of the bucket, as its owner sees them."""
    store = MinioStore(clock=RealClock())
    assert world.cloud._store is not None
    endpoint = world.cloud._store.endpoint
    lease = CredentialLease(endpoint.access_key, endpoint.secret_key, "", 0.0)
    place = UploadSession("", "", world.cloud.bucket, endpoint.url, key, "us-east-1", 1)
    try:
        return list(store.at(place, lambda: lease).multiparts())
    finally:
        store.close()


def found(scene: Scene, name: str) -> Finding:
    (line,) = [line for line in scene.check()["preconditions"] if line["name"] == name]
    return Finding(**line)


# These tests run a single check.


def test_what_needs_something_that_is_not_ok_is_not_tried_but_says_where_to_look() -> None:
    def fail() -> str:
        raise AgentError("it broke", hint="mend it")

    table = [
        Precondition("a", fail),
        Precondition("b", lambda: "fine", ["a"]),
        Precondition("c", lambda: "fine", ["b"]),
        Precondition("d", lambda: Note("fine", "but look")),
    ]
    assert list(findings(table)) == [
        Finding("a", False, "it broke", "mend it"),
        Finding("b", False, "not tried: see a"),
        Finding("c", False, "not tried: see a"),
        Finding("d", True, "fine", "but look"),
    ]


def test_a_look_that_does_not_come_back_is_given_up() -> None:
    ended = threading.Event()
    table = [
        Precondition("a", lambda: str(ended.wait(60)), remedy_if_late="wake it"),
        Precondition("b", lambda: "fine"),
    ]
    first, second = findings(table, patience_seconds=0.01)
    ended.set()
    assert first == Finding("a", False, "no answer within 0 s", "wake it")
    assert second.ok


def test_a_mistake_of_its_own_is_a_line_that_says_what_it_was() -> None:
    first, second = findings(
        [Precondition("a", lambda: str(1 / 0)), Precondition("b", lambda: "fine")]
    )
    assert (first.ok, first.says) == (False, "ZeroDivisionError: division by zero")
    assert "report" in first.remedy
    assert second.ok


@pytest.mark.parametrize(
    ("lack", "code"),
    [
        (OSError(errno.EMFILE, "Too many open files", "/a"), "out_of_descriptors"),
        (MemoryError(), "out_of_memory"),
    ],
)
def test_what_this_robot_lacks_is_a_line_of_its_own(lack: Exception, code: str) -> None:
    def fail() -> str:
        raise lack

    assert list(findings([Precondition("a", fail)])) == [
        Finding("a", False, SHORTAGES[code], TABLE[code].hint)
    ]


def test_a_look_for_which_there_is_no_thread_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        (found,) = findings([Precondition("a", lambda: "fine")])
    assert found == Finding("a", False, SHORTAGES["out_of_threads"], TABLE["out_of_threads"].hint)


# In these tests every precondition is met.


def test_all_is_well_and_nothing_is_left_behind(scene: Scene) -> None:
    scene.write()
    result = scene.check()
    assert [line for line in result["preconditions"] if not line["ok"]] == []
    assert result["ok"]
    assert list(scene.state.iterdir()) == []
    assert list(scene.root.iterdir()) == []
    session = scene.world.cloud.sessions()[-1]
    assert (session.status, session.client_hints["episode_id"]) == (
        "TERMINAL",
        "keystone-agent-check",
    )
    assert multiparts(scene.world, session.object_key) == []
    begun = [request.operation for request in scene.world.store.seen]
    assert begun.count("CreateMultipartUpload") == begun.count("AbortMultipartUpload") > 0
    shown = scene.run("check")
    assert shown.exit_code == 0
    assert [
        line for line in shown.stdout.splitlines() if not line.startswith(("ok  ", "    → "))
    ] == []


def test_a_state_folder_that_is_not_there_is_not_made(scene: Scene) -> None:
    scene.write()
    scene.state.rmdir()
    assert found(scene, "state folder") == Finding(
        "state folder", True, f"{scene.state}: not there yet, the agent makes it"
    )
    assert not scene.state.exists()


def in_bucket_mode(scene: Scene) -> None:
    cloud = scene.world.cloud
    assert cloud._store is not None
    scene.settings |= {
        "cloud.mode": "bucket",
        "bucket.endpoint": cloud._store.endpoint.url,
        "bucket.name": cloud.bucket,
    }
    scene.patch.setenv("AWS_ACCESS_KEY_ID", cloud._store.endpoint.access_key)
    scene.patch.setenv("AWS_SECRET_ACCESS_KEY", cloud._store.endpoint.secret_key)


def test_a_bucket_of_ones_own_is_tried_where_recordings_would_go(scene: Scene) -> None:
    in_bucket_mode(scene)
    scene.write()
    before = scene.world.cloud.objects()
    result = scene.check()
    assert [line for line in result["preconditions"] if not line["ok"]] == []
    names = [line["name"] for line in result["preconditions"]]
    assert "profiles" not in names
    assert names.index("store") < names.index("credentials") < names.index("bucket")
    assert scene.world.cloud.objects() == before


def test_no_keys_to_a_bucket_are_the_credentials_fault(scene: Scene) -> None:
    in_bucket_mode(scene)
    scene.write()
    scene.patch.delenv("AWS_ACCESS_KEY_ID")
    scene.patch.delenv("MINIO_ACCESS_KEY", raising=False)
    line = found(scene, "credentials")
    assert not line.ok
    assert "bucket.credentials" in line.remedy


# In these tests a precondition is not met.


def test_a_wrong_configuration_is_told_with_all_its_faults(scene: Scene) -> None:
    scene.settings |= {"upload.max_concurrent": 0, "watch.polling": "perhaps"}
    scene.write()
    with pytest.raises(
        ConfigError, match=r"(?s)upload.max_concurrent.*watch.polling|watch.polling.*upload.max"
    ):
        scene.run("check")
    answer = scene.run("check", "--json")
    result = json.loads(answer.stdout)
    assert answer.exit_code == 2
    assert [line["ok"] for line in result["preconditions"]] == [False, False]
    assert all(line["remedy"] for line in result["preconditions"])


def test_no_secret_is_printed(scene: Scene) -> None:
    key = scene.profiles["devices"][0]["apiKey"]
    scene.world.gateway.script.on(
        fault=refused(grpc.StatusCode.INTERNAL, f"no: {key}"), times=FOREVER
    )
    scene.write()
    shown = scene.run("check").stdout
    assert "no: ***" in shown
    assert key not in shown


def test_what_was_begun_is_given_up_also_when_the_answer_was_lost(scene: Scene) -> None:
    def lose(exchange: Exchange) -> None:
        exchange.forward(exchange.take())
        exchange.reset()

    scene.world.store.script.on("CreateMultipartUpload", fault=lose)
    scene.write()
    line = found(scene, "bucket")
    session = scene.world.cloud.sessions()[-1]
    assert (line.ok, session.status) == (False, "TERMINAL")
    assert multiparts(scene.world, session.object_key) == []


def test_keys_that_may_not_give_up_multiparts_are_named(scene: Scene) -> None:
    scene.world.store.script.on("AbortMultipartUpload", fault=says(403, "AccessDenied"))
    scene.write()
    line = found(scene, "bucket")
    assert line.says.startswith("AbortMultipartUpload: AccessDenied")


def test_a_resolver_that_hangs_costs_one_line_its_patience(scene: Scene) -> None:
    ended = threading.Event()
    scene.patch.setattr(socket, "getaddrinfo", lambda *_, **__: ended.wait(60))
    scene.patch.setattr("agent.preconditions.table.findings.__defaults__", (0.2,))
    scene.write()
    result = scene.check()["preconditions"]
    ended.set()
    assert [line["says"] for line in result if line["name"] in ("names", "gateway")] == [
        "no answer within 0 s",
        "not tried: see names",
    ]


def test_a_proxy_that_nobody_listens_at_is_named(scene: Scene) -> None:
    scene.settings["cloud.proxy"] = "http://somebody:password-1@127.0.0.1:9"
    scene.write()
    line = found(scene, "proxy")
    assert (line.ok, line.says) == (False, "Connect: proxy: 127.0.0.1:9: Connection refused")
    assert "cloud.proxy" in line.remedy
    assert "password-1" not in scene.run("check").stdout


def test_an_authority_file_that_is_not_there_is_named(scene: Scene) -> None:
    scene.settings["cloud.tls_ca_file"] = str(scene.folder / "ca.pem")
    scene.write()
    line = found(scene, "cloud")
    assert not line.ok
    assert "ca.pem" in line.says
    assert "PEM" in line.remedy


def test_a_time_is_a_field_in_json_and_local_for_people(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write()
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        line = found(scene, "clock")
        shown = next(row for row in scene.run("check").stdout.splitlines() if "clock: " in row)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert line.says == line.at
    assert line.at.endswith("Z")
    assert not shown.endswith("Z")
    tokyo = datetime.fromisoformat(line.at.replace("Z", "+00:00")) + timedelta(hours=9)
    assert f"{tokyo:%Y-%m-%d %H:}" in shown


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
def test_a_clock_that_is_off_by_minutes_is_held_against_the_store(scene: Scene) -> None:
    cloud = scene.world.secure
    scene.profiles = json.loads(cloud.agent_files.profile_path.read_text())
    scene.settings["cloud.tls_ca_file"] = str(cloud.ca_file)
    scene.write()
    result = run_check_process(
        scene.config, LD_PRELOAD=str(LIBRARY), FAKETIME="+400s", FAKETIME_DONT_FAKE_MONOTONIC="1"
    )
    assert (result["store's clock"].ok, result["store's clock"].remedy) == (
        False,
        "set this robot's clock",
    )
    assert result["bucket"].ok


def run_check_process(config: Path, **environ: str) -> dict[str, Finding]:
    command = [sys.executable, "-m", "agent", "check", "--json", "--config", str(config)]
    answer = subprocess.run(
        command,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (answer.returncode, answer.stderr) == (1, "")
    return {line["name"]: Finding(**line) for line in json.loads(answer.stdout)["preconditions"]}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("retention", [False, True])
def test_root_judges_as_the_user_whose_state_folder_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch, *, retention: bool
) -> None:
    # The folders of pytest are closed to all other users.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        scene = Scene(folder, world, monkeypatch)
        (scene.root / "lost+found").mkdir(mode=0o700)
        (scene.root / "closed").mkdir(mode=0o700)
        scene.settings["retention.delete_after_upload"] = retention
        scene.write()
        for path in (scene.state, scene.profile_path):
            os.chown(path, 65534, 65534)
        result = run_check_process(scene.config)
        assert result["user"].says == "the checks run as nobody"
        assert result["state folder"].ok
        assert result["bucket"].ok
        root = result[f"root {scene.root}"]
        assert (root.ok, root.says) == (False, f"nobody can't read {scene.root / 'closed'}")
        (scene.root / "closed").rmdir()
        scene.state.chmod(0o600)
        result = run_check_process(scene.config)
        root = result[f"root {scene.root}"]
        assert root.ok != retention
        assert root.remedy == (
            "give the agent's user the right to write there, or set retention.*"
            if retention
            else "touch files there take effect once, but can't be removed"
        )
        assert not result["state folder"].ok
        assert "chown" in result["state folder"].remedy
        scene.config.chmod(0o600)
        command = [sys.executable, "-m", "agent", "check", "--config", str(scene.config)]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 2
        assert "can't be read: Permission denied" in answer.stderr


def test_a_robot_that_is_not_enrolled_yet_is_told_how_it_gets_its_key(scene: Scene) -> None:
    scene.profiles["devices"] = []
    scene.write()
    line = next(line for line in scene.check()["preconditions"] if line["name"] == "profiles")
    assert not line["ok"]
    assert "keystone-agent enroll" in line["remedy"]


# These tests compare `check` with the documentation and with strange answers.


def test_the_sample_on_the_page_is_what_it_prints(scene: Scene) -> None:
    sample = re.search(r"```\n(ok  configuration: .*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert sample is not None
    del scene.settings["cloud.dp_config"]
    scene.profiles = None
    scene.patch.setenv("HOME", str(scene.folder))
    scene.write()
    shown = scene.run("check").stdout
    for ours, theirs in (
        (scene.state, "/var/lib/keystone-agent"),
        (scene.root, "/data/recordings"),
        (scene.config, "/etc/keystone-agent/agent.toml"),
    ):
        shown = shown.replace(str(ours), theirs)
    lines = [line for line in sample[1].splitlines() if line != "…"]
    assert len(lines) > 5
    assert [line for line in lines if line not in shown.splitlines()] == []


@pytest.mark.parametrize(
    "says", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00\xff\x17\x80\n", b"HTTP/1.1 abc\r\n\r\n"]
)
def test_a_port_that_answers_no_http_is_a_line_and_no_traceback(scene: Scene, says: bytes) -> None:
    in_bucket_mode(scene)
    with raw_server(says) as endpoint:
        scene.settings["bucket.endpoint"] = endpoint
        scene.write()
        result = found(scene, "store")
    assert not result.ok
    assert "no_http" in result.says
    assert result.remedy == TABLE["no_http"].hint
