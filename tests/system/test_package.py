"""Tests of the Debian package from installation to purge.

Each runs on a fresh Debian 12 without a network.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from agent.adapters.journal.contents import FORMAT
from agent.adapters.journal.lines import encode, line
from agent.devcloud.cloud import DevCloud
from agent.devcloud.sigv4 import Request
from tests.harness import debian
from tests.harness.debian import OLD, Debian, rebuild_package
from tests.harness.eventually import eventually
from tests.harness.paths import REPOSITORY
from tests.harness.recorders import write_mcap

pytestmark = pytest.mark.skipif(bool(debian.CANT), reason=debian.CANT)

MIB = 1024 * 1024
PART = 5 * MIB
STATE = "/var/lib/keystone-agent"
CONFIG = "/etc/keystone-agent"
QUICK = """
[watch]
settle_seconds = 0.2
sidecar_wait_seconds = 0.2
polling = "never"
"""


def cloud(folder: Path, **terms: Any) -> DevCloud:
    return DevCloud(folder / "cloud", devices=(), **terms)


def configure(robot: Debian, at: DevCloud) -> None:
    """Write the platform's endpoints and a drop-in beside the configuration, as the README says."""
    profile = {
        "version": 3,
        "endpoints": dict.fromkeys(("auth", "gateway", "deviceInit"), at.gateway_url),
    }
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
    robot.run(
        "setpriv", "--reuid=keystone-agent", "--clear-groups", "sh", "-c", f"kill -{number} -1"
    )
    agent.wait(timeout=60)


def test_a_robot_installs_it_without_a_network_enrols_and_uploads(
    robot: Debian, package: Path, tmp_path: Path
) -> None:
    robot.install(package)
    assert robot.run("dpkg", "--verify", "keystone-agent") == ""
    folders = (STATE, f"{STATE}/markers", "/var/log/keystone-agent", CONFIG)
    assert robot.run("stat", "-c", "%a %U:%G", *folders).splitlines() == [
        "750 keystone-agent:keystone-agent",
        "2770 keystone-agent:keystone-agent",
        "750 keystone-agent:keystone-agent",
        "755 root:root",
    ]
    output = robot.run(*robot.as_service("check"), code=1)
    assert (
        "ok  state folder: /var/lib/keystone-agent: belongs to keystone-agent, writable" in output
    )
    assert re.findall(r"^NO  (\S+): (?!not tried)", output, re.MULTILINE) == [
        "agent",
        "profiles",
    ]
    with cloud(tmp_path) as platform:
        configure(robot, platform)
        recording = write_mcap(robot.recordings / "first.mcap", size=2 * MIB)
        agent = robot.start(*robot.as_service("run"), log=tmp_path / "agent.log")
        (log,) = eventually(lambda: completed(robot))
        assert [device.id for device in platform.devices()] == ["robot-7"]
        assert platform.object_sha256(log["object_key"]) == sha256(recording)
        assert robot.run("stat", "-c", "%a %U", f"{STATE}/dp-config.json") == "600 keystone-agent\n"
        assert "NO" not in robot.run(*robot.as_service("check"))
        # Members of the group operate the agent without root.
        robot.run("useradd", "--groups", "keystone-agent", "ann")
        as_ann = ("setpriv", "--reuid=ann", "--regid=ann", "--init-groups")
        assert "accepted" in robot.run(
            *as_ann, "keystone-agent", "resync", "/data/recordings/first.mcap"
        )
        robot.run(*as_ann, "touch", f"{STATE}/markers/rescan")
        eventually(
            lambda: (
                len(completed(robot)) == 2 and not robot.path(f"{STATE}/markers/rescan").exists()
            )
        )
        assert "first.mcap" in robot.run(*as_ann, "keystone-agent", "logs", "-n", "1000")
        robot.run("useradd", "bob")
        as_bob = ("setpriv", "--reuid=bob", "--regid=bob", "--init-groups")
        robot.run(*as_bob, "keystone-agent", "resync", "/data/recordings/first.mcap", code=1)
        stop(agent, robot)


@pytest.mark.slow
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
        front = platform._store_proxy
        assert front is not None
        admit = front.admission.admit

        def counted(request: Request) -> Any:
            if request.method == "PUT" and (part := re.search(r"partNumber=(\d+)", request.query)):
                sent.append(int(part[1]))
            return admit(request)

        front.admission.admit = counted  # type: ignore[method-assign]
        configure(robot, platform)
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
        assert (
            robot.run("keystone-agent", "--version") == f"keystone-agent, version {__version__}\n"
        )
        agent = robot.start(*robot.as_service("run"), log=tmp_path / "agent.log")
        (after,) = eventually(lambda: completed(robot))
        stop(agent, robot)
        assert set(sent).isdisjoint(stored)
        assert set(earlier) | set(sent) == set(range(1, after["part_count"] + 1))
        assert len(platform.sessions()) == 1
        assert after["multipart_upload_id"] == before["multipart_upload_id"]
        assert platform.object_sha256(after["object_key"]) == sha256(recording)

    # A package that is too old for the history reports so, and changes nothing.
    journal = robot.path(f"{STATE}/history/journal")
    newer = journal.read_bytes().rstrip(b"\0") + line(
        encode({"format": FORMAT + 1, "last_ids": {}}).encode()
    )
    journal.write_bytes(newer)
    robot.install(older)
    said = robot.run(*robot.as_service("run"), code=1)
    assert f"has format {FORMAT + 1}, of a newer agent; this one knows {FORMAT}" in said
    assert journal.read_bytes().rstrip(b"\0") == newer.rstrip(b"\0")


def leftovers(robot: Debian) -> set[str]:
    """Return the entries of the configuration's folder that the agent has not put there."""
    return {path.name for path in robot.path(CONFIG).iterdir()} - {
        "agent.toml",
        "agent.toml.d",
        "device-id",
    }


def edited(configuration: Path) -> bytes | None:
    configuration.write_text(configuration.read_text().replace('level = "INFO"', 'level = "DEBUG"'))
    return configuration.read_bytes()


def unedited(configuration: Path) -> bytes | None:
    return configuration.read_bytes()


def deleted(configuration: Path) -> bytes | None:
    configuration.unlink()
    return None


def content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


@pytest.mark.slow
@pytest.mark.parametrize("left", [edited, unedited, deleted])
def test_the_configuration_stays_as_its_operator_left_it_and_nobody_is_asked(
    robot: Debian, package: Path, older: Path, left: Callable[[Path], bytes | None]
) -> None:
    robot.install(older)
    configuration = robot.path(f"{CONFIG}/agent.toml")
    mine = left(configuration)
    # The upgrade goes to the new package, to the same once more, and back. A file that is not there
    # comes with the first release again.
    versions = (package, package, older) if mine is not None else (package, package)
    for number, version in enumerate(versions):
        said = robot.install(version)
        assert "Configuration file" not in said, number
        assert content(configuration) == mine, number
        assert leftovers(robot) == set(), number
        status = robot.run("dpkg-query", "--show", "--showformat=${Status}", "keystone-agent")
        assert status == "install ok installed", number
        listed = robot.run("dpkg-query", "--show", "--showformat=${Conffiles}", "keystone-agent")
        assert version == older or all(
            line.endswith(" obsolete") for line in listed.split("\n") if line
        ), number
    robot.install(package)
    robot.run("dpkg", "--purge", "keystone-agent")
    assert not robot.path(CONFIG).exists()


@pytest.mark.slow
def test_a_configuration_that_is_there_before_the_package_stays(
    robot: Debian, package: Path
) -> None:
    robot.path(CONFIG).mkdir()
    configuration = robot.path(f"{CONFIG}/agent.toml")
    configuration.write_text("# mine\n")
    assert "Configuration file" not in robot.install(package)
    assert configuration.read_text() == "# mine\n"
    # A link whose target does not exist yet is the operator's, too.
    robot.run("dpkg", "--purge", "keystone-agent")
    robot.path(CONFIG).mkdir()
    configuration.symlink_to("/mnt/none")
    robot.install(package)
    assert configuration.is_symlink()
    assert leftovers(robot) == set()


def test_a_first_installation_has_every_key_with_its_default(robot: Debian, package: Path) -> None:
    robot.install(package)
    shipped = (REPOSITORY / "config/agent.toml").read_bytes()
    assert robot.path(f"{CONFIG}/agent.toml").read_bytes() == shipped
    assert robot.path("/usr/share/keystone-agent/agent.toml").read_bytes() == shipped
    for page in ("README.md", "config/README.md", "deploy/README.md", "SECURITY.md"):
        output = robot.path(f"/usr/share/doc/keystone-agent/{page}").read_bytes()
        assert output == (REPOSITORY / page).read_bytes()
    assert robot.run("stat", "-c", "%a %U", f"{CONFIG}/agent.toml") == "644 root\n"
    assert leftovers(robot) == set()


def test_what_the_first_release_left_half_configured_is_mended_by_the_next_one(
    robot: Debian, package: Path, older: Path
) -> None:
    robot.path(CONFIG).mkdir()
    configuration = robot.path(f"{CONFIG}/agent.toml")
    configuration.write_text("# mine\n")
    assert "end of file on stdin at conffile prompt" in robot.install(older, code=1)
    assert leftovers(robot) == {"agent.toml.dpkg-new"}
    robot.install(package)
    assert configuration.read_text() == "# mine\n"
    assert leftovers(robot) == set()
    assert robot.run("keystone-agent", "--version") == f"keystone-agent, version {__version__}\n"


def broken(package: Path, folder: Path, how: str) -> Path:
    """Make a newer package whose installation fails in some place."""

    def change(root: Path) -> None:
        control = root / "DEBIAN/control"
        control.write_text(control.read_text().replace(f"Version: {__version__}", "Version: 99"))
        if how == "preinst":
            script = root / "DEBIAN/preinst"
            script.write_text("#!/bin/sh\nexit 1\n")
            script.chmod(0o755)

    made = rebuild_package(package, folder / f"{how}.deb", change)
    # This installation ends while its files are unpacked.
    if how == "unpacking":
        with made.open("r+b") as file:
            file.truncate(made.stat().st_size * 2 // 3)
    return made


def fail(robot: Debian, *commands: str) -> None:
    for command in commands:
        robot.put_in_place_of(command, "#!/bin/sh\necho this one fails >&2\nexit 1\n")


def repair(robot: Debian, *commands: str) -> None:
    for command in commands:
        robot.path(f"/usr/local/bin/{command}").unlink()


@pytest.mark.slow
def test_an_upgrade_that_fails_starts_the_agent_again(
    robot: Debian, package: Path, tmp_path: Path
) -> None:
    robot.manage_service()
    robot.install(package)
    assert robot.service_runs()
    for how in ("preinst", "unpacking"):
        newer = broken(package, tmp_path, how)
        pid = robot.path("/srv/agent.pid").read_text()
        robot.install(newer, code=1)
        assert robot.path("/srv/agent.pid").read_text() != pid, (
            "it was stopped, as its files were to be exchanged"
        )
        assert robot.service_runs(), how
        assert (
            robot.run("keystone-agent", "--version") == f"keystone-agent, version {__version__}\n"
        )
    # The cause may be a disk without space for compiled modules.
    fail(robot, "py3compile")
    robot.install(broken(package, tmp_path, "preinst"), code=1)
    assert robot.service_runs()


@pytest.mark.slow
def test_an_upgrade_that_can_not_be_configured_starts_the_agent_all_the_same(
    robot: Debian, package: Path, older: Path
) -> None:
    robot.manage_service()
    robot.install(older)
    fail(robot, "mkdir")
    assert "this one fails" in robot.install(package, code=1)
    assert robot.service_runs()
    repair(robot, "mkdir")
    robot.run("dpkg", "--configure", "--pending")
    assert robot.service_runs()


@pytest.mark.slow
def test_a_removal_that_fails_starts_the_agent_again(robot: Debian, package: Path) -> None:
    robot.manage_service()
    robot.install(package)
    fail(robot, "py3clean", "py3compile")
    robot.run("dpkg", "--remove", "keystone-agent", code=1)
    assert robot.service_runs()
    repair(robot, "py3clean", "py3compile")
    robot.run("dpkg", "--remove", "keystone-agent")
    assert not robot.service_runs()


@pytest.mark.slow
def test_the_first_release_is_upgraded_in_mid_upload_and_the_upload_goes_on(
    robot: Debian, package: Path, older: Path, tmp_path: Path
) -> None:
    """Only dpkg stops and starts the agent here."""
    robot.manage_service()
    robot.install(older)
    mine = edited(robot.path(f"{CONFIG}/agent.toml"))
    with cloud(tmp_path, part_size_bytes=PART, bandwidth=10 * MIB) as platform:
        configure(robot, platform)
        robot.run("systemctl", "stop", "keystone-agent.service")
        recording = write_mcap(robot.recordings / "long.mcap", size=60 * MIB)
        robot.run("systemctl", "start", "keystone-agent.service")
        (before,) = eventually(
            lambda: [log for log in history(robot) if log["multipart_upload_id"]]
        )
        eventually(lambda: len(parts_of(platform, before)) >= 3)
        robot.install(package)
        assert completed(robot) == []
        (after,) = eventually(lambda: completed(robot))
        assert after["multipart_upload_id"] == before["multipart_upload_id"]
        assert len(platform.sessions()) == 1
        assert platform.object_sha256(after["object_key"]) == sha256(recording)
        assert robot.service_runs()
        assert robot.path(f"{CONFIG}/agent.toml").read_bytes() == mine
        robot.run("systemctl", "stop", "keystone-agent.service")


@pytest.mark.slow
def test_a_robot_that_is_rolled_back_uploads_with_a_newer_versions_configuration(
    robot: Debian, package: Path, tmp_path: Path
) -> None:
    def newer_agent(root: Path) -> None:
        agent = root / "opt/keystone-agent/lib/common/agent"
        for path, old, new in (
            (agent / "__init__.py", f'"{__version__}"', '"99.0"'),
            (
                agent / "adapters/config/sections.py",
                "    auto: Switch",
                "    depth: Count = 3\n    auto: Switch",
            ),
            (root / "DEBIAN/control", f"Version: {__version__}", "Version: 99.0"),
        ):
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new))

    robot.manage_service()
    with cloud(tmp_path) as platform:
        robot.install(package)
        configure(robot, platform)
        robot.install(rebuild_package(package, tmp_path / "newer.deb", newer_agent))
        robot.path(f"{CONFIG}/agent.toml.d/new.toml").write_text("[watch]\ndepth = 5\n")
        robot.run("systemctl", "stop", "keystone-agent.service")
        robot.run("systemctl", "start", "keystone-agent.service")
        write_mcap(robot.recordings / "a.mcap", size=MIB)
        eventually(lambda: len(completed(robot)) == 1)
        robot.install(package)
        assert (
            robot.run("keystone-agent", "--version") == f"keystone-agent, version {__version__}\n"
        )
        write_mcap(robot.recordings / "b.mcap", size=MIB, seed=2)
        eventually(lambda: len(completed(robot)) == 2)
        assert "does not know and ignores watch.depth" in robot.run("keystone-agent", "status")
        # Users who may operate the agent without root must still be able to.
        robot.run("useradd", "--groups", "keystone-agent", "ann")
        as_ann = ("setpriv", "--reuid=ann", "--regid=ann", "--init-groups")
        assert "ignores: watch.depth" in robot.run(*as_ann, "keystone-agent", "status")
        assert robot.run("stat", "-c", "%a %U", f"{STATE}/accepted.json") == "600 keystone-agent\n"
        robot.run("systemctl", "stop", "keystone-agent.service")


def parts_of(platform: DevCloud, log: dict[str, Any]) -> set[int]:
    """Return the parts that the store keeps of an upload in progress."""
    assert platform._dev_bucket is not None
    listed = platform._dev_bucket._client._list_parts(
        platform.bucket, log["object_key"], log["multipart_upload_id"]
    )
    return {part.part_number for part in listed.parts}


def test_a_removal_keeps_what_is_the_owners_and_a_purge_leaves_nothing_but_recordings(
    robot: Debian, package: Path, tmp_path: Path
) -> None:
    def users() -> list[str]:
        return [
            robot.path(f"/etc/{name}").read_text()
            for name in ("passwd", "group", "shadow", "gshadow")
        ]

    before, known = robot.files(), users()
    # The platform's endpoints may be there before the package is.
    robot.path(STATE).mkdir()
    robot.path(f"{STATE}/dp-config.json").write_text("{}")
    robot.install(package)
    assert robot.run("stat", "-c", "%a %U", f"{STATE}/dp-config.json") == "600 keystone-agent\n"
    with cloud(tmp_path) as platform:
        configure(robot, platform)
        write_mcap(robot.recordings / "a.mcap")
        agent = robot.start(*robot.as_service("run"), log=tmp_path / "agent.log")
        eventually(lambda: completed(robot))
        stop(agent, robot)
    robot.run("keystone-agent", "resync", "/data/recordings/a.mcap")
    for name in (
        "journal.format-1",
        "journal.damaged",
        "../markers/a.resync",
        "../markers/b.resync.rejected",
    ):
        robot.run("touch", f"{STATE}/history/{name}")

    robot.run("dpkg", "--remove", "keystone-agent")
    for kept in (f"{STATE}/dp-config.json", f"{STATE}/history/journal", f"{CONFIG}/agent.toml"):
        assert robot.path(kept).exists()
    assert not robot.path("/opt").joinpath("keystone-agent").exists()
    assert not robot.path("/usr/bin/keystone-agent").exists()

    robot.run("dpkg", "--purge", "keystone-agent")
    # These files belong to dpkg and useradd.
    records = re.compile(
        r" /var/(lib/dpkg|log/dpkg)|/etc/(passwd|group|shadow|gshadow|subuid|subgid)-$"
    )
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
    spared = [
        f"{state}/a.mcap",
        f"{state}/history/b.mcap",
        f"{STATE}/c.mcap",
        "/data/elsewhere/agent.log",
    ]
    gone = [f"{state}/history/journal", f"{state}/dp-config.json", "/data/recordings/profile.json"]
    for path in (*spared, *gone):
        robot.run("touch", path)
    robot.run("chown", "keystone-agent:", "/data/recordings/profile.json")
    robot.run("rmdir", "/var/log/keystone-agent")
    robot.run("ln", "-s", "/data/elsewhere", "/var/log/keystone-agent")
    output = robot.run("dpkg", "--purge", "keystone-agent")
    assert [path for path in spared if not robot.path(path).exists()] == []
    assert [path for path in gone if robot.path(path).exists()] == []
    assert f"{STATE} is left: it contains files that are not the agent's" in output
    assert "/var/log/keystone-agent is left: it is a link" in output


def test_a_purge_takes_the_key_from_wherever_the_state_lay(robot: Debian, package: Path) -> None:
    robot.install(package)
    robot.path(f"{CONFIG}/agent.toml.d/own.toml").write_text('[agent]\nstate_dir = "/srv/state"\n')
    robot.run(
        "install",
        "-D",
        "-o",
        "keystone-agent",
        "-m",
        "600",
        "/dev/null",
        "/srv/state/dp-config.json",
    )
    assert "is left" not in robot.run("dpkg", "--purge", "keystone-agent")
    assert not robot.path("/srv/state").exists()


def test_a_robot_with_another_python_is_told_which_ones_it_is_for(
    robot: Debian, package: Path
) -> None:
    shutil.copyfile(package, robot.path("/srv/agent.deb"))
    robot.run("dpkg-deb", "--extract", "/srv/agent.deb", "/")
    shutil.rmtree(robot.path("/opt/keystone-agent/lib/python3.11"))
    said = robot.run("keystone-agent", "--version", code=1)
    assert said.startswith(
        "keystone-agent: this robot has python3.11, the package is for python3.10, python3.12"
    )


@pytest.mark.slow
def test_the_same_sources_make_the_same_package(package: Path, tmp_path: Path) -> None:
    assert debian.build_package(tmp_path).read_bytes() == package.read_bytes()
