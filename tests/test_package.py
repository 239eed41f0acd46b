"""The Debian package, from a robot's first hour to its last, on a fresh Debian 12 without a network."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from agent.devcloud.cloud import DevCloud
from agent.devcloud.sigv4 import Request
from agent.edges.journal.lines import encode, line
from agent.edges.journal.storage import FORMAT
from tests import debian
from tests.debian import OLD, Debian
from tests.eventually import eventually
from tests.recorders import write_mcap

pytestmark = [pytest.mark.skipif(bool(debian.CANT), reason=debian.CANT), pytest.mark.timeout(600)]

MIB = 1024 * 1024
PART = 5 * MIB
STATE, CONFIG = "/var/lib/keystone-agent", "/etc/keystone-agent"
QUICK = """
[watch]
settle_seconds = 0.2
sidecar_wait_seconds = 0.2
polling = "never"
"""


def cloud(folder: Path, **terms: Any) -> DevCloud:
    return DevCloud(folder / "cloud", devices=(), **terms)


def point(robot: Debian, at: DevCloud) -> None:
    """As the README says: the platform's endpoints, and a drop-in beside the configuration."""
    profile = {"version": 3, "endpoints": dict.fromkeys(("auth", "gateway", "deviceInit"), at.gateway_url)}
    left = robot.path("/srv/dp-config.json")
    left.write_text(json.dumps(profile))
    owner = ("-o", "keystone-agent", "-g", "keystone-agent", "-m", "600")
    robot.run("install", *owner, "/srv/dp-config.json", STATE)
    left.unlink()
    robot.path(f"{CONFIG}/agent.toml.d/quick.toml").write_text(QUICK)
    robot.path(f"{CONFIG}/device-id").write_text("robot-7\n")


def history(robot: Debian) -> list[dict[str, Any]]:
    return list(json.loads(robot.run("sh", "-c", "keystone-agent history --json 2>/dev/null")))


def completed(robot: Debian) -> list[dict[str, Any]]:
    return [log for log in history(robot) if log["status"] == "completed"]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def stop(agent: subprocess.Popen[str], robot: Debian, number: int = signal.SIGTERM) -> None:
    robot.run("setpriv", "--reuid=keystone-agent", "--clear-groups", "sh", "-c", f"kill -{number} -1")
    agent.wait(timeout=60)


def test_a_robot_installs_it_without_a_network_enrols_and_uploads(robot: Debian, package: Path, tmp_path: Path) -> None:
    robot.install(package)
    assert robot.run("dpkg", "--verify", "keystone-agent") == ""
    folders = (STATE, f"{STATE}/markers", "/var/log/keystone-agent", CONFIG)
    assert robot.run("stat", "-c", "%a %U:%G", *folders).splitlines() == [
        "750 keystone-agent:keystone-agent",
        "2770 keystone-agent:keystone-agent",
        "750 keystone-agent:keystone-agent",
        "755 root:root",
    ]
    told = robot.run(*robot.as_service("check"), code=1)
    assert "ok  state folder: /var/lib/keystone-agent: belongs to keystone-agent, writable" in told
    assert re.findall(r"^NO  (\S+): (?!not tried)", told, re.MULTILINE) == ["profiles"]
    with cloud(tmp_path) as platform:
        point(robot, platform)
        recording = write_mcap(robot.recordings / "first.mcap", size=2 * MIB)
        agent = robot.start(*robot.as_service("run"), log=tmp_path / "agent.log")
        (log,) = eventually(lambda: completed(robot))
        assert [device.id for device in platform.devices()] == ["robot-7"]
        assert platform.object_sha256(log["object_key"]) == sha256(recording)
        assert robot.run("stat", "-c", "%a %U", f"{STATE}/dp-config.json") == "600 keystone-agent\n"
        assert "NO" not in robot.run(*robot.as_service("check"))
        # Who is in the group operates it without root.
        robot.run("useradd", "--groups", "keystone-agent", "ann")
        as_ann = ("setpriv", "--reuid=ann", "--regid=ann", "--init-groups")
        assert "accepted" in robot.run(*as_ann, "keystone-agent", "resync", "/data/recordings/first.mcap")
        robot.run(*as_ann, "touch", f"{STATE}/markers/rescan")
        eventually(lambda: len(completed(robot)) == 2 and not robot.path(f"{STATE}/markers/rescan").exists())
        assert "first.mcap" in robot.run(*as_ann, "keystone-agent", "logs", "-n", "1000")
        robot.run("useradd", "bob")
        as_bob = ("setpriv", "--reuid=bob", "--regid=bob", "--init-groups")
        robot.run(*as_bob, "keystone-agent", "resync", "/data/recordings/first.mcap", code=1)
        stop(agent, robot)


def test_an_upgrade_in_mid_upload_goes_on_where_the_old_one_stood(
    robot: Debian, package: Path, older: Path, tmp_path: Path
) -> None:
    robot.install(older)
    assert robot.run("keystone-agent", "--version") == f"keystone-agent, version {OLD}\n"
    configuration = robot.path(f"{CONFIG}/agent.toml")
    edited = configuration.read_text().replace('level = "INFO"', 'level = "DEBUG"')
    configuration.write_text(edited)
    sent: list[int] = []
    with cloud(tmp_path, part_size_bytes=PART, bandwidth=10 * MIB) as platform:
        front = platform._front
        assert front is not None
        admit = front.admission.admit

        def counted(request: Request) -> Any:
            if request.method == "PUT" and (part := re.search(r"partNumber=(\d+)", request.query)):
                sent.append(int(part[1]))
            return admit(request)

        front.admission.admit = counted  # type: ignore[method-assign]
        point(robot, platform)
        recording = write_mcap(robot.recordings / "long.mcap", size=60 * MIB)
        agent = robot.start(*robot.as_service("run"), log=tmp_path / "agent.log")
        eventually(lambda: len(set(sent)) >= 6)
        (before,) = history(robot)
        assert before["status"] == "in_progress"
        stop(agent, robot, signal.SIGKILL)
        robot.install(package)
        earlier, stored = list(sent), parts_of(platform, before)
        assert len(stored) >= 3
        del sent[:]

        assert configuration.read_text() == edited
        assert robot.run("keystone-agent", "--version") == f"keystone-agent, version {__version__}\n"
        agent = robot.start(*robot.as_service("run"), log=tmp_path / "agent.log")
        (after,) = eventually(lambda: completed(robot))
        stop(agent, robot)
        assert set(sent).isdisjoint(stored)
        assert set(earlier) | set(sent) == set(range(1, after["part_count"] + 1))
        assert len(platform.sessions()) == 1
        assert after["multipart_upload_id"] == before["multipart_upload_id"]
        assert platform.object_sha256(after["object_key"]) == sha256(recording)

    # A package older than the history can read: it says so, and changes nothing.
    journal = robot.path(f"{STATE}/history/journal")
    newer = journal.read_bytes().rstrip(b"\0") + line(encode({"format": FORMAT + 1, "last_ids": {}}).encode())
    journal.write_bytes(newer)
    robot.install(older)
    said = robot.run(*robot.as_service("run"), code=1)
    assert f"has format {FORMAT + 1}, of a newer agent; this one knows {FORMAT}" in said
    assert journal.read_bytes().rstrip(b"\0") == newer.rstrip(b"\0")


def parts_of(platform: DevCloud, log: dict[str, Any]) -> set[int]:
    """The parts that the store keeps of an upload that is under way."""
    assert platform._root is not None
    listed = platform._root._client._list_parts(platform.bucket, log["object_key"], log["multipart_upload_id"])
    return {part.part_number for part in listed.parts}


def test_a_removal_keeps_what_is_the_owners_and_a_purge_leaves_nothing_but_recordings(
    robot: Debian, package: Path, tmp_path: Path
) -> None:
    def users() -> list[str]:
        return [robot.path(f"/etc/{name}").read_text() for name in ("passwd", "group", "shadow", "gshadow")]

    before, known = robot.files(), users()
    # The platform's endpoints may be there before the package is.
    robot.path(STATE).mkdir()
    robot.path(f"{STATE}/dp-config.json").write_text("{}")
    robot.install(package)
    assert robot.run("stat", "-c", "%a %U", f"{STATE}/dp-config.json") == "600 keystone-agent\n"
    with cloud(tmp_path) as platform:
        point(robot, platform)
        write_mcap(robot.recordings / "a.mcap")
        agent = robot.start(*robot.as_service("run"), log=tmp_path / "agent.log")
        eventually(lambda: completed(robot))
        stop(agent, robot)
    robot.run("keystone-agent", "resync", "/data/recordings/a.mcap")
    for name in ("journal.format-1", "journal.damaged", "../markers/a.resync", "../markers/b.resync.rejected"):
        robot.run("touch", f"{STATE}/history/{name}")

    robot.run("dpkg", "--remove", "keystone-agent")
    for kept in (f"{STATE}/dp-config.json", f"{STATE}/history/journal", f"{CONFIG}/agent.toml"):
        assert robot.path(kept).exists()
    assert not robot.path("/opt").joinpath("keystone-agent").exists()
    assert not robot.path("/usr/bin/keystone-agent").exists()

    robot.run("dpkg", "--purge", "keystone-agent")
    records = re.compile(
        r" /var/(lib/dpkg|log/dpkg)|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$"
    )  # dpkg's, useradd's
    assert {path for path in robot.files() ^ before if not records.search(path)} == set()
    assert users() == known
    assert (robot.recordings / "a.mcap").exists()


def test_a_purge_spares_recordings_wherever_state_and_roots_lie_and_follows_no_link(
    robot: Debian, package: Path
) -> None:
    robot.install(package)
    state = Path("/data/recordings/state")
    robot.path(f"{CONFIG}/agent.toml.d/own.toml").write_text(
        f'[agent]\nstate_dir = "{state}"\n[watch]\nroots = ["/data/recordings", "{STATE}"]\n'
        '[cloud]\ndp_config = "/data/recordings/profile.json"\n'
    )
    for folder in (f"{state}/history", f"{state}/markers", f"{STATE}/history", "/data/elsewhere"):
        robot.run("mkdir", "-p", folder)
    spared = [f"{state}/a.mcap", f"{state}/history/b.mcap", f"{STATE}/c.mcap", "/data/elsewhere/agent.log"]
    gone = [f"{state}/history/journal", f"{state}/dp-config.json", "/data/recordings/profile.json"]
    for path in (*spared, *gone):
        robot.run("touch", path)
    robot.run("chown", "keystone-agent:", "/data/recordings/profile.json")
    robot.run("rmdir", "/var/log/keystone-agent")
    robot.run("ln", "-s", "/data/elsewhere", "/var/log/keystone-agent")
    told = robot.run("dpkg", "--purge", "keystone-agent")
    assert [path for path in spared if not robot.path(path).exists()] == []
    assert [path for path in gone if robot.path(path).exists()] == []
    assert f"{STATE} is left: not all in it is the agent's" in told
    assert "/var/log/keystone-agent is left: it is a link" in told


def test_a_purge_takes_the_key_from_wherever_the_state_lay(robot: Debian, package: Path) -> None:
    robot.install(package)
    robot.path(f"{CONFIG}/agent.toml.d/own.toml").write_text('[agent]\nstate_dir = "/srv/state"\n')
    robot.run("install", "-D", "-o", "keystone-agent", "-m", "600", "/dev/null", "/srv/state/dp-config.json")
    assert "is left" not in robot.run("dpkg", "--purge", "keystone-agent")
    assert not robot.path("/srv/state").exists()


def test_a_robot_with_another_python_is_told_which_ones_it_is_for(robot: Debian, package: Path) -> None:
    shutil.copyfile(package, robot.path("/srv/agent.deb"))
    robot.run("dpkg-deb", "--extract", "/srv/agent.deb", "/")
    shutil.rmtree(robot.path("/opt/keystone-agent/lib/python3.11"))
    said = robot.run("keystone-agent", "--version", code=1)
    assert said.startswith("keystone-agent: this robot has python3.11, the package is for python3.10, python3.12")


def test_the_same_sources_make_the_same_package(package: Path, tmp_path: Path) -> None:
    assert debian.build_package(tmp_path).read_bytes() == package.read_bytes()
