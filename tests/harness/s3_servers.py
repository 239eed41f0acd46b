"""Real S3 servers for the tests: each a context manager around a child process.

``available()`` names those that can run here; moto and rclone come from packages, MinIO and VersityGW are looked up
on PATH (``make servers`` builds them).
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import trustme

from agent.devcloud import servers
from agent.devcloud.servers import Child

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"  # noqa: S105 - of servers that live for one test


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server. ``ca_file`` is the authority to trust when it speaks TLS."""

    name: str
    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = field(default=SECRET_KEY, repr=False)
    ca_file: Path | None = None

    @property
    def with_keys(self) -> str:
        """The endpoint with its keys inside, as ``DevCloud(store=...)`` takes it."""
        return self.endpoint.replace("://", f"://{self.access_key}:{self.secret_key}@", 1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server certificate for the loopback."""

    ca_file: Path
    cert_file: Path
    key_file: Path


def certificate(folder: Path) -> Certificate:
    """Issue a certificate for 127.0.0.1 and localhost by an authority of its own; files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    # MinIO looks for the names public.crt and private.key.
    made = Certificate(folder / "ca.pem", folder / "public.crt", folder / "private.key")
    authority.cert_pem.write_to_path(str(made.ca_file))
    issued.private_key_pem.write_to_path(str(made.key_file))
    made.cert_file.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    return made


@contextlib.contextmanager
def moto(*, tls: bool = False) -> Iterator[S3Server]:
    """Moto in memory: no checksum echo, Content-MD5 is not checked, composite ETag at HEAD."""
    with tempfile.TemporaryDirectory() as folder:
        made = certificate(Path(folder) / "certs") if tls else None
        program = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1"]
        options = ["-s", "-c", str(made.cert_file), "-k", str(made.key_file)] if made else []
        with _running(
            "moto",
            Path(folder),
            lambda address: [*program, "-p", address.rpartition(":")[2], *options],
            made,
        ) as server:
            yield server


@contextlib.contextmanager
def rclone(folder: Path, *, tls: bool = False) -> Iterator[S3Server]:
    """Rclone over a plain folder: no checksum echo; HEAD's ETag of a multipart object is the file's MD5."""
    made = certificate(folder / "certs") if tls else None
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    options = [f"--cert={made.cert_file}", f"--key={made.key_file}"] if made else []
    auth = f"--auth-key={ACCESS_KEY},{SECRET_KEY}"
    program = servers.rclone_program() or "rclone"
    with _running(
        "rclone",
        folder,
        lambda address: servers.rclone_command(program, data, address, auth, *options),
        made,
    ) as server:
        yield server


@contextlib.contextmanager
def minio(folder: Path, *, tls: bool = False) -> Iterator[S3Server]:
    """MinIO: full checksums, strict signatures."""
    made = certificate(folder / "certs") if tls else None
    options = ["--certs-dir", str(folder / "certs")]
    with _running(
        "minio",
        folder,
        lambda address: servers.minio_command("minio", folder / "data", address, *options),
        made,
        servers.minio_environment(ACCESS_KEY, SECRET_KEY, folder),
        servers.MINIO_READY,
    ) as server:
        yield server


@contextlib.contextmanager
def versitygw(folder: Path, *, tls: bool = False) -> Iterator[S3Server]:
    """VersityGW over a plain folder: full checksums."""
    made = certificate(folder / "certs") if tls else None
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    options = ["--cert", str(made.cert_file), "--key", str(made.key_file)] if made else []
    sidecars = folder / "attributes"  # not every file system has extended attributes
    sidecars.mkdir(exist_ok=True)
    keys = {"ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY}
    with _running(
        "versitygw",
        folder,
        lambda address: [
            "versitygw",
            "--quiet",
            "--keep-alive",
            "--port",
            address,
            *options,
            "posix",
            "--sidecar",
            str(sidecars),
            str(data),
        ],
        made,
        keys,
    ) as server:
        yield server


def available() -> list[str]:
    """The names of the servers that can run here."""
    return ["moto", "rclone", *(name for name in ("minio", "versitygw") if shutil.which(name))]


def start(name: str, folder: Path, *, tls: bool = False) -> AbstractContextManager[S3Server]:
    """The server of that name; ``folder`` holds its data."""
    if name == "moto":
        return moto(tls=tls)
    return {"rclone": rclone, "minio": minio, "versitygw": versitygw}[name](folder, tls=tls)


@contextlib.contextmanager
def _running(  # noqa: PLR0917 - private to this room
    name: str,
    folder: Path,
    command: Callable[[str], list[str]],
    made: Certificate | None,
    env: dict[str, str] | None = None,
    ready: str = "/",
) -> Iterator[S3Server]:
    for attempt in range(3):  # a port found free may be taken before the server has it
        address = f"127.0.0.1:{servers.free_port()}"
        child = Child(command(address), folder / f"{name}.log", env)
        url = f"{'https' if made else 'http'}://{address}"
        try:
            servers.await_answer(url, child, ready)
        except servers.ServerError:
            child.stop()
            if attempt == 2:
                raise
        else:
            break
    try:
        yield S3Server(name, url, ca_file=made.ca_file if made else None)
    finally:
        child.stop()
