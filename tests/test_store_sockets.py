"""What a connection's socket does with the bytes of a file, and whom TLS trusts."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.edges.clock import RealClock
from agent.edges.store import MinioStore
from agent.edges.store.target import MinioTarget
from agent.model.errors import CloudError, FileChangedError
from agent.model.nouns import Part, Transfer, UploadSession
from tests import servers
from tests.oracle import LEASE, opened

SIZE = 3_000_000  # more than one piece, and no whole number of blocks


@pytest.fixture(scope="module", params=["http", "https"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "data" / "recordings").mkdir(parents=True)
    with servers.rclone(folder, tls=request.param == "https") as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    with opened(tmp_path, os.urandom(SIZE)) as descriptor:
        yield descriptor


def target_at(server: servers.S3Server, *, host: str = "127.0.0.1", ca_file: str | None = None) -> MinioTarget:
    trusted = str(server.ca_file or "") if ca_file is None else ca_file
    endpoint = server.endpoint.replace("127.0.0.1", host)
    session = UploadSession("logical", "upload", "recordings", endpoint, "a.mcap", "us-east-1", SIZE)
    return MinioStore(clock=RealClock(), ca_file=trusted).at(session, lambda: LEASE)


def sent(target: MinioTarget, file: int, transfer: Transfer) -> None:
    """One part with all of the file, which the store has proven."""
    multipart, part = target.begin(), Part(1, 0, SIZE)
    proven = target.send(multipart, part, file, transfer)
    assert target.matches(target.parts(multipart)[0], part, file)
    assert proven.size == transfer.sent == SIZE


def refusing(number: int, sendfile: Callable[[int, int, int, int], int]) -> Callable[[int, int, int, int], int]:
    """A kernel that sends a little of a file, and then no more of it."""
    calls: list[int] = []

    def push(out: int, source: int, offset: int, count: int) -> int:
        calls.append(count)
        if len(calls) % 2 == 0:
            raise OSError(number, os.strerror(number))
        return sendfile(out, source, offset, min(count, 1000))

    return push


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOTCONN], ids=errno.errorcode.get)
def test_what_the_kernel_does_not_send_by_itself_is_read_and_sent(
    server: servers.S3Server, file: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "sendfile", refusing(number, os.sendfile))
    sent(target_at(server), file, Transfer(SIZE))


def test_progress_is_told_as_bytes_leave_and_taken_back_when_the_file_ends_too_soon(
    server: servers.S3Server, file: int
) -> None:
    class Cut(Transfer):
        """Cuts the file once a third of it has left."""

        told = 0

        def advance(self, count: int) -> None:
            super().advance(count)
            self.told = max(self.told, self.sent)
            if self.told > SIZE // 3:
                os.ftruncate(file, SIZE // 2)

    target, transfer = target_at(server), Cut(SIZE)
    with pytest.raises(FileChangedError, match="shorter than it was"):
        target.send(target.begin(), Part(1, 0, SIZE), file, transfer)
    assert SIZE // 3 < transfer.told <= SIZE // 2
    assert transfer.sent == 0


@pytest.mark.parametrize(
    ("host", "ca_file"), [("127.1", None), ("127.0.0.1", "")], ids=["another name", "an unknown authority"]
)
def test_no_byte_goes_to_a_store_whose_certificate_does_not_prove_its_name(
    server: servers.S3Server, host: str, ca_file: str | None
) -> None:
    if server.ca_file is None:
        pytest.skip("only over TLS")
    with pytest.raises(CloudError) as raised:
        target_at(server, host=host, ca_file=ca_file).begin()
    assert raised.value.code == "certificate"
