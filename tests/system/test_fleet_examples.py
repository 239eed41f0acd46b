"""Tests of the ways to install many robots.

Each is carried out as its file says, on fresh Debians without a network.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from agent import __version__
from agent.devcloud.cloud import DevCloud
from tests.harness import debian
from tests.harness.debian import OLD, Debian
from tests.harness.paths import REPOSITORY

FLEET = REPOSITORY / "deploy" / "fleet"
STATE = "/var/lib/keystone-agent"
CONFIG = "/etc/keystone-agent"
PROFILE = f"{STATE}/dp-config.json"
UNIT = "/etc/systemd/system/keystone-agent.service.d/50-fleet.conf"


def endpoints(url: str) -> dict[str, Any]:
    return {"version": 3, "endpoints": dict.fromkeys(("auth", "gateway", "deviceInit"), url)}


ENDPOINTS = endpoints("https://gateway.example.org")
KEY = "k3y-that-nobody-may-see"
on_a_debian = pytest.mark.skipif(bool(debian.CANT), reason=debian.CANT)


def with_key(device: str) -> str:
    return json.dumps({**ENDPOINTS, "devices": [{"deviceId": device, "apiKey": KEY, "tags": {}}]})


# These tests check install.sh.


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck here")
def test_the_installer_is_sound_to_shellcheck() -> None:
    result = subprocess.run(
        ["shellcheck", FLEET / "install.sh"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--package is missing"),
        (["--package"], "--package needs a value"),
        (["--packages", "x"], "--packages is not known"),
        (
            ["--package", "x", "--endpoints", "y", "--gateway", "https://z"],
            "--endpoints or addresses, not both",
        ),
        (["--package", "x", "--auth", "https://z"], "--gateway is missing"),
        (["--package", "http://z/a.deb"], "a package that comes over http needs --sha256"),
        (["--package", "x", "--endpoints", "http://z/e.json"], "it says where recordings go"),
        (["--package", "ftp://me:secret@z/a.deb"], "not ftp://z/a.deb"),
    ],
)
def test_the_installer_says_how_it_is_used(arguments: list[str], said: str) -> None:
    result = subprocess.run(
        ["sh", FLEET / "install.sh", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert "secret" not in result.stderr


def empty_package(work: Path, package: Path, **changed: str) -> None:
    """Build an empty package with the given fields."""
    fields = {
        "Package": "keystone-agent",
        "Version": "1",
        "Architecture": "all",
        "Maintainer": "x <x@x>",
    }
    (work / "made/DEBIAN").mkdir(parents=True)
    control = "".join(f"{name}: {text}\n" for name, text in {**fields, **changed}.items())
    (work / "made/DEBIAN/control").write_text(f"{control}Description: x\n")
    subprocess.run(["dpkg-deb", "--build", work / "made", package], check=True, capture_output=True)


class Installer:
    """install.sh on one robot, beside a package and a file of endpoints."""

    def __init__(self, robot: Debian, package: Path) -> None:
        self.robot = robot
        self.package = f"/srv/{package.name}"
        self.sum = hashlib.sha256(package.read_bytes()).hexdigest()
        shutil.copyfile(FLEET / "install.sh", robot.path("/srv/install.sh"))
        shutil.copyfile(package, robot.path(self.package))
        self.endpoints(json.dumps(ENDPOINTS))

    def endpoints(self, content: str) -> None:
        """Write the file of endpoints."""
        self.robot.path("/srv/endpoints.json").write_text(content)

    def run(
        self,
        *arguments: str,
        code: int = 0,
        package: str = "",
        endpoints: str = "/srv/endpoints.json",
    ) -> str:
        """Run the installer, and return all of its output."""
        given = [
            "--package",
            package or self.package,
            *(["--endpoints", endpoints] if endpoints else []),
        ]
        return self.robot.run("sh", "/srv/install.sh", *given, *arguments, code=code)


@pytest.mark.slow
@on_a_debian
def test_one_robot_is_installed_again_and_again_and_keeps_its_key(
    robot: Debian, package: Path, tmp_path: Path
) -> None:
    installer = Installer(robot, package)
    empty_package(tmp_path, robot.path("/srv/older.deb"), Version="0.0.9")
    check_that_another_sum_changes_nothing(installer)
    check_the_first_installation(installer)
    check_that_a_second_installation_changes_nothing(installer)
    check_that_endpoints_are_replaced_until_there_is_a_key(installer)
    check_that_a_key_stays_and_is_never_open_to_others(installer)
    assert f"{__version__} is installed, which is newer than 0.0.9" in installer.run(
        package="/srv/older.deb", code=1
    )
    check_that_wrong_files_are_refused(installer)


def check_that_another_sum_changes_nothing(installer: Installer) -> None:
    assert "is not what --sha256 says: nothing was changed" in installer.run(
        "--sha256", "0" * 64, code=1
    )
    assert not installer.robot.path("/usr/bin/keystone-agent").is_symlink()


def check_the_first_installation(installer: Installer) -> None:
    """Install an older version without endpoints, and then the package with endpoints."""
    profile = installer.robot.path(PROFILE)
    assert "keystone-agent 0.0.9 is installed" in installer.run(
        package="/srv/older.deb", endpoints=""
    )
    assert not profile.exists()
    said = installer.run("--sha256", installer.sum)
    assert f"keystone-agent {__version__} is installed\nendpoints: {PROFILE}\n" in said
    assert "names no device yet: this robot is not enrolled" in said
    assert "agent     stopped" in said
    assert json.loads(profile.read_text()) == ENDPOINTS
    rights = installer.robot.run("stat", "-c", "%a %U:%G", PROFILE)
    assert rights == "600 keystone-agent:keystone-agent\n"


def check_that_a_second_installation_changes_nothing(installer: Installer) -> None:
    before = installer.robot.files()
    again = installer.run("--sha256", installer.sum)
    assert (
        f"keystone-agent {__version__} is installed already\nendpoints: {PROFILE} has them "
        "already\n" in again
    )
    assert installer.robot.files() == before


def check_that_endpoints_are_replaced_until_there_is_a_key(installer: Installer) -> None:
    """Give the endpoints of another platform. Addresses do as well as a file."""
    other = "https://other.example.org"
    said = installer.run("--gateway", other, "--auth", "https://auth.example.org", endpoints="")
    assert f"endpoints: {PROFILE}\n" in said
    assert json.loads(installer.robot.path(PROFILE).read_text())["endpoints"] == {
        "auth": "https://auth.example.org",
        "gateway": other,
        "deviceInit": other,
    }


def check_that_a_key_stays_and_is_never_open_to_others(installer: Installer) -> None:
    robot = installer.robot
    # What the installer writes as the agent's user must be unreadable for other users at all times,
    # because it may hold keys.
    runuser = robot.path("/usr/local/sbin/runuser")
    runuser.write_text(
        '#!/bin/sh\nfind /tmp -perm -o=x -name "tmp.*" >>/srv/open\nexec /usr/sbin/runuser "$@"\n'
    )
    runuser.chmod(0o755)
    installer.endpoints(with_key("robot-7"))
    assert KEY not in installer.run()
    assert robot.path("/srv/open").read_text() == ""
    said = installer.run()
    assert f"this robot has a key already: {PROFILE} stays as it is" in said
    assert json.loads(robot.path(PROFILE).read_text()) == json.loads(with_key("robot-7"))
    assert KEY not in said


def check_that_wrong_files_are_refused(installer: Installer) -> None:
    """Install with endpoints, a device profile file and a configuration that can't be used."""
    robot = installer.robot
    profile = robot.path(PROFILE)
    profile.unlink()
    for content, why in (
        ("{", "is no JSON of the kind"),
        ("[]", "has no endpoints"),
        (
            json.dumps({"endpoints": {"gateway": "https://x", "auth": "https://x"}}),
            "has no deviceInit",
        ),
    ):
        installer.endpoints(content)
        assert why in installer.run(code=1)
        assert not profile.exists()
    profile.write_text(KEY)
    installer.endpoints(json.dumps(ENDPOINTS))
    said = installer.run(code=1)
    assert (
        "can not be read or written by keystone-agent (JSONDecodeError): nothing was changed"
        in said
    )
    assert KEY not in said
    assert profile.read_text() == KEY
    robot.path(f"{CONFIG}/agent.toml.d/wrong.toml").write_text("[watch]\nroot = 1\n")
    assert "the configuration is wrong: correct it, and run this again" in installer.run(code=1)


@on_a_debian
def test_each_thing_that_keeps_the_installer_from_its_work_is_said(
    robot: Debian, package: Path, tmp_path: Path
) -> None:
    installer = Installer(robot, package)
    assert "the package is not there: /srv/none.deb" in installer.run(
        package="/srv/none.deb", code=1
    )
    assert "the endpoints file is not there: /none" in installer.run(endpoints="/none", code=1)
    assert "endpoints.json is no Debian package" in installer.run(
        package="/srv/endpoints.json", code=1
    )
    for field, value, said in (
        ("Package", "other", "is the package other, not keystone-agent"),
        ("Architecture", "riscv64", "is for riscv64, this robot is "),
    ):
        empty_package(tmp_path / field, robot.path("/srv/wrong.deb"), **{field: value})
        assert said in installer.run(package="/srv/wrong.deb", code=1)
    assert "can't be fetched from https://127.0.0.1:1/a.deb: " in installer.run(
        package="https://me:secret@127.0.0.1:1/a.deb?X-Signature=secret", code=1
    )
    assert "is no address such as" in installer.run(
        "--gateway", "https://x/y", endpoints="", code=2
    )
    script = robot.path("/srv/install.sh")
    shutil.copyfile(FLEET / "install.sh", script)
    script.chmod(0o644)
    as_nobody = (
        "setpriv",
        "--reuid=65534",
        "--clear-groups",
        "sh",
        "/srv/install.sh",
        "--package",
        "x",
    )
    assert (
        robot.run(*as_nobody, code=1)
        == "install.sh: only root can install it: sudo sh install.sh …\n"
    )
    assert not robot.path("/usr/bin/keystone-agent").is_symlink(), "nothing was changed so far"


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server names it so
        pass


@contextmanager
def served(folder: Path, robot: Debian) -> Iterator[str]:
    """Serve the files of ``folder`` over TLS, by an authority that the robot trusts.

    The server is in the robot's network.
    """
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "downloads.example.org").configure_cert(context)
    trusted = robot.path("/etc/ssl/certs/ca-certificates.crt")
    trusted.write_bytes(trusted.read_bytes() + authority.cert_pem.bytes())
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Quiet, directory=str(folder))
    ) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"https://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@on_a_debian
def test_the_installer_and_cloud_init_take_their_files_from_a_server(
    robot: Debian, package: Path, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shutil.copyfile(package, shared / package.name)
    (shared / "endpoints.json").write_text(json.dumps(ENDPOINTS))
    with served(shared, robot) as url:
        # Cloud-init comes first. What it writes is there before the package, and its commands are
        # one script.
        result = yaml.safe_load((FLEET / "cloud-init/user-data.yaml").read_text())
        for file in result["write_files"]:
            place = robot.path(file["path"])
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(file["content"])
        script = "\n".join(result["runcmd"])
        script = script.replace("https://downloads.example.org", url)
        wrong = robot.run("sh", "-c", script, code=1)
        assert "keystone-agent" not in robot.run("dpkg-query", "--show"), wrong
        script = script.replace("1" * 64, hashlib.sha256(package.read_bytes()).hexdigest())
        assert "ok  root /data/recordings: readable" in robot.run("sh", "-c", script)
        assert robot.run("stat", "-c", "%a %U", PROFILE) == "600 keystone-agent\n"
        assert robot.path(PROFILE).read_text() == robot.path(f"{CONFIG}/endpoints.json").read_text()
        robot.path(PROFILE).write_text(with_key("robot-7"))
        robot.run("sh", "-c", script)
        assert robot.path(PROFILE).read_text() == with_key("robot-7")

        profile = robot.path(PROFILE)
        profile.unlink()
        said = Installer(robot, package).run(
            package=f"{url}/{package.name}", endpoints=f"{url}/endpoints.json"
        )
        assert f"keystone-agent {__version__} is installed already\nendpoints: {PROFILE}\n" in said
        assert json.loads(profile.read_text()) == ENDPOINTS


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="no cloud-init here")
def test_cloud_init_takes_the_user_data(tmp_path: Path) -> None:
    def judged(file: Path) -> int:
        return subprocess.run(
            ["cloud-init", "schema", "--config-file", file], capture_output=True, check=False
        ).returncode

    good = FLEET / "cloud-init/user-data.yaml"
    assert judged(good) == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text(good.read_text().replace("write_files:", "write_files: 7\nruncmds:"))
    assert judged(bad) != 0


# These tests check Ansible.

_SSH = """#!/bin/sh
# ssh OPTION... HOST COMMAND
while [ $# -gt 2 ]; do shift; done
exec nsenter --target="$(cat "$ROBOTS/$1")" --net --mount --pid --root --wd \
env SYSTEMD_OFFLINE=1 sh -c "$2"
"""


class AnsibleFleet:
    """Robots that Ansible reaches by its own ssh connection plugin, without a real ssh."""

    def __init__(self, folder: Path, robots: dict[str, Debian]) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "ssh").write_text(_SSH)
        (folder / "ssh").chmod(0o755)
        for name, robot in robots.items():
            (folder / name).write_text(str(robot.first))
        self.endpoints(ENDPOINTS)

    def endpoints(self, content: object) -> None:
        (self._folder / "dp-config.json").write_text(json.dumps(content))

    def play(self, package: Path, *options: str, **variables: object) -> dict[str, int]:
        """Run the playbook; return for each robot how many tasks changed something."""
        given = {
            "keystone_agent_package": str(package),
            "keystone_agent_endpoints": str(self._folder / "dp-config.json"),
            "ansible_become": False,
            "ansible_ssh_executable": str(self._folder / "ssh"),
            "ansible_python_interpreter": "/usr/bin/python3",
            **variables,
        }
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            "ROBOTS": str(self._folder),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_SSH_TRANSFER_METHOD": "piped",
            "ANSIBLE_LOCALHOST_WARNING": "0",
        }
        inventory = FLEET / "ansible/inventory.example.yml"
        result = subprocess.run(
            [
                "ansible-playbook",
                "-i",
                inventory,
                *options,
                "-e",
                json.dumps(given),
                FLEET / "ansible/keystone-agent.yml",
            ],
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
        recap = result.stdout.rpartition("PLAY RECAP")[2]
        return {
            name: int(changed)
            for name, changed in re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", recap, re.MULTILINE)
        }


def check_a_rollout(one: Debian, name: str, roots: Sequence[str]) -> None:
    """Check that the playbook installed the old version with its settings on this robot."""
    assert OLD in one.run("keystone-agent", "--version")
    assert one.run("systemctl", "is-enabled", "keystone-agent").startswith("enabled")
    assert one.run("stat", "-c", "%a %U", PROFILE) == "600 keystone-agent\n"
    assert one.path(UNIT).read_text().splitlines()[1:] == [
        "[Service]",
        "ReadWritePaths=-/data/recordings",
        "ReadWritePaths=-/srv/bags",
    ]
    assert one.run("id", "-nG", "keystone-agent").split() == [
        "keystone-agent",
        "recorder",
    ]
    shown = json.loads(one.run("keystone-agent", "config", "show", "--json"))
    assert shown["watch"]["roots"] == roots
    assert f"ok  device id: {name}" in one.run("keystone-agent", "check", code=1)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ansible-playbook") is None, reason="no ansible-playbook here")
@on_a_debian
def test_ansible_rolls_out_to_robots_of_which_it_knows_the_names_alone(
    robot: Debian, shared: Path, package: Path, older: Path, tmp_path: Path
) -> None:
    other = Debian(shared / "base", tmp_path / "other")
    names = list(
        yaml.safe_load((FLEET / "ansible/inventory.example.yml").read_text())["robots"]["hosts"]
    )
    robots = dict(zip(names, (robot, other), strict=True))
    try:
        fleet = AnsibleFleet(tmp_path / "fleet", robots)
        with DevCloud(tmp_path / "cloud", devices=()) as cloud:
            fleet.endpoints(endpoints(cloud.gateway_url))
            for one in robots.values():
                one.run("groupadd", "recorder")
            settings: dict[str, Any] = {
                "keystone_agent_roots": ["/data/recordings", "/srv/bags"],
                "keystone_agent_recorder_group": "recorder",
            }
            assert all(changed > 5 for changed in fleet.play(older, **settings).values())
            assert fleet.play(older, **settings) == dict.fromkeys(names, 0)
            for name, one in robots.items():
                check_a_rollout(one, name, settings["keystone_agent_roots"])
            # The robot enrols under the name of the inventory. Then the next version comes, and the
            # key stays.
            robot.run(*robot.as_service("enroll"))
            assert [device.id for device in cloud.devices()] == names[:1]
            enrolled = robot.path(PROFILE).read_text()
            upgraded = fleet.play(package, "--limit", names[0], **settings)
            assert upgraded == {names[0]: 2}, "the package is brought, and installed"
            assert robot.path(PROFILE).read_text() == enrolled
            assert "apiKey" in enrolled
            assert __version__ in robot.run("keystone-agent", "--version")
            assert OLD in other.run("keystone-agent", "--version")
    finally:
        other.close()
