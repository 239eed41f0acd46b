"""Tests of connections to the store, over plain TCP and over TLS.

They cover slow and stalled connections, what is sent of a file, and which certificates are trusted.
"""

from __future__ import annotations

import errno
import inspect
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from urllib3.connection import HTTPConnection

from agent.adapters.clock import RealClock
from agent.adapters.store import MinioStore
from agent.adapters.store.cancel_scope import CancelScope
from agent.adapters.store.connections import Connection
from agent.adapters.store.multipart import MultipartTarget
from agent.adapters.store.object_requests import ObjectRequests
from agent.model.errors import CloudError, FileChangedError, GateClosedError
from agent.model.transfer import Part, Transfer
from agent.model.values import UploadSession
from tests.harness import s3_servers as servers
from tests.harness.scripted_http_server import LEASE, opened
from tests.harness.slow_link import SlowLink, Wire, slow_link

KIB = 1024

# This is more than the kernel accepts while the peer reads nothing.
SIZE = 400 * KIB
SCHEMES = ("http", "https")


@pytest.fixture(scope="module", params=SCHEMES)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.S3Server]:
    folder = tmp_path_factory.mktemp("rclone")
    (folder / "data" / "recordings").mkdir(parents=True)
    with servers.rclone(folder, tls=request.param == "https") as running:
        yield running


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    with opened(tmp_path, os.urandom(SIZE)) as descriptor:
        yield descriptor


@contextmanager
def target_behind(
    server: servers.S3Server,
    wire: Callable[[int], Wire],
    *,
    patience: float = 60,
    connect_timeout: float = 10,
) -> Iterator[tuple[MultipartTarget, SlowLink]]:
    scheme, _, address = server.endpoint.partition("://")
    with slow_link(address, wire) as link:
        store = MinioStore(
            clock=RealClock(),
            ca_file=str(server.ca_file or ""),
            connect_timeout=connect_timeout,
            patience=patience,
        )
        yield _target(store, f"{scheme}://{link.address}"), link
        store.close()


def _target(store: MinioStore, endpoint: str) -> MultipartTarget:
    session = UploadSession(
        "logical", "upload", "recordings", endpoint, "a.mcap", "us-east-1", SIZE
    )
    return store.at(session, lambda: LEASE)


def stalling(*connections: int) -> Callable[[int], Wire]:
    """Return a link on which these connections die in the middle of a part."""
    return lambda number: Wire(stall_after=100 * KIB if number in connections else None)


def test_a_part_on_a_line_slower_than_every_timeout_arrives(
    server: servers.S3Server, file: int
) -> None:
    with target_behind(server, lambda _: Wire(rate=100 * KIB), patience=1, connect_timeout=0.3) as (
        target,
        link,
    ):
        sent = target.send(target.begin(), Part(1, 0, SIZE), file, Transfer(SIZE))
        assert (sent.size, link.accepted) == (SIZE, 1)


def test_a_part_that_comes_to_a_standstill_is_given_up(server: servers.S3Server, file: int) -> None:
    with target_behind(server, stalling(0, 1), patience=0.4) as (target, _):
        transfer = Transfer(SIZE)
        with pytest.raises(CloudError) as raised:
            target.send("multipart", Part(1, 0, SIZE), file, transfer)
        assert (raised.value.code, transfer.sent) == ("timeout", 0)


def test_a_part_without_an_answer_is_given_up(server: servers.S3Server, file: int) -> None:
    with target_behind(server, lambda _: Wire(), patience=0.4) as (target, link):
        multipart, transfer = target.begin(), Transfer(SIZE)
        link.mute.set()
        with pytest.raises(CloudError) as raised:
            target.send(multipart, Part(1, 0, SIZE), file, transfer)
        assert (raised.value.code, transfer.sent) == ("timeout", 0)


def sent_together(target: MultipartTarget, file: int, multipart: str) -> list[BaseException | None]:
    """Send two parts at once; return the error of each, or None."""
    with ThreadPoolExecutor(2) as pool:
        sending = [
            pool.submit(target.send, multipart, Part(number, 0, SIZE), file, Transfer(SIZE))
            for number in (1, 2)
        ]
        return [each.exception(20) for each in sending]


def test_after_a_reset_the_connection_that_got_through_meanwhile_is_used(
    server: servers.S3Server, file: int
) -> None:
    slow = Wire(rate=100 * KIB, reset_after=100 * KIB)
    with target_behind(server, lambda number: slow if number == 1 else Wire(rate=SIZE * 2)) as (
        target,
        link,
    ):
        multipart = target.begin()
        problem, _ = sorted(
            sent_together(target, file, multipart), key=lambda problem: problem is None
        )
        assert isinstance(problem, CloudError)
        assert problem.code == "reset"
        assert len(target.parts(multipart)) == 1
        assert link.accepted == 2


def test_after_a_reset_connections_that_only_lay_idle_are_not_trusted(
    server: servers.S3Server, file: int
) -> None:
    cut = Wire(rate=SIZE * 4, reset_after=3 * SIZE // 2)
    with target_behind(server, lambda number: cut if number < 2 else Wire()) as (target, link):
        multipart = target.begin()
        assert sent_together(target, file, multipart) == [None, None]
        with pytest.raises(CloudError) as raised:
            target.send(multipart, Part(3, 0, SIZE), file, Transfer(SIZE))
        assert raised.value.code == "reset"
        assert len(target.parts(multipart)) == 2
        assert link.accepted == 3


def broken_off(target: MultipartTarget, link: SlowLink, file: int, multipart: str) -> None:
    """Send a part, stop it once the link is dead, and see the call end."""
    transfer = Transfer(SIZE)
    transfer.at_stop(target.break_off)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(target.send, multipart, Part(1, 0, SIZE), file, transfer)
        assert link.stalled.wait(20)
        transfer.stop()
        with pytest.raises(GateClosedError):
            sending.result(5)
    assert transfer.sent == 0


def test_a_stop_gets_through_while_nothing_goes_out(server: servers.S3Server, file: int) -> None:
    with target_behind(server, stalling(0)) as (target, link):
        broken_off(target, link, file, target.begin())


def test_a_stop_gets_through_while_no_answer_comes(server: servers.S3Server, file: int) -> None:
    with target_behind(server, lambda _: Wire()) as (target, link):
        multipart = target.begin()
        link.mute.set()
        broken_off(target, link, file, multipart)


def test_a_stop_gets_through_while_the_first_answer_or_the_handshake_is_awaited(
    server: servers.S3Server, file: int
) -> None:
    with target_behind(server, lambda _: Wire()) as (target, link):
        link.mute.set()
        broken_off(target, link, file, "multipart")


def test_a_stop_gets_through_while_connecting() -> None:
    with ExitStack() as open_sockets:
        full = open_sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = full.getsockname()
        # No process accepts the connections, so a third one gets no answer.
        for _ in range(2):
            waiting = open_sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        store = MinioStore(clock=RealClock(), connect_timeout=60)
        target = _target(store, f"http://127.0.0.1:{address[1]}")
        with ThreadPoolExecutor(1) as pool:
            beginning = pool.submit(target.begin)
            assert not _until(lambda: bool(target._requests.cancel_scope._sockets), beginning.done)
            target.break_off()
            with pytest.raises(GateClosedError):
                beginning.result(5)
        store.close()


def _until(done: Callable[[], bool], given_up: Callable[[], bool]) -> bool:
    """Wait for ``done``; return whether ``given_up`` came first."""
    nap = threading.Event()
    while not done():
        if given_up():
            return True
        nap.wait(0.01)
    return False


def test_what_was_broken_off_begins_nothing_more_and_others_go_on(server: servers.S3Server) -> None:
    with target_behind(server, lambda _: Wire()) as (target, _):
        target.begin()
        target.break_off()
        for act in (target.begin, target.stat, target.multiparts):
            with pytest.raises(GateClosedError):
                act()
        requests = target._requests
        scope = CancelScope(60, time.monotonic)
        other = MultipartTarget(
            ObjectRequests(requests._client, requests._keys, requests.session, scope),
            algorithm="SHA256",
            encryption={},
            storage_class="",
        )
        assert other.begin()


def test_no_socket_is_kept_when_a_request_is_over(server: servers.S3Server, file: int) -> None:
    with target_behind(server, lambda _: Wire()) as (target, _):
        target.send(target.begin(), Part(1, 0, 1000), file, Transfer(1000))
        assert target._requests.cancel_scope._sockets == {}


def test_the_library_still_connects_where_it_did() -> None:
    assert list(inspect.signature(HTTPConnection._new_conn).parameters) == ["self"]
    assert HTTPConnection("store.")._dns_host == "store."


@pytest.mark.parametrize(
    ("seconds", "unsent_limit"), [(0.01, 2 * SIZE), (10.0, 128 * KIB)], ids=["fast", "slow"]
)
def test_what_may_wait_unsent_is_what_leaves_in_a_moment_and_never_too_little(
    seconds: float, unsent_limit: int
) -> None:
    now = [0.0]
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        answered = pool.submit(_take_in, server, SIZE)
        connection = Connection("127.0.0.1", server.getsockname()[1])
        with CancelScope(60, lambda: now[0]).entered():
            connection.request("PUT", "/", body=bytes(SIZE))
            now[0] = seconds
            assert connection.getresponse().status == 204
        answered.result(20)
        unsent = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
        connection.close()
    assert unsent == pytest.approx(unsent_limit, rel=0.01)


def _take_in(server: socket.socket, size: int) -> None:
    with server.accept()[0] as there:
        while size > 0:
            size -= len(there.recv(64 * KIB))
        there.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


# These tests check files and certificates.


def _at(
    server: servers.S3Server, host: str = "127.0.0.1", ca_file: str | None = None
) -> MultipartTarget:
    """Return a target at that name of the server.

    ``ca_file`` is trusted, or the server's own authority.
    """
    trusted = str(server.ca_file or "") if ca_file is None else ca_file
    return _target(
        MinioStore(clock=RealClock(), ca_file=trusted), server.endpoint.replace("127.0.0.1", host)
    )


def sent(target: MultipartTarget, file: int, transfer: Transfer) -> None:
    """Send the whole file as one part, which the store has verified."""
    multipart, part = target.begin(), Part(1, 0, SIZE)
    proven = target.send(multipart, part, file, transfer)
    assert target.matches(target.parts(multipart)[0], part, file)
    assert proven.size == transfer.sent == SIZE


def refusing(
    number: int, sendfile: Callable[[int, int, int, int], int]
) -> Callable[[int, int, int, int], int]:
    """Replace sendfile() by one that sends a little of a file and then no more."""
    calls: list[int] = []

    def push(out: int, source: int, offset: int, count: int) -> int:
        calls.append(count)
        if len(calls) % 2 == 0:
            raise OSError(number, os.strerror(number))
        return sendfile(out, source, offset, min(count, 1000))

    return push


@pytest.mark.parametrize(
    "number", [errno.EINVAL, errno.EIO, errno.ENOTCONN], ids=errno.errorcode.get
)
def test_what_the_kernel_does_not_send_by_itself_is_read_and_sent(
    server: servers.S3Server, file: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(os, "sendfile", refusing(number, os.sendfile))
    sent(_at(server), file, Transfer(SIZE))


def test_progress_is_told_as_bytes_leave_and_taken_back_when_the_file_ends_too_soon(
    server: servers.S3Server, file: int
) -> None:
    class Cut(Transfer):
        """A transfer that shortens the file once a third of it has been sent."""

        told = 0

        def advance(self, count: int) -> None:
            super().advance(count)
            if self.told <= SIZE // 3 < self.sent:
                os.ftruncate(file, self.sent + 1000)
            self.told = max(self.told, self.sent)

    target, transfer = _at(server), Cut(SIZE)
    with pytest.raises(FileChangedError, match="shorter than it was"):
        target.send(target.begin(), Part(1, 0, SIZE), file, transfer)
    assert SIZE // 3 < transfer.told < SIZE
    assert transfer.sent == 0


@pytest.mark.parametrize(
    ("host", "ca_file"),
    [("127.1", None), ("127.0.0.1", "")],
    ids=["another name", "an unknown authority"],
)
def test_no_byte_goes_to_a_store_whose_certificate_does_not_prove_its_name(
    server: servers.S3Server, host: str, ca_file: str | None
) -> None:
    if server.ca_file is None:
        pytest.skip("only over TLS")
    with pytest.raises(CloudError) as raised:
        _at(server, host, ca_file).begin()
    assert raised.value.code == "certificate"
