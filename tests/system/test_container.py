"""Tests of the container on a machine without a container engine.

Its file is built, and its compose file is carried out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.adapters.clock import RealClock
from agent.adapters.config import KEYS
from agent.adapters.history import TinyHistory
from agent.devcloud.servers import rclone_program
from agent.model.sync_log import SyncLog
from tests.harness import debian
from tests.harness.containers import Image, Pod
from tests.harness.eventually import eventually
from tests.harness.paths import REPOSITORY
from tests.harness.recorders import write_mcap

CONTAINERFILE = REPOSITORY / "deploy/container/Containerfile"
COMPOSE = REPOSITORY / "deploy/container/compose.yaml"
STATE = "/var/lib/keystone-agent"
RECORDINGS = "/data/recordings"
MIB = 1024 * 1024

# The most bytes that the agent may add to its base. Compiled modules are a quarter of it.
_MOST = 90 * MIB
_WITHIN_SECONDS = 60

built = pytest.mark.skipif(
    bool(debian.CANT) or shutil.which("buildah") is None, reason=debian.CANT or "no buildah here"
)


def composed(recordings: str = "/recordings") -> dict[str, Any]:
    """Return the compose file with its variables filled in."""
    given = {"RECORDINGS": recordings}
    text = re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda found: given.get(found[1], found[2]), COMPOSE.read_text()
    )
    result: dict[str, Any] = yaml.safe_load(text)
    return result


@pytest.fixture(scope="module")
def image(shared: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Build the Containerfile on a bare Debian and the package.

    chroot replaces a container engine.
    """
    folder = tmp_path_factory.mktemp("image")
    (folder / "dist").mkdir()
    os.link(package, folder / "dist" / package.name)
    stores = [f"--root={folder}/store", f"--runroot={folder}/run", "--storage-driver=overlay"]

    def buildah(*arguments: str | Path) -> str:
        result = subprocess.run(
            ["buildah", *stores, *arguments], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
        return result.stdout.strip()

    base = buildah("from", "scratch")
    buildah("add", "--quiet", base, shared / "base", "/")
    buildah("commit", "--quiet", base, "localhost/debian")
    options = [
        "--quiet",
        "--isolation=chroot",
        "--pull-never",
        "--format=docker",
        "--build-arg=BASE=localhost/debian",
    ]
    buildah("build", *options, "-f", CONTAINERFILE, "-t", "localhost/keystone-agent", folder)
    container = buildah("from", "--pull-never", "localhost/keystone-agent")
    try:
        result = json.loads(buildah("inspect", container))["Docker"]["config"]
        yield Image(
            root=Path(buildah("mount", container)),
            user=result["User"],
            environment=dict(line.split("=", 1) for line in result["Env"]),
            entrypoint=result["Entrypoint"],
            command=result["Cmd"],
            volumes=list(result["Volumes"]),
            healthcheck=result["Healthcheck"]["Test"],
        )
    finally:
        buildah("umount", "--all")
        shutil.rmtree(folder)


def completed(state: Path) -> list[SyncLog]:
    if not (state / "history/journal").exists():
        return []
    history = TinyHistory(state / "history", RealClock(), read_only=True)
    try:
        return [log for log in history.newest_first() if log.status == "completed"]
    finally:
        history.close()


@pytest.mark.slow
@built
def test_the_image_holds_one_python_s_agent_that_nobody_in_it_can_change(image: Image) -> None:
    user, _, group = image.user.partition(":")
    assert user == group
    assert int(user) > 0
    assert (image.entrypoint, image.command) == (["keystone-agent"], ["run"])
    own = sum(
        path.lstat().st_blocks * 512 for path in (image.root / "opt/keystone-agent").rglob("*")
    )
    print(f"the agent adds {own / MIB:.0f} MiB to its base")  # noqa: T201 - pytest -rP shows the line
    assert own < _MOST
    libraries = image.root / "opt/keystone-agent/lib"
    assert {path.name for path in libraries.iterdir()} == {"common", "python3.11"}
    assert {
        re.findall(r"\.cpython-(\d+)", path.name)[0] for path in libraries.rglob("*.cpython-*.so")
    } == {"311"}
    assert (libraries / "common/agent/assembly/__pycache__/app.cpython-311.pyc").exists()
    assert not (image.root / "usr/lib/systemd/system/keystone-agent.service").exists()
    theirs = [
        f"/{path.relative_to(image.root)}"
        for path in image.root.rglob("*")
        if not path.is_symlink() and path.stat().st_uid == int(user)
    ]
    assert sorted(theirs) == sorted(image.volumes) == [RECORDINGS, STATE]


@pytest.mark.slow
@built
def test_the_compose_files_robot_enrols_uploads_and_stops_in_order(
    image: Image, tmp_path: Path
) -> None:
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    services = composed(str(recordings))["services"]
    with Pod(COMPOSE, services, tmp_path / "pod") as pod:
        pod.program("store", store_command(services["store"]))
        devcloud = pod.start("devcloud", image)
        assert pod.start("endpoints", image).process.wait(_WITHIN_SECONDS) == 0, pod.log(
            "endpoints"
        )
        probe = services["devcloud"]["healthcheck"]["test"][1:]
        eventually(lambda: devcloud.execute(*probe).returncode == 0, lambda: pod.log("devcloud"))
        robot = pod.start("robot", image)
        recording = write_mcap(recordings / "a.mcap", size=20 * MIB)
        (log,) = eventually(
            lambda: completed(pod.volume("state")), lambda: pod.log("robot") + pod.log("devcloud")
        )
        stored = pod.volume("objects") / log.require_session().bucket / log.object_key
        assert log.device_id == "robot-7"
        assert stored.read_bytes() == recording.read_bytes()

        assert robot.execute(*image.healthcheck[1:]).returncode == 0
        result = robot.execute("keystone-agent", "check")
        assert (result.returncode, result.stderr) == (0, "")
        result = robot.execute("sh", "-c", "touch /tmp/x && touch /x /opt/keystone-agent/x")
        assert result.stderr.count("Read-only file system") == 2
        assert "running, process 1" in robot.execute("keystone-agent", "status").stdout
        key = (pod.volume("state") / "dp-config.json").read_text()
        assert robot.stop() == 0, pod.log("robot")

        # The next container with the same volumes is the same robot.
        assert pod.start("endpoints", image).process.wait(_WITHIN_SECONDS) == 0
        robot = pod.start("robot", image)
        write_mcap(recordings / "b.mcap", size=MIB, seed=1)
        eventually(lambda: len(completed(pod.volume("state"))) == 2, lambda: pod.log("robot"))
        assert (pod.volume("state") / "dp-config.json").read_text() == key
        assert robot.stop() == 0
        assert devcloud.stop() == 0
        assert json.loads(key)["devices"][0]["apiKey"] not in pod.log("robot")


def store_command(result: dict[str, Any]) -> list[str]:
    """Return the command of VersityGW as the compose file starts it.

    Where VersityGW is not built, the command is rclone with the same port and folder.
    """
    if shutil.which("versitygw"):
        return ["versitygw", *result["command"]]
    port, folder = result["command"][1], result["command"][-1]
    return [rclone_program() or "rclone", "serve", "s3", f"--addr=127.0.0.1{port}", folder]


def own_services(composition: dict[str, Any]) -> dict[str, Any]:
    """Return the services of a compose file that run this project's image."""
    services = composition["services"]
    return {name: own for name, own in services.items() if own["image"] == "keystone-agent"}


def test_each_variable_that_image_and_compose_file_set_is_a_setting() -> None:
    variables = {f"KEYSTONE_AGENT_{key.replace('.', '__').upper()}" for key in KEYS}
    text = CONTAINERFILE.read_text() + COMPOSE.read_text()
    assert set(re.findall(r"\bKEYSTONE_AGENT_\w+", text)) - variables == set()


def test_the_services_of_the_compose_file_run_the_image_without_rights() -> None:
    own = own_services(composed())
    assert set(own) == {"devcloud", "endpoints", "robot"}
    for service in own.values():
        build = service["build"]
        assert (COMPOSE.parent / build["context"] / build["dockerfile"]).samefile(CONTAINERFILE)
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert not service.get("privileged")


def test_the_compose_file_mounts_the_volumes_of_the_image_and_no_other() -> None:
    result = composed()
    volumes = json.loads(re.findall(r"^VOLUME (.+)$", CONTAINERFILE.read_text(), re.MULTILINE)[0])
    robot = [volume.split(":") for volume in own_services(result)["robot"]["volumes"]]
    writable = {target for _, target, *options in robot if options != ["ro"]}
    assert writable == set(volumes) == {STATE, RECORDINGS}
    named = {
        volume.split(":")[0]
        for service in result["services"].values()
        for volume in service.get("volumes", [])
    }
    assert {name for name in named if not name.startswith((".", "/"))} == set(result["volumes"])


def test_the_services_of_the_compose_file_find_each_other() -> None:
    result = composed()
    own = own_services(result)
    # The robot has the address of the platform, and the platform the address of the store.
    endpoints = json.loads((COMPOSE.parent / "endpoints.json").read_text())["endpoints"]
    command = own["devcloud"]["command"]
    (port,) = (word.partition("=")[2] for word in command if word.startswith("--gateway-port="))
    assert set(endpoints.values()) == {f"http://devcloud:{port}"}
    keys = result["services"]["store"]["environment"]
    store_port = result["services"]["store"]["command"][1]
    where = f"{keys['ROOT_ACCESS_KEY']}:{keys['ROOT_SECRET_KEY']}@store{store_port}"
    assert f"--store=http://{where}" in command


def test_the_robot_of_the_compose_file_is_healthy_by_the_image_s_own_check() -> None:
    check = re.findall(r"^HEALTHCHECK .*\\\n +CMD (.+)$", CONTAINERFILE.read_text(), re.MULTILINE)
    (command,) = check
    assert json.loads(command) == own_services(composed())["robot"]["healthcheck"]["test"][1:]


def test_docker_takes_the_compose_file() -> None:
    docker = ["docker", "compose", "-f", str(COMPOSE), "config", "--quiet"]
    if shutil.which("docker") is None or "unknown" in output_of(*docker[:2], "version"):
        pytest.skip("no docker compose here")
    assert output_of(*docker) == ""


def output_of(*command: str) -> str:
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return result.stdout
