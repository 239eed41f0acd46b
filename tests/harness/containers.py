"""Starts containers as a container engine does, on machines that have no engine.

A container is a process in namespaces of its own with the image as its root. All containers share
one network.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# docker stop waits as long before it kills a container.
_STOP_TIMEOUT_SECONDS = 10
_ROOT = """
mkdir -p "$1/system" "$1/upper" "$1/work"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/system"
cd "$1/system"
"""
_CLOSED = """
mount -t proc proc proc
mount --bind /dev dev
hostname "$3"
shift 3
exec chroot . "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A built image: its root file system, and how its Containerfile says to start it."""

    root: Path
    user: str
    environment: Mapping[str, str]
    entrypoint: Sequence[str]
    command: Sequence[str]
    volumes: Sequence[str]
    healthcheck: Sequence[str]


class Container:
    """A running service of a compose file."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        inside: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        """``inside`` is the command that runs another one as the container's user."""
        self.process = process
        self._inside = inside
        self._environment = environment

    @property
    def first(self) -> psutil.Process:
        """The container's process 1, with its process id outside the container."""
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as ``docker exec`` does."""
        enter = [
            "nsenter",
            f"--target={self.first.pid}",
            "--mount",
            "--pid",
            "--net",
            "--uts",
            "--root",
            "--wd",
        ]
        return subprocess.run(
            [*enter, *self._inside, *command],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def stop(self) -> int:
        """Send SIGTERM to process 1, and return its exit code.

        Raises TimeoutExpired when an engine would have killed the container.
        """
        if self.process.poll() is None:
            self.first.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=_STOP_TIMEOUT_SECONDS)


class Pod:
    """The services of one compose file. They reach each other by name, and no other machine."""

    def __init__(self, compose: Path, services: Mapping[str, Any], folder: Path) -> None:
        """``folder`` holds volumes, logs and all changes to the root file systems."""
        self.folder = folder
        self._beside = compose.parent
        self._services = services
        self._ending = ExitStack()
        hosts = folder / "hosts"
        hosts.parent.mkdir(parents=True, exist_ok=True)
        hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *services)))
        self._network = self._begun(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._network.stdout is not None
        self._network.stdout.readline()

    def __enter__(self) -> Pod:  # noqa: PYI034 - Self is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.close()

    def volume(self, name: str) -> Path:
        """Where a volume's files are."""
        return self.folder / "volumes" / name

    def log(self, service: str) -> str:
        """All that a service has printed."""
        return (self.folder / f"{service}.log").read_text()

    def program(self, service: str, command: Sequence[str]) -> None:
        """Start a service by a program of this machine, because there is no image for it."""
        declared = self._services[service]
        for volume in declared["volumes"]:
            name, _, inside = volume.partition(":")
            self.volume(name).mkdir(parents=True)
            command = [
                re.sub(rf"^{re.escape(inside)}$", str(self.volume(name)), word) for word in command
            ]
        self._start(service, command, {**os.environ, **declared.get("environment", {})})

    def start(self, service: str, image: Image) -> Container:
        """Start a service with its image."""
        declared = self._services[service]
        script = ["set -eu", _ROOT.strip()]
        for volume in declared.get("volumes", []):
            script += self._mounted(image, volume)
        script += [f"mount --bind {shlex.quote(str(self.folder / 'hosts'))} etc/hosts"]
        script += ["mount -o remount,ro ."] if declared.get("read_only") else []
        script += [
            f"mount -t tmpfs -o mode=1777 tmpfs .{place}" for place in declared.get("tmpfs", [])
        ]
        script += [_CLOSED.strip()]
        user, _, group = image.user.partition(":")
        capabilities = ["-all", *(f"+{name.lower()}" for name in declared.get("cap_add", []))]
        assert declared.get("cap_drop") == ["ALL"]
        inside = [
            "setpriv",
            f"--reuid={user}",
            f"--regid={group}",
            "--clear-groups",
            "--no-new-privs",
        ]
        inside += [f"--bounding-set={','.join(capabilities)}", "--inh-caps=-all"]
        unshared = [
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
        ]
        own = self.folder / "containers" / service
        own.mkdir(parents=True, exist_ok=True)
        command = [
            *declared.get("entrypoint", image.entrypoint),
            *declared.get("command", image.command),
        ]
        environment = {**image.environment, **declared.get("environment", {})}
        first = [
            *unshared,
            "\n".join(script),
            "sh",
            str(own),
            str(image.root),
            declared.get("hostname", service),
        ]
        return Container(
            self._start(service, [*first, *inside, *command], environment), inside, environment
        )

    def _mounted(self, image: Image, volume: str) -> list[str]:
        """Return shell lines that mount a volume. The current folder is the container's root."""
        source, target, *options = volume.split(":")
        outside = (
            (self._beside / source).resolve()
            if source.startswith((".", "/"))
            else self.volume(source)
        )
        if not outside.exists():
            # An engine fills a new volume with what the image has at that path.
            outside.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", f"{image.root}{target}", outside], check=True)
        place, found = shlex.quote(f".{target}"), shlex.quote(str(outside))
        lines = [f"mkdir -p {place}"] if outside.is_dir() else [f"[ -e {place} ] || touch {place}"]
        lines += [f"mount --bind {found} {place}"]
        return lines + [f"mount -o remount,ro,bind {place}"] * ("ro" in options)

    def _start(
        self, service: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{service}.log").open("ab") as log:
            network = ["nsenter", f"--net=/proc/{self._network.pid}/ns/net"]
            return self._begun([*network, *command], stdout=log, stderr=log, env=environment)

    def _begun(self, command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        process = self._ending.enter_context(subprocess.Popen(command, **options))
        self._ending.callback(process.kill)
        return process
