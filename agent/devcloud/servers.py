"""Real S3 servers as child processes: started, waited for, and never left behind."""

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
MINIO_READY = (
    "/minio/health/cluster"  # the last thing to say yes: signed requests get 503 before it does
)
_STARTED_WITHIN = 30.0  # seconds
_STOPPED_WITHIN = 10.0
_POLL = 0.02
_GUARD = Path(__file__).with_name("guard.py")
_FOREIGN_SETTINGS = ("RCLONE_", "MINIO_", "AWS_")


class ServerError(Exception):
    """A server could not be started; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an S3 server answers, and the keys that may do everything there."""

    url: str
    access_key: str = "devcloud"
    secret_key: str = field(default="devcloud", repr=False)

    @property
    def netloc(self) -> str:
        """``host:port``."""
        return urlsplit(self.url).netloc

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return urlsplit(self.url).scheme == "https"


class Child:
    """A server process that ends with this one, even when this one is killed."""

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None
    ) -> None:
        """Start ``command`` with its output in ``log``; ``env`` adds to the environment."""
        self._log = log
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(_FOREIGN_SETTINGS)
        }
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - commands of this room and of the tests
                [sys.executable, "-I", "-S", str(_GUARD), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=inherited | dict(env or {}),
                start_new_session=True,  # Ctrl-C is for the asker, who then stops in order
            )

    def ended_within(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for the process to end; return whether it did."""
        try:
            self._process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def last_words(self) -> str:
        """The end of its log."""
        return self._log.read_text(errors="replace")[-2000:].strip()

    def stop(self) -> None:
        """End the process and wait until it is gone; harmless when it is gone already."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if not self.ended_within(_STOPPED_WITHIN):
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A TCP port on the loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def await_answer(url: str, child: Child | None, path: str = "/") -> None:
    """Return once ``url`` answers HTTP without a server error; ``child`` is the server, where it is ours.

    Raises:
        ServerError: the process ended, or did not answer in time.
    """
    deadline = time.monotonic() + _STARTED_WITHIN
    while time.monotonic() < deadline:
        if child is None:
            time.sleep(_POLL)
        elif child.ended_within(_POLL):
            raise ServerError(f"the server for {url} ended at once: {child.last_words()}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _status(url, path) < 500:
                return
    words = f": {child.last_words()}" if child else ""
    raise ServerError(f"no answer from {url} within {_STARTED_WITHIN:.0f} s{words}")


def _status(url: str, path: str) -> int:
    where = urlsplit(url)
    connection: http.client.HTTPConnection
    if where.scheme == "https":
        # It only asks whether anybody is there.
        connection = http.client.HTTPSConnection(
            where.netloc, timeout=5, context=unverified_client_context()
        )
    else:
        connection = http.client.HTTPConnection(where.netloc, timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


def rclone_program() -> str | None:
    """The rclone executable: beside this Python, where its wheel puts it, else on PATH."""
    beside = Path(sys.executable).with_name("rclone")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("rclone")


def rclone_command(program: str, data: Path, address: str, *options: str) -> list[str]:
    """``rclone serve s3`` over a plain folder, each bucket a folder in it; no signature is checked."""
    return [program, "serve", "s3", "--config=", f"--cache-dir={data.parent / 'rclone-cache'}", "--log-level=NOTICE",
            f"--addr={address}", *options, str(data)]  # fmt: skip


def minio_command(program: str, data: Path, address: str, *options: str) -> list[str]:
    """``minio server`` over a folder."""
    return [program, "server", "--quiet", "--address", address, *options, str(data)]


def minio_environment(access_key: str, secret_key: str, home: Path) -> dict[str, str]:
    """The settings that make MinIO a quiet server with these root keys."""
    return {"MINIO_ROOT_USER": access_key, "MINIO_ROOT_PASSWORD": secret_key, "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off", "MINIO_CI_CD": "on", "HOME": str(home)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunningStore:
    """An S3 server that answers. ``child`` is None for one that somebody else runs."""

    kind: str
    endpoint: Endpoint
    child: Child | None = None

    def stop(self) -> None:
        """End the server, if it is ours."""
        if self.child is not None:
            self.child.stop()


def choose(kind: str) -> str:
    """``auto`` becomes ``minio`` where that is on PATH, else ``rclone``; anything else stays.

    Raises:
        ServerError: neither is there.
    """
    if kind != "auto":
        return kind
    if shutil.which("minio"):
        return "minio"
    if rclone_program():
        return "rclone"
    raise ServerError("no S3 server here: install keystone-agent[devcloud] or put minio on PATH")


def start(
    kind: str, folder: Path, port: int = 0, keys: tuple[str, str] | None = None
) -> RunningStore:
    """Start the S3 server of that kind over ``folder``, or point at the URL that ``kind`` is.

    Args:
        kind: ``rclone``, ``minio`` or ``http(s)://KEY:SECRET@HOST:PORT``.
        folder: Holds the data and the server's log.
        port: On the loopback; 0 finds a free one.
        keys: Root access and secret key for a server that checks them; random ones when left out.

    Raises:
        ServerError: it is not installed or does not come up.
    """
    if "://" in kind:
        endpoint = _endpoint_of(kind)
        await_answer(endpoint.url, None)
        return RunningStore(kind, endpoint)
    tries = (
        1 if port else 3
    )  # a port found free may be taken by somebody else before the server has it
    for attempt in range(1, tries + 1):
        try:
            return _start(
                kind,
                folder,
                port or free_port(),
                keys or (secrets.token_hex(8), secrets.token_hex(16)),
            )
        except ServerError:
            if attempt == tries:
                raise
    raise AssertionError


def _start(kind: str, folder: Path, port: int, keys: tuple[str, str]) -> RunningStore:
    program = (
        rclone_program() if kind == "rclone" else shutil.which(kind) if kind == "minio" else None
    )
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


def _endpoint_of(url: str) -> Endpoint:
    where = urlsplit(url)
    if (
        where.scheme not in {"http", "https"}
        or not where.hostname
        or not where.username
        or not where.password
    ):
        raise ServerError(
            "a store of your own is given as http(s)://ACCESS_KEY:SECRET_KEY@HOST:PORT"
        )
    netloc = where.netloc.rpartition("@")[2]
    return Endpoint(f"{where.scheme}://{netloc}", unquote(where.username), unquote(where.password))
