"""Fixtures of the fault tests, and the S3 server that all tests of a process share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.harness import s3_servers as servers
from tests.harness.faults.rig import MIB, Rig
from tests.harness.recorders import write_mcap
from tests.harness.s3_servers import S3Server


class Stage:
    """What all tests of a process share.

    These are a recording, a certificate, and S3 servers that start when a test first wants them.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._running: dict[str, S3Server] = {}
        # This recording has three parts.
        self.recording = write_mcap(folder / "a.mcap", size=11 * MIB)
        self.certificate = servers.certificate(folder / "certificate")

    def server(self, name: str) -> S3Server:
        if name not in self._running:
            self._running[name] = self._stack.enter_context(
                servers.start(name, self._folder / name)
            )
        return self._running[name]


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(tmp_path_factory.mktemp("stage"), stack)


@pytest.fixture
def store_name() -> str:
    """Return the most faithful server that is installed.

    Tests of what stores do differently name each store.
    """
    return "minio" if "minio" in servers.available() else "rclone"


@pytest.fixture
def timeout() -> float:
    """Seconds. A busy machine must not reach the timeout. Tests of silence want a short one."""
    return 10.0


@pytest.fixture
def testbed(
    tmp_path: Path, stage: Stage, store_name: str, timeout: float, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    testbed = Rig(tmp_path, stage.server(store_name), stage.recording, monkeypatch, timeout=timeout)
    yield testbed
    testbed.stop()


@pytest.fixture
def tls_testbed(
    tmp_path: Path, stage: Stage, store_name: str, timeout: float, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    """An upload setup with the store behind TLS.

    There, CRC-32 proves the parts, and their payload is not signed.
    """
    server = stage.server(store_name)
    testbed = Rig(
        tmp_path, server, stage.recording, monkeypatch, timeout=timeout, tls=stage.certificate
    )
    yield testbed
    testbed.stop()
