"""The name and the remedy that `status` and `check` print for each way of going wrong.

Each fault is made for real. The agent runs in this process, between a robot's folders and the
embedded cloud, with proxies between them. Some faults belong to one of the two commands only.
`status` reports what is wrong with one recording. `check` reports what is wrong before an agent can
run at all.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from watchdog.observers.inotify import InotifyObserver

from agent.adapters.history import TinyHistory
from agent.adapters.journal.lines import line
from agent.assembly import jobs
from agent.assembly.app import App
from agent.model.errors import AgentError, HistoryLockedError
from agent.model.sync_log import SyncLog
from agent.preconditions import host
from tests.harness.cli_scene import Scene, World
from tests.harness.fakes.clock import FakeClock
from tests.harness.faketime import LIBRARY
from tests.harness.faults.gateway_proxy import refused
from tests.harness.faults.script import FOREVER
from tests.harness.faults.store_proxy import says
from tests.harness.recorders import write_mcap


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


@pytest.fixture
def scene(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(jobs, "_TICK_SECONDS", 0.05)
    monkeypatch.setattr(jobs, "_LINK_SECONDS", 0.05)
    scene = Scene(tmp_path, world, monkeypatch)
    with scene.stack:
        yield scene
    world.mend()


@dataclass(frozen=True)
class Said:
    """What a command must print, and the remedy it must name.

    For `check` these are also the line with the fault, and whether all is well nevertheless.
    """

    names: str
    remedy: str
    line: str = ""
    ok: bool = False


@dataclass(frozen=True)
class Wrong:
    """One way of going wrong. None means that the command does not report it."""

    make: Callable[[Scene], None]
    status: Said | None
    check: Said | None
    recording: bool = True


# These functions make the faults.


def gateway_refuses(scene: Scene) -> None:
    scene.world.gateway.link.port.refuse()
    scene.stack.callback(scene.world.gateway.link.port.accept)


def nobody_knows_the_name(scene: Scene) -> None:
    scene.profiles["endpoints"] = dict.fromkeys(
        scene.profiles["endpoints"], "http://gateway.invalid:80"
    )


def gateway_says(
    status: grpc.StatusCode, text: str = "injected", call: str = ""
) -> Callable[[Scene], None]:
    calls = [call] if call else []
    return lambda scene: scene.world.gateway.script.on(
        *calls, fault=refused(status, text), times=FOREVER
    )


def store_is_away(scene: Scene) -> None:
    scene.world.store.port.refuse()
    scene.stack.callback(scene.world.store.port.accept)


def store_says(status: int, code: str) -> Callable[[Scene], None]:
    return lambda scene: scene.world.store.script.on(fault=says(status, code), times=FOREVER)


def key_is_refused(code: str) -> Callable[[Scene], None]:
    return lambda scene: scene.world.cloud.disable_key("robot-1", code)


def key_is_another(scene: Scene) -> None:
    scene.profiles["devices"][0]["apiKey"] = "nobody's-key-at-all"


def certificate_is_unknown(scene: Scene) -> None:
    url = scene.world.secure.gateway_url
    scene.profiles = json.loads(scene.world.secure.agent_files.profile_path.read_text())
    scene.profiles["endpoints"] = dict.fromkeys(scene.profiles["endpoints"], url)


def no_profile_file(scene: Scene) -> None:
    scene.profiles = None


def profile_file_for_all(scene: Scene) -> None:
    scene.mode = 0o644


def profile_file_broken(scene: Scene) -> None:
    scene.profiles = "{ not JSON"


def profile_not_ready(scene: Scene) -> None:
    scene.profiles["devices"][0]["tags"] = {}


def no_asset(scene: Scene) -> None:
    scene.profiles["devices"].append({**scene.profiles["devices"][0], "deviceId": "robot-2"})


def unbound(scene: Scene) -> None:
    scene.settings["assets.map"] = {"robot-1": ""}


def setting(key: str, value: Any) -> Callable[[Scene], None]:
    def make(scene: Scene) -> None:
        scene.settings[key] = value

    return make


def hours_are_over(scene: Scene) -> None:
    hour = (time.localtime().tm_hour + 12) % 24
    scene.settings["upload.windows"] = [f"{hour:02}:00-{hour:02}:30"]


def metered(scene: Scene) -> None:
    tool = scene.folder / "bin" / "busctl"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'u 1'\n")
    tool.chmod(0o755)
    scene.patch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    scene.settings["upload.metered"] = "pause"


def paused(scene: Scene) -> None:
    (scene.state / "markers").mkdir()
    (scene.state / "markers" / "pause").touch()


def root_missing(scene: Scene) -> None:
    scene.settings["watch.roots"].append(str(scene.folder / "not-mounted"))


def folder_unreadable(scene: Scene) -> None:
    """Let the kernel refuse, because no right is missing where the tests run as root."""
    closed = scene.root / "closed"
    closed.mkdir()
    open_ = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return open_(path, *arguments, **options)

    scene.patch.setattr(os, "open", refuse)


def few_watches(scene: Scene) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "inotify watch limit reached")

    scene.patch.setattr(InotifyObserver, "schedule", refuse)
    limits = scene.folder / "inotify"
    limits.mkdir()
    (limits / "max_user_watches").write_text("0\n")
    scene.patch.setattr(host, "_INOTIFY", limits)


def disk_is_full(scene: Scene) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m,mode=0700", "tmpfs", scene.state],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"can't mount a tmpfs: {mounted.stderr.decode().strip()}")
    scene.stack.callback(lambda: subprocess.run(["umount", "-l", scene.state], check=True))


def recording_damaged(scene: Scene) -> None:
    (scene.root / "b.mcap").write_bytes(b"no MCAP at all, but long enough to be one" * 10)


def sidecar(text: str) -> Callable[[Scene], None]:
    def make(scene: Scene) -> None:
        (scene.root / "a.json").write_text(text)

    return make


def unfinished(scene: Scene) -> None:
    scene.settings["watch.unfinished_minutes"] = 0.001
    whole = write_mcap(scene.folder / "whole.mcap").read_bytes()
    (scene.root / "b.mcap").write_bytes(whole[:-2000])


def remember(scene: Scene, path: Path) -> None:
    """Put a document into the history."""
    moment = "2026-05-01T10:00:00.000Z"
    history = TinyHistory(scene.state / "history", FakeClock())
    history.add(
        SyncLog(
            id=0,
            episode_id="b",
            path=str(path),
            file_size=5,
            mtime=moment,
            queued_at=moment,
            fingerprint="5-b",
        )
    )
    history.close()


def disk_taken_out(scene: Scene) -> None:
    """The disk is one of several, and what was queued from it waits."""
    remember(scene, scene.folder / "not-mounted" / "b.mcap")
    root_missing(scene)


def other_recordings(scene: Scene) -> None:
    (scene.root / "c.db3").touch()
    (scene.root / "d.bag").touch()
    (scene.root / "e.mcap").symlink_to(scene.root / "a.mcap")


def lines_damaged(scene: Scene) -> None:
    remember(scene, scene.root / "b.mcap")
    journal = scene.state / "history" / "journal"
    first, _, rest = journal.read_bytes().partition(b"\n")
    journal.write_bytes(first + b"\nflipped bits\n" + rest)


def log_folder_unusable(scene: Scene) -> None:
    (scene.folder / "file").touch()
    scene.settings["log.dir"] = str(scene.folder / "file" / "log")


NETWORK = "check the robot's network"
PLATFORM = "the platform is unavailable"
KEY = "ask the platform's administrator about this device's key"
PERMISSION = "for permission to upload"
WAYS = {
    "the gateway refuses connections": Wrong(
        gateway_refuses, Said("refused", NETWORK), Said("refused", NETWORK, "gateway")
    ),
    "a name nobody knows": Wrong(
        nobody_knows_the_name, Said("dns", NETWORK), Said("gateway.invalid", NETWORK, "names")
    ),
    "the gateway is overloaded": Wrong(
        gateway_says(grpc.StatusCode.UNAVAILABLE),
        Said("ExchangeCredential: UNAVAILABLE", PLATFORM),
        Said("UNAVAILABLE", PLATFORM, "gateway"),
    ),
    "the store is away": Wrong(
        store_is_away,
        Said("MultipartUploads?: refused", NETWORK),
        Said("CreateMultipartUpload: refused", NETWORK, "bucket"),
    ),
    "the key is disabled": Wrong(
        key_is_refused("KEY_DISABLED"),
        Said("KEY_DISABLED", KEY),
        Said("KEY_DISABLED", KEY, "credentials"),
    ),
    "the site is disabled": Wrong(
        key_is_refused("SITE_DISABLED"),
        Said("SITE_DISABLED", KEY),
        Said("SITE_DISABLED", KEY, "credentials"),
    ),
    "no such key": Wrong(
        key_is_another,
        Said("INVALID_CREDENTIAL", KEY),
        Said("INVALID_CREDENTIAL", KEY, "credentials"),
    ),
    "no permission": Wrong(
        gateway_says(grpc.StatusCode.PERMISSION_DENIED, call="CreateLogicalUpload"),
        Said("PERMISSION_DENIED", PERMISSION),
        Said("CreateLogicalUpload: PERMISSION_DENIED", PERMISSION, "bucket"),
    ),
    "access denied": Wrong(
        store_says(403, "AccessDenied"),
        Said("AccessDenied", PERMISSION),
        Said("AccessDenied", PERMISSION, "bucket"),
    ),
    "no such bucket": Wrong(
        store_says(404, "NoSuchBucket"),
        Said("NoSuchBucket", "whether the bucket is there"),
        Said("NoSuchBucket", "whether the bucket is there", "bucket"),
    ),
    "the quota is spent": Wrong(
        store_says(403, "QuotaExceeded"),
        Said("QuotaExceeded", "for more space in the bucket"),
        Said("QuotaExceeded", "for more space in the bucket", "bucket"),
    ),
    "the certificate does not verify": Wrong(
        certificate_is_unknown,
        Said("CERTIFICATE_VERIFY_FAILED", "check cloud.tls_ca_file"),
        Said("CERTIFICATE_VERIFY_FAILED", "check cloud.tls_ca_file", "tls"),
    ),
    "no profile file": Wrong(
        no_profile_file,
        Said("profiles.json No such file", "cloud.dp_config"),
        Said("profiles.json No such file", "cloud.dp_config", "profiles"),
    ),
    "a profile file for everybody": Wrong(
        profile_file_for_all,
        Said("can be read by everybody: chmod o-r", "cloud.dp_config"),
        Said("can be read by everybody: chmod o-r", "cloud.dp_config", "profiles"),
    ),
    "a broken profile file": Wrong(
        profile_file_broken,
        Said("profiles.json is no JSON", "cloud.dp_config"),
        Said("profiles.json is no JSON", "cloud.dp_config", "profiles"),
    ),
    "no profile is ready": Wrong(
        profile_not_ready,
        Said("no key or no usable tags", "complete apiKey and tags"),
        Said("none with a key and usable tags", "complete apiKey and tags", "profiles"),
    ),
    "no asset id": Wrong(
        no_asset,
        Said("nothing names the asset of robot robot-1", "assets.default"),
        Said("nothing names the asset of robot robot-1", "assets.default", "asset id"),
    ),
    "an unbound robot": Wrong(
        unbound,
        Said("robot robot-1 is bound to no asset", "bind it"),
        Said("robot robot-1 is bound to no asset", "bind it", "asset id"),
    ),
    "the disk is full": Wrong(
        disk_is_full,
        Said("has no room for more bytes", "free disk space"),
        Said("has no room for more bytes", "free disk space", "disk"),
        recording=False,
    ),
    "a pause marker": Wrong(
        paused,
        Said("an operator paused the agent", "keystone-agent resume"),
        Said("uploads pause", "delete it", "pause"),
        recording=False,
    ),
    "not at this hour": Wrong(
        hours_are_over,
        Said("outside upload.windows", "uploads go on by themselves"),
        Said("outside upload.windows", "uploads go on by themselves", "hours", ok=True),
    ),
    "not over this link": Wrong(
        setting("upload.interfaces", ["wl*"]),
        Said("the way to the cloud is lo", "connect the robot to an allowed network"),
        Said("the way to the cloud is lo", "connect the robot to an allowed network", "link"),
    ),
    "a metered link": Wrong(
        metered,
        Said("the link is metered", "upload.metered"),
        Said("the link is metered", "upload.metered", "link"),
    ),
    "a root is missing": Wrong(
        root_missing,
        Said("missing   .*not-mounted", "mount its disk"),
        Said("it is not there", "mount its disk", "root .*not-mounted"),
    ),
    "a folder can't be read": Wrong(
        folder_unreadable,
        Said("unreadable .*closed .Permission denied", "the right to read there"),
        Said("can't read .*closed", "the right to read there", "root .*"),
    ),
    "too few watches": Wrong(
        few_watches,
        Said("down: ", "fs.inotify.max_user_watches"),
        Said("max_user_watches is 0", "fs.inotify.max_user_watches", "inotify"),
    ),
    "a damaged recording": Wrong(
        recording_damaged, Said("failed    .*b.mcap", "mcap recover"), None
    ),
    "a sidecar that is no JSON object": Wrong(
        sidecar("[1]"), Said("it is no JSON object", "mend the sidecar"), None
    ),
    "two values for one tag": Wrong(
        sidecar('{"site": "elsewhere"}'), Said("site", "mend the sidecar|rename"), None
    ),
    "a sidecar that is required and missing": Wrong(
        setting("watch.sidecar", "required"),
        Said("a.mcap has no sidecar", "write it, or set watch.sidecar"),
        None,
    ),
    "an unfinished recording": Wrong(unfinished, Said("unfinished .*b.mcap", "mcap recover"), None),
    "a disk that was taken out": Wrong(
        disk_taken_out,
        Said("folder .*not-mounted is not there", "mount the disk again"),
        Said("it is not there", "mount its disk", "root .*not-mounted"),
    ),
    "recordings of other kinds, and links": Wrong(
        other_recordings, Said("ignored   1 .db3, 1 .bag, 1 links", "watch.follow_symlinks"), None
    ),
    "damaged lines in the history": Wrong(
        lines_damaged,
        Said("1 damaged lines", r"\*.damaged"),
        Said("1 damaged lines", r"\*.damaged", "history"),
    ),
    "the log can't be written": Wrong(
        log_folder_unusable, None, Said("can't write to .*file", "log.dir", "logs"), recording=False
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_it_is_named_with_its_remedy(way: str, scene: Scene) -> None:
    wrong = WAYS[way]
    wrong.make(scene)
    scene.write()
    if wrong.recording:
        write_mcap(scene.root / "a.mcap")
    if wrong.status is not None:
        with scene.agent() as agent:
            _await_status(scene, agent, wrong.status)
    if wrong.check is not None:
        _assert_checked(scene.check(), wrong.check)


def _await_status(scene: Scene, agent: App, said: Said) -> None:
    """Wait until `status` prints the fault, which the agent finds out after a while."""
    nap = threading.Event()
    for _ in range(200):
        agent.jobs.publish()
        shown = scene.run("status").stdout
        if found := re.search(said.names, shown):
            advice = (line for line in shown[found.end() :].splitlines() if "→" in line)
            if re.search(said.remedy, next(advice, "")):
                return
        nap.wait(0.05)
    raise AssertionError(f"{said} is not in\n{shown}")


def _assert_checked(result: dict[str, Any], said: Said) -> None:
    lines = [found for found in result["preconditions"] if re.fullmatch(said.line, found["name"])]
    fitting = [found for found in lines if re.search(said.names, found["says"])]
    assert fitting, result
    assert re.search(said.remedy, fitting[0]["remedy"])
    assert fitting[0]["ok"] == said.ok
    others = [
        found for found in result["preconditions"] if not found["ok"] and found not in fitting
    ]
    assert [found for found in others if not found["says"].startswith("not tried: see ")] == []
    assert result["ok"] == (said.ok and not others)


def test_a_newer_history_is_named_by_both(scene: Scene) -> None:
    scene.write()
    (scene.state / "history").mkdir()
    (scene.state / "history" / "journal").write_bytes(line(b'{"format":99,"last_ids":{}}'))
    with pytest.raises(AgentError, match="has format 99") as refused:
        scene.run("status")
    assert "newer version" in refused.value.hint
    result = scene.check()
    _assert_checked(result, Said("has format 99", "newer version", "history"))


def test_a_second_agent_is_refused_by_name_and_both_show_the_first(scene: Scene) -> None:
    scene.write()
    with scene.agent() as first:
        with (
            pytest.raises(HistoryLockedError, match="another agent is running") as refused,
            scene.agent(),
        ):
            pass
        assert refused.value.hint
        first.jobs.publish()
        assert f"running, process {os.getpid()}" in scene.run("status").stdout
        (result,) = [found for found in scene.check()["preconditions"] if found["name"] == "agent"]
    assert result == {
        "name": "agent",
        "ok": True,
        "says": f"running, process {os.getpid()}",
        "remedy": "",
        "at": "",
    }


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
def test_in_1970_check_blames_the_clock_for_the_certificate_too(scene: Scene) -> None:
    """`status` reports the clock with a closed gate: see the tests of wrong clocks."""
    scene.settings["cloud.tls_ca_file"] = str(scene.world.secure.ca_file)
    certificate_is_unknown(scene)
    scene.write()
    environ = {
        **os.environ,
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME": "@1970-01-02 00:00:00",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    command = [sys.executable, "-m", "agent", "check", "--json", "--config", str(scene.config)]
    answer = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    found = {each["name"]: each for each in json.loads(answer.stdout)["preconditions"]}
    assert answer.returncode == 1, answer.stderr
    assert "this robot's clock says 1970" in found["clock"]["says"]
    assert found["clock"]["remedy"] == "set this robot's clock"
    assert "CERTIFICATE_VERIFY_FAILED" in found["tls"]["says"]
    assert "this robot's clock says 1970" in found["tls"]["remedy"]
