"""Runs real S3 servers as child processes.

A server is started, waited for until it answers, and always ended together with this process.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from agent.model.tls import unverified_client_context

LOG = logging.getLogger(__name__)
REGION = "us-east-1"
LOOPBACK = "127.0.0.1"

# MinIO's other health checks succeed earlier, while signed requests still get HTTP 503.
MINIO_READY = "/minio/health/cluster"

_START_TIMEOUT_SECONDS = 30.0
_STOP_TIMEOUT_SECONDS = 10.0
_POLL_SECONDS = 0.02

# A free port may be taken by another process before the server listens on it. The server is then
# started again on another port, at most so often in all.
_START_ATTEMPTS = 3

_GUARD = Path(__file__).with_name("guard.py")

# Variables with these prefixes would change the servers' settings, so children do not inherit them.
_FOREIGN_SETTINGS = ("RCLONE_", "MINIO_", "AWS_")


class ServerError(Exception):
    """A server could not be started. The message contains the end of its log."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of an S3 server and the root keys, which may do everything there."""

    url: str
    access_key: str = "devcloud"
    secret_key: str = field(default="devcloud", repr=False)

    @property
    def netloc(self) -> str:
        """The address as ``host:port``."""
        return urlsplit(self.url).netloc

    @property
    def secure(self) -> bool:
        """Whether the server speaks TLS."""
        return urlsplit(self.url).scheme == "https"


class Child:
    """A server process that ends with this process, even when this process is killed.

    The guard (``guard.py``) stands between the two. Used by one thread at a time.
    """

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Start ``command``. Its output goes to ``log``; ``env`` is added to the environment."""
        self._log = log
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN_SETTINGS)
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the commands are those of this module and of the tests
                [sys.executable, "-I", "-S", str(_GUARD), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=inherited | dict(env or {}),
                # Ctrl-C must reach only this process, which then stops its servers in order.
                start_new_session=True,
            )

    def ended_within(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the process to end. Return whether it has ended."""
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process, or None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """Return the last 2,000 characters of the log."""
        return self._log.read_text(errors="replace")[-2000:].strip()

    def stop(self) -> None:
        """End the process and wait until it is gone. Harmless when it has already ended."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if not self.ended_within(_STOP_TIMEOUT_SECONDS):
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """Return a TCP port of the loopback address on which no process listens at this moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def await_answer(url: str, child: Child | None, path: str = "/") -> None:
    """Return as soon as ``url`` answers HTTP without a server error.

    Args:
        url: The server's address.
        child: The server's process, or None for a server that was not started here.
        path: The path to request.

    Raises:
        ServerError: The process has ended, or there was no answer in time.
    """
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if child is None:
            time.sleep(_POLL_SECONDS)
        elif child.ended_within(_POLL_SECONDS):
            raise ServerError(f"the server for {url} ended at once: {child.last_words()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _status(url, path) < 500:
                return
    log_end = f": {child.last_words()}" if child else ""
    raise ServerError(f"no answer from {url} within {_START_TIMEOUT_SECONDS:.0f} s{log_end}")


def _status(url: str, path: str) -> int:
    where = urlsplit(url)
    connection: http.client.HTTPConnection
    if where.scheme == "https":
        # The request only finds out whether a server answers, and sends no secret.
        connection = http.client.HTTPSConnection(
            where.netloc, timeout=5, context=unverified_client_context()
        )
    else:
        connection = http.client.HTTPConnection(where.netloc, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def rclone_program() -> str | None:
    """Return the rclone executable: the one beside this Python, else the one on PATH, else None.

    The wheel of rclone installs it beside Python.
    """
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("rclone")


def rclone_command(program: str, data: Path, address: str, *options: str) -> list[str]:
    """Return the command for ``rclone serve s3`` over the folder ``data``.

    Each bucket is a folder in it. rclone checks no signatures.
    """
    return [
        program,
        "serve",
        "s3",
        "--config=",
        f"--cache-dir={data.parent / 'rclone-cache'}",
        "--log-level=NOTICE",
        f"--addr={address}",
        *options,
        str(data),
    ]


def minio_command(program: str, data: Path, address: str, *options: str) -> list[str]:
    """Return the command for ``minio server`` over the folder ``data``."""
    return [program, "server", "--quiet", "--address", address, *options, str(data)]


def minio_environment(access_key: str, secret_key: str, home: Path) -> dict[str, str]:
    """Return the environment for a quiet MinIO server with these root keys."""
    return {
        "MINIO_ROOT_USER": access_key,
        "MINIO_ROOT_PASSWORD": secret_key,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_CI_CD": "on",
        "HOME": str(home),
    }


@dataclass(frozen=True, slots=True)
class RunningStore:
    """An S3 server that answers. ``child`` is None for a server that was not started here."""

    kind: str
    endpoint: Endpoint
    child: Child | None = None

    def stop(self) -> None:
        """End the server if it was started here."""
        if self.child is not None:
            self.child.stop()


def choose(kind: str) -> str:
    """Return the kind of server to start.

    ``auto`` becomes ``minio`` where MinIO is on PATH, else ``rclone``. Any other kind is returned
    as it is.

    Raises:
        ServerError: Neither MinIO nor rclone is installed.
    """
    if kind != "auto":
        return kind
    if shutil.which("minio"):
        return "minio"
    if rclone_program():
        return "rclone"
    raise ServerError(
        "no S3 server is installed: install keystone-agent[devcloud] or put minio on PATH"
    )


def start(
    kind: str, folder: Path, port: int = 0, keys: tuple[str, str] | None = None
) -> RunningStore:
    """Start an S3 server of that kind over ``folder``, or use the running one at the URL ``kind``.

    Args:
        kind: ``rclone``, ``minio`` or ``http(s)://KEY:SECRET@HOST:PORT``.
        folder: The folder for the data and the server's log.
        port: The port on the loopback address; 0 finds a free one.
        keys: Root access key and secret key, for a server that checks them. None: random keys.

    Raises:
        ServerError: The server is not installed or does not start.
    """
    if "://" in kind:
        endpoint = _endpoint_of(kind)
        await_answer(endpoint.url, None)
        return RunningStore(kind, endpoint)
    attempts = 1 if port else _START_ATTEMPTS
    for attempt in range(1, attempts + 1):
        try:
            return _start(
                kind,
                folder,
                port or free_port(),
                keys or (secrets.token_hex(8), secrets.token_hex(16)),
            )
        except ServerError:
            if attempt == attempts:
                raise
    raise AssertionError


def _start(kind: str, folder: Path, port: int, keys: tuple[str, str]) -> RunningStore:
    program = _program(kind)
    if program is None:
        raise ServerError(f"no program for the store {kind!r} here")
    data = folder / kind
    data.mkdir(parents=True, exist_ok=True)
    address = f"{LOOPBACK}:{port}"
    endpoint = Endpoint(f"http://{address}", *keys)
    log = folder / f"{kind}.log"
    if kind == "minio":
        child = Child(minio_command(program, data, address), log, minio_environment(*keys, folder))
    else:
        child = Child(rclone_command(program, data, address), log)
    try:
        await_answer(endpoint.url, child, MINIO_READY if kind == "minio" else "/")
    except BaseException:
        child.stop()
        raise
    LOG.info(
        "store %s answers at %s",
        kind,
        endpoint.url,
        extra={"event": "store_started", "store": kind},
    )
    return RunningStore(kind, endpoint, child)


def _program(kind: str) -> str | None:
    """Return the executable of a kind of server, or None when there is none."""
    if kind == "rclone":
        return rclone_program()
    if kind == "minio":
        return shutil.which(kind)
    return None


def _endpoint_of(url: str) -> Endpoint:
    where = urlsplit(url)
    if (
        where.scheme not in {"http", "https"}
        or not where.hostname
        or not where.username
        or not where.password
    ):
        raise ServerError(
            "an S3 server of your own is given as http(s)://ACCESS_KEY:SECRET_KEY@HOST:PORT"
        )
    netloc = where.netloc.rpartition("@")[2]
    return Endpoint(f"{where.scheme}://{netloc}", unquote(where.username), unquote(where.password))
