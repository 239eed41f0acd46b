"""Real S3 servers for the tests. Each is a context manager around a child process.

``available()`` names those that can run on this machine. moto and rclone come from packages. MinIO
and VersityGW must be on PATH (``make servers`` builds them).
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
SECRET_KEY = "test-secret-key"  # noqa: S105 - its servers run for one test


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server. With TLS, clients must trust the authority in ``ca_file``."""

    name: str
    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = field(default=SECRET_KEY, repr=False)
    ca_file: Path | None = None

    @property
    def with_keys(self) -> str:
        """The endpoint with its keys, in the form that ``DevCloud(store=...)`` accepts."""
        return self.endpoint.replace("://", f"://{self.access_key}:{self.secret_key}@", 1)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server certificate for the loopback address."""

    ca_file: Path
    cert_file: Path
    key_file: Path


def certificate(folder: Path) -> Certificate:
    """Create an authority and its certificate for 127.0.0.1 and localhost in ``folder``."""
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
    """Run moto in memory.

    It returns no checksums and does not check Content-MD5. HEAD returns a composite ETag.
    """
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
    """Run rclone over a plain folder.

    It returns no checksums. HEAD returns the file's MD5 as the ETag of a multipart object.
    """
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
    """Run MinIO. It returns all checksums and checks signatures strictly."""
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
    """Run VersityGW over a plain folder. It returns all checksums."""
    made = certificate(folder / "certs") if tls else None
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    options = ["--cert", str(made.cert_file), "--key", str(made.key_file)] if made else []
    # Attributes go to files of their own, because not every file system has extended attributes.
    sidecars = folder / "attributes"
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
    """Return the names of the servers that can run on this machine."""
    return ["moto", "rclone", *(name for name in ("minio", "versitygw") if shutil.which(name))]


def start(name: str, folder: Path, *, tls: bool = False) -> AbstractContextManager[S3Server]:
    """Return the context manager for the server of that name. ``folder`` holds its data."""
    if name == "moto":
        return moto(tls=tls)
    return {"rclone": rclone, "minio": minio, "versitygw": versitygw}[name](folder, tls=tls)


@contextlib.contextmanager
def _running(  # noqa: PLR0917 - private to this module
    name: str,
    folder: Path,
    command: Callable[[str], list[str]],
    made: Certificate | None,
    env: dict[str, str] | None = None,
    ready: str = "/",
) -> Iterator[S3Server]:
    # A free port may be taken by another process before the server listens on it.
    for attempt in range(3):
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
