"""MinioStore against real servers and against one that says what it is told; FakeStore held to the same contract."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import hashlib
import http.client
import inspect
import os
import socket
import ssl
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
import urllib3
from minio import Minio, MinioAdmin
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AssumeRoleProvider, StaticProvider

from agent.edges.clock import RealClock
from agent.edges.store import MinioStore
from agent.edges.store import target as target_room
from agent.edges.store.answers import cut
from agent.model.digests import b64, hasher, md5, quoted
from agent.model.errors import CloudError, judge
from agent.model.nouns import CredentialLease, Part, SentPart, StoredObject, Transfer, UploadSession, parts_of
from agent.model.ports import Target
from tests import servers
from tests.contracts.store import Meddler, Place, StoreContract
from tests.fakes.clock import FakeClock
from tests.fakes.store import FakeStore

LEASE = CredentialLease(servers.ACCESS_KEY, servers.SECRET_KEY, "", 0.0)
REAL = [(name, tls) for name in ("moto", "rclone", "minio", "versitygw") for tls in (False, True)]


@pytest.fixture(scope="module", params=REAL, ids=lambda case: f"{case[0]}-{'https' if case[1] else 'http'}")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.S3Server]:
    name, tls = request.param
    if name not in servers.available():
        pytest.skip(f"{name} is not on PATH")
    with servers.start(name, tmp_path_factory.mktemp(name), tls=tls) as running:
        _library(running).make_bucket("recordings")
        yield running


@pytest.fixture(scope="module")
def real_place(server: servers.S3Server) -> Iterator[Place]:
    store = MinioStore(clock=RealClock(), ca_file=str(server.ca_file or ""))
    library = _library(server)

    def read(key: str) -> bytes:
        answer = library.get_object("recordings", key)
        try:
            return answer.read()
        finally:
            answer.close()
            answer.release_conn()

    yield Place(store, server.endpoint, read, LEASE, replaces=server.name != "rclone")
    store.close()


class TestRealStores(StoreContract):
    @pytest.fixture
    def place(self, real_place: Place) -> Place:
        return real_place


class TestFakeStore(StoreContract):
    @pytest.fixture(params=["s3", "oss", "opaque"])
    def etags(self, request: pytest.FixtureRequest) -> Literal["s3", "oss", "opaque"]:
        kind: Literal["s3", "oss", "opaque"] = request.param
        return kind

    @pytest.fixture
    def place(self, etags: Literal["s3", "oss", "opaque"]) -> Place:
        store = FakeStore(checksums=etags == "opaque", etags=etags)
        return Place(store, "memory", lambda key: store.content("recordings", key), LEASE)


def _assumed_role(server: servers.S3Server) -> Credentials:
    """Session keys of a user of that server."""
    address = server.endpoint.partition("://")[2]
    pool = urllib3.PoolManager(ca_certs=str(server.ca_file)) if server.ca_file else None
    root = StaticProvider(server.access_key, server.secret_key)
    admin = MinioAdmin(endpoint=address, credentials=root, secure=bool(pool), http_client=pool)
    admin.user_add("robot", "robot-secret")
    admin.policy_set("readwrite", user="robot")
    role = AssumeRoleProvider(
        sts_endpoint=server.endpoint,
        access_key="robot",
        secret_key="robot-secret",  # noqa: S106 - a test's
        duration_seconds=3600,
        region="us-east-1",
        http_client=pool,
    )
    return role.retrieve()


def _library(server: servers.S3Server) -> Minio:
    secure = server.endpoint.startswith("https")
    pool = urllib3.PoolManager(ca_certs=str(server.ca_file)) if secure else None
    return Minio(
        server.endpoint.partition("://")[2],
        server.access_key,
        server.secret_key,
        secure=secure,
        region="us-east-1",
        http_client=pool,
    )


# What the library must still look like inside


def test_the_private_methods_of_the_library_are_still_these() -> None:
    assert list(inspect.signature(Minio._execute).parameters) == [
        "self", "method", "bucket_name", "object_name", "body", "headers", "query_params", "preload_content",
        "no_body_trace",
    ]  # fmt: skip
    assert list(inspect.signature(Minio._build_headers).parameters) == ["self", "host", "headers", "body", "creds"]
    assert {"_user_agent", "_base_url"} <= vars(Minio("localhost", region="r")).keys()


# Real servers beyond the contract


def test_parts_are_listed_to_the_last_page(real_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_room, "_PAGE", "2")
    target = real_place.target("many/parts.mcap")
    with _opened(tmp_path, b"x" * 500) as file:
        multipart = target.begin()
        for part in parts_of(500, 100):
            target.send(multipart, part, file, Transfer(500))
    assert [part.number for part in target.parts(multipart)] == [1, 2, 3, 4, 5]


def test_multiparts_are_listed_to_the_last_page(
    server: servers.S3Server, real_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.name == "versitygw":
        pytest.skip("VersityGW refuses the marker that it gave")
    monkeypatch.setattr(target_room, "_PAGE", "2")
    target = real_place.target("many/multiparts.mcap")
    begun = {target.begin() for _ in range(5)}
    real_place.target("many/multiparts.mcap.json").begin()
    assert set(target.multiparts()) == begun


def test_keys_that_are_wrong_cost_a_fresh_lease_or_are_blocked(server: servers.S3Server, real_place: Place) -> None:
    if server.name == "moto":
        pytest.skip("moto takes any keys")
    wrong = replace(LEASE, access_key_id="somebody-else", secret_access_key="no-such-secret")  # noqa: S106 - a test's
    target = real_place.target("a", lambda: wrong)
    for call in (target.begin, target.stat):
        with pytest.raises(CloudError) as raised:
            call()
        assert judge(raised.value).kind in {"lease_lost", "blocked"}
        assert "no-such-secret" not in str(raised.value)
        assert "somebody-else" not in str(raised.value)


def test_keys_of_a_token_service_work_and_a_token_that_is_none_costs_a_fresh_lease(
    server: servers.S3Server, real_place: Place
) -> None:
    if server.name != "minio":
        pytest.skip("only MinIO gives and checks session tokens here")
    granted = _assumed_role(server)
    lease = CredentialLease(granted.access_key, granted.secret_key, granted.session_token or "", 0.0)
    assert real_place.target("by/role", lambda: lease).begin()
    ended = replace(lease, session_token="ended")  # noqa: S106 - a test's
    target = real_place.target("by/role", lambda: ended)
    for act in (target.begin, target.stat, target.multiparts):
        with pytest.raises(CloudError) as raised:
            act()
        assert judge(raised.value).kind == "lease_lost"


def test_parts_sent_side_by_side_share_the_connections(real_place: Place, tmp_path: Path) -> None:
    size, part_size = 26 * 1024 * 1024, 5 * 1024 * 1024
    content = os.urandom(size)
    target = real_place.target("side/by/side.mcap")
    transfer = Transfer(size)
    with _opened(tmp_path, content) as file, ThreadPoolExecutor(4) as pool:
        multipart = target.begin()
        sent = list(pool.map(lambda part: target.send(multipart, part, file, transfer), parts_of(size, part_size)))
        target.complete(multipart, sent)
    assert transfer.sent == size
    assert real_place.read("side/by/side.mcap") == content


def test_memory_does_not_depend_on_the_size_of_a_part(real_place: Place, tmp_path: Path) -> None:
    mebibyte = 1024 * 1024
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 64 * mebibyte)
    descriptor = os.open(path, os.O_RDONLY)
    peaks = []
    try:
        for key, size in (("warm", 8), ("small", 8), ("big", 64)):
            target = real_place.target(key)
            multipart = target.begin()
            tracemalloc.start()
            target.send(multipart, Part(1, 0, size * mebibyte), descriptor, Transfer(size * mebibyte))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            target.abort(multipart)
    finally:
        os.close(descriptor)
    assert abs(peaks[2] - peaks[1]) < mebibyte


# A server that says what it is told


@dataclass
class Answer:
    """What the next request gets."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Oracle:
    """Answers each request by ``say``, and keeps it in ``seen``."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.seen: list[Request] = []
        self.say: Callable[[Request], Answer] = lambda _request: Answer()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if context:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.endpoint = f"{'https' if context else 'http'}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        oracle = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                request = Request(self.command, self.path, headers, body)
                oracle.seen.append(request)
                answer = oracle.say(request)
                self.send_response_only(answer.status)
                for name, value in {"content-length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815 - the library's names

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
                pass

        return Handler


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    oracle = Oracle()
    yield oracle
    oracle.stop()


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Oracle, str]]:
    made = servers.certificate(tmp_path / "certs")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert_file, made.key_file)
    oracle = Oracle(context)
    yield oracle, str(made.ca_file)
    oracle.stop()


@pytest.fixture
def store() -> Iterator[MinioStore]:
    store = MinioStore(clock=RealClock(), connect_timeout=2, read_timeout=2)
    yield store
    store.close()


def session_at(endpoint: str, region: str = "us-east-1") -> UploadSession:
    return UploadSession("l", "u", "bucket", endpoint, "key", region, 1000)


def target_at(store: MinioStore, endpoint: str) -> Target:
    return store.at(session_at(endpoint), lambda: LEASE)


def xml(code: str, message: str = "no") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


XML = {"content-type": "application/xml"}
HTML = {"content-type": "text/html; charset=utf-8"}
PAGE = b"<!DOCTYPE html><html><body>Welcome to the hotel</body></html>"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(403, XML, xml("ExpiredToken")), "ExpiredToken"),
        (Answer(403, XML, xml("AccessDenied")), "AccessDenied"),
        (Answer(503, XML, xml("SlowDown")), "SlowDown"),
        (Answer(404, {"content-type": "text/xml; charset=utf-8"}, xml("NoSuchUpload")), "NoSuchUpload"),
        (Answer(400, {"content-type": "text/plain"}, xml("InvalidPart")), "InvalidPart"),
        (Answer(400, XML, xml("BadDigest")), "checksum"),
        (Answer(400, XML, xml("XAmzContentChecksumMismatch")), "checksum"),
        (Answer(400, XML, b"<Error><Co"), "HTTP_400"),
        (Answer(403), "HTTP_403"),
        (Answer(500, HTML, PAGE), "HTTP_500"),
        (Answer(502, HTML, PAGE), "HTTP_502"),
        (Answer(413, HTML, PAGE), "HTTP_413"),
        (Answer(404, HTML, PAGE), "portal"),
        (Answer(403, HTML | {"x-amz-request-id": "1"}, PAGE), "HTTP_403"),
        (Answer(511, HTML, PAGE), "portal"),
        (Answer(200, HTML, PAGE), "portal"),
        (Answer(200, {}, b"<html><p>not even xml"), "portal"),
        (Answer(200, XML, b"<other/>"), "InvalidResponse"),
        (Answer(200, XML, b""), "InvalidResponse"),
        (Answer(302, {"location": "http://portal.example/"}), "portal"),
        (Answer(301, {"x-amz-bucket-region": "eu-west-1"}), "PermanentRedirect"),
        (Answer(307, XML, xml("TemporaryRedirect")), "TemporaryRedirect"),
        (Answer(418, {}, b"\xff\xfe"), "HTTP_418"),
    ],
)  # fmt: skip
def test_each_answer_becomes_its_code(oracle: Oracle, store: MinioStore, answer: Answer, code: str) -> None:
    oracle.say = lambda _request: answer
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).begin()
    assert (raised.value.call, raised.value.code) == ("CreateMultipartUpload", code)
    assert len(oracle.seen) == 1
    assert answer.status in {200, raised.value.status}


@pytest.mark.parametrize(
    ("call", "act"),
    [
        ("CreateMultipartUpload", lambda target, _: target.begin()),
        ("ListMultipartUploads", lambda target, _: target.multiparts()),
        ("UploadPart", lambda target, file: target.send("m", Part(1, 0, 10), file, Transfer(10))),
        ("ListParts", lambda target, _: target.parts("m")),
        ("CompleteMultipartUpload", lambda target, _: target.complete("m", [SentPart(1, 10, '"e"')])),
        ("HeadObject", lambda target, _: target.stat()),
        ("AbortMultipartUpload", lambda target, _: target.abort("m")),
    ],
)
def test_each_operation_names_itself_in_its_errors(
    oracle: Oracle, store: MinioStore, tmp_path: Path, call: str, act: Callable[[Target, int], object]
) -> None:
    oracle.say = lambda _request: Answer(503, XML | {"retry-after": "7"}, xml("SlowDown"))
    with _opened(tmp_path, b"x" * 10) as file, pytest.raises(CloudError) as raised:
        act(target_at(store, oracle.endpoint), file)
    assert raised.value.call == call
    assert raised.value.retry_after == 7
    assert judge(raised.value).kind == "offline"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "refused"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "reset"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "reset"),
        (http.client.RemoteDisconnected("closed"), "reset"),
        (http.client.IncompleteRead(b""), "reset"),
        (TimeoutError("timed out"), "timeout"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "unreachable"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "unreachable"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"), "dns"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "certificate"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "tls"),
        (ssl.SSLError(1, "wrong version number"), "tls"),
    ],
)
def test_what_happens_on_the_way_has_a_code_bare_and_wrapped(error: Exception, code: str) -> None:
    pool = urllib3.HTTPConnectionPool("h")
    caused = urllib3.exceptions.NewConnectionError(urllib3.connection.HTTPConnection("h"), "failed")
    caused.__cause__ = error
    for form in (
        error,
        urllib3.exceptions.ProtocolError("Connection aborted.", error),
        urllib3.exceptions.SSLError(error),
        urllib3.exceptions.ProxyError("Cannot connect to proxy.", error),
        urllib3.exceptions.MaxRetryError(pool, "/", error),
        urllib3.exceptions.MaxRetryError(pool, "/", urllib3.exceptions.ProtocolError("aborted", error)),
        urllib3.exceptions.MaxRetryError(pool, "/", caused),
    ):
        assert cut("UploadPart", form).code == code, form


def test_the_timeouts_of_the_connection_library_are_timeouts() -> None:
    pool = urllib3.HTTPConnectionPool("h")
    for error in (
        urllib3.exceptions.ReadTimeoutError(pool, "/", "slow"),
        urllib3.exceptions.ConnectTimeoutError(urllib3.connection.HTTPConnection("h"), "slow"),
    ):
        assert cut("UploadPart", error).code == "timeout"
        assert cut("UploadPart", urllib3.exceptions.MaxRetryError(pool, "/", error)).code == "timeout"


def test_a_port_where_nobody_listens_is_refused(store: MinioStore) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(CloudError) as raised:
            target_at(store, f"http://127.0.0.1:{taken.getsockname()[1]}").begin()
    assert raised.value.code == "refused"


def test_a_name_that_does_not_resolve_is_dns(store: MinioStore) -> None:
    with pytest.raises(CloudError) as raised:
        target_at(store, "http://no-such-host.invalid").begin()
    assert raised.value.code == "dns"


def test_a_certificate_nobody_vouches_for_is_told_apart(secure: tuple[Oracle, str], store: MinioStore) -> None:
    with pytest.raises(CloudError) as raised:
        target_at(store, secure[0].endpoint).begin()
    assert raised.value.code == "certificate"


def test_plain_text_where_tls_was_expected_is_a_cut_handshake(oracle: Oracle, store: MinioStore) -> None:
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint.replace("http:", "https:")).begin()
    assert raised.value.code == "tls"


def test_an_error_inside_a_success_of_complete_is_that_error(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda _request: Answer(200, XML, b"\n\n" + xml("InternalError"))
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).complete("m", [SentPart(1, 10, '"e"')])
    assert raised.value.code == "InternalError"


def test_a_complete_that_names_no_etag_is_no_success(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda _request: Answer(200, XML, b"<CompleteMultipartUploadResult/>")
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).complete("m", [SentPart(1, 10, '"e"')])
    assert raised.value.code == "InvalidResponse"


def test_a_whole_that_is_not_its_parts_is_a_checksum_error(oracle: Oracle, store: MinioStore) -> None:
    etag = f"{md5(b'other').hex()}-1"
    oracle.say = lambda _request: Answer(200, XML, f"<R><ETag>&quot;{etag}&quot;</ETag></R>".encode())
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).complete("m", [SentPart(1, 10, quoted(md5(b"one").hex()))])
    assert raised.value.code == "checksum"


def test_checksums_that_were_echoed_are_said_again_at_complete(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda _request: Answer(200, XML, b"<R><ETag>e</ETag></R>")
    stored = target_at(store, oracle.endpoint).complete("m", [SentPart(1, 10, '"a&b"', "c3Vt", "SHA256")])
    assert b"<ChecksumSHA256>c3Vt</ChecksumSHA256>" in oracle.seen[0].body
    assert b'<ETag>"a&amp;b"</ETag>' in oracle.seen[0].body
    assert stored == StoredObject(10, '"e"')


def test_stat_keeps_the_etags_letters_and_quotes(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda _request: Answer(200, {"etag": '"ABCdef-2"', "content-length": "12"})
    assert target_at(store, oracle.endpoint).stat() == StoredObject(12, '"ABCdef-2"')


def test_a_success_of_head_without_etag_is_not_the_stores(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda _request: Answer(200, HTML | {"content-length": "61"})
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).stat()
    assert raised.value.code == "portal"


@pytest.mark.parametrize("status", [400, 403])
def test_a_refused_head_is_asked_again_for_its_reason(oracle: Oracle, store: MinioStore, status: int) -> None:
    oracle.say = lambda request: (
        Answer(status) if request.method == "HEAD" else Answer(403, XML, xml("TokenRefreshRequired"))
    )
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).stat()
    assert (raised.value.call, raised.value.code) == ("HeadObject", "TokenRefreshRequired")
    assert oracle.seen[1].headers["range"] == "bytes=0-0"


def test_a_missing_bucket_is_not_taken_for_a_missing_object(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda request: Answer(404) if request.method == "HEAD" else Answer(404, XML, xml("NoSuchBucket"))
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).stat()
    assert raised.value.code == "NoSuchBucket"


def test_a_head_that_is_refused_where_reading_is_allowed_stays_refused(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda request: Answer(403) if request.method == "HEAD" else Answer(206, body=b"x")
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).stat()
    assert raised.value.code == "HTTP_403"


def test_no_key_of_the_lease_is_ever_in_an_error(oracle: Oracle, store: MinioStore) -> None:
    lease = CredentialLease("the-access-key", "the-secret-key", "the-session-token", 0.0)
    oracle.say = lambda _request: Answer(
        403, XML, xml("SignatureDoesNotMatch", "the-access-key the-secret-key the-session-token")
    )
    with pytest.raises(CloudError) as raised:
        store.at(session_at(oracle.endpoint), lambda: lease).begin()
    for secret in ("the-access-key", "the-secret-key", "the-session-token"):
        assert secret not in str(raised.value)


def test_a_session_token_that_no_header_can_carry_is_not_quoted(oracle: Oracle, store: MinioStore) -> None:
    lease = CredentialLease("a", "s", "evil\r\ntoken", 0.0)
    with pytest.raises(CloudError) as raised:
        store.at(session_at(oracle.endpoint), lambda: lease).begin()
    assert raised.value.code == "lying_server"
    assert raised.value.__suppress_context__
    assert "evil" not in str(raised.value)


def test_an_error_of_the_lease_comes_through_as_it_is(oracle: Oracle, store: MinioStore) -> None:
    def lease() -> CredentialLease:
        raise CloudError("ReissueUploadCredentials", "UNAVAILABLE")

    with pytest.raises(CloudError) as raised:
        store.at(session_at(oracle.endpoint), lease).begin()
    assert raised.value.call == "ReissueUploadCredentials"
    assert oracle.seen == []


def test_keys_change_in_the_middle_of_an_upload(oracle: Oracle, store: MinioStore) -> None:
    leases = iter([LEASE, replace(LEASE, access_key_id="second-key", session_token="second")])  # noqa: S106 - a test's
    oracle.say = lambda _request: Answer(200, XML, b"<R><UploadId>m</UploadId></R>")
    target = store.at(session_at(oracle.endpoint), lambda: next(leases))
    target.begin()
    target.begin()
    assert "second-key" not in oracle.seen[0].headers["authorization"]
    assert "second-key" in oracle.seen[1].headers["authorization"]
    assert oracle.seen[1].headers["x-amz-security-token"] == "second"


@pytest.mark.parametrize(
    ("endpoint", "region", "told"),
    [
        ("http://127.0.0.1:9000", "", "127.0.0.1:9000/bucket/key us-east-1"),
        ("http://localhost:9000", "eu", "localhost:9000/bucket/key eu"),
        ("minio.lan:9000", "", "minio.lan:9000/bucket/key us-east-1"),
        ("oss-cn-hangzhou.aliyuncs.com", "", "bucket.oss-cn-hangzhou.aliyuncs.com/key oss-cn-hangzhou"),
        ("https://oss-cn-x-internal.aliyuncs.com", "cn-x", "bucket.oss-cn-x-internal.aliyuncs.com/key cn-x"),
        ("s3.eu-west-1.amazonaws.com", "eu-west-1", "bucket.s3.eu-west-1.amazonaws.com/key eu-west-1"),
    ],
)
def test_each_endpoint_is_addressed_as_it_wants(
    store: MinioStore, endpoint: str, region: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def urlopen(_pool: object, _method: str, url: str, **options: Any) -> Any:
        seen.append(f"{url.partition('://')[2].partition('?')[0]} {options['headers']['authorization'].split('/')[2]}")
        raise urllib3.exceptions.ProtocolError("far enough")

    monkeypatch.setattr(urllib3.PoolManager, "urlopen", urlopen)
    with pytest.raises(CloudError):
        store.at(session_at(endpoint, region), lambda: LEASE).begin()
    assert seen == [told]


@pytest.mark.parametrize("endpoint", ["", "http://", "https://[bad", "https://-bad-:x"])
def test_an_endpoint_that_is_none_is_a_lie(store: MinioStore, endpoint: str) -> None:
    with pytest.raises(CloudError) as raised:
        target_at(store, endpoint)
    assert raised.value.code == "lying_server"


# Proof of a part by stores of every habit


class Habit:
    """A store that takes parts: does it echo, check MD5, and are its ETags digests? ``damage`` flips what comes in."""

    def __init__(self, *, echoes: bool = False, checks_md5: bool = False, etags: str = "digests") -> None:
        self.echoes, self.checks_md5, self.etags = echoes, checks_md5, etags
        self.damage = 0
        self.taken: list[Request] = []

    def __call__(self, request: Request) -> Answer:
        body = request.body
        if self.damage and len(body) > 1:
            self.damage -= 1
            body = bytes([body[0] ^ 1]) + body[1:]
        checksum = b64(hashlib.sha256(body).digest())
        if self.echoes and request.headers.get("x-amz-checksum-sha256", checksum) != checksum:
            return Answer(400, XML, xml("XAmzContentChecksumMismatch"))
        if self.checks_md5 and request.headers.get("content-md5", b64(md5(body))) != b64(md5(body)):
            return Answer(400, XML, xml("BadDigest"))
        self.taken.append(replace(request, body=body))
        etag = {"digests": md5(body), "opaque": md5(b"k" + body)}.get(self.etags, b"x").hex()
        return Answer(200, {"etag": quoted(etag)} | ({"x-amz-checksum-sha256": checksum} if self.echoes else {}))


HABITS = [
    Habit(echoes=True, etags="opaque"),
    Habit(echoes=True, checks_md5=True),
    Habit(checks_md5=True),
    Habit(),
    Habit(checks_md5=True, etags="opaque"),
    Habit(checks_md5=True, etags="odd"),
]


@pytest.mark.parametrize("habit", HABITS)
def test_a_part_is_proven_by_whatever_the_store_offers(
    oracle: Oracle, store: MinioStore, tmp_path: Path, habit: Habit
) -> None:
    habit.taken, oracle.say = [], habit
    target = target_at(store, oracle.endpoint)
    with _opened(tmp_path, b"0123456789") as file:
        for number in (1, 2, 3):
            transfer = Transfer(10)
            target.send("m", Part(number, 0, 10), file, transfer)
            assert transfer.sent == 10
    assert [request.body for request in habit.taken[-3:]] == [b"0123456789"] * 3
    assert ("content-md5" in habit.taken[-1].headers) is not habit.echoes


@pytest.mark.parametrize("habit", HABITS)
def test_damage_on_the_way_that_does_not_end_is_noticed_at_every_store(
    oracle: Oracle, store: MinioStore, tmp_path: Path, habit: Habit
) -> None:
    oracle.say, habit.damage = habit, 99
    transfer = Transfer(10)
    try:
        with _opened(tmp_path, b"0123456789") as file, pytest.raises(CloudError) as raised:
            target_at(store, oracle.endpoint).send("m", Part(1, 0, 10), file, transfer)
    finally:
        habit.damage = 0
    assert raised.value.code == "checksum"
    assert transfer.sent == 0


def test_a_store_that_proves_nothing_takes_no_part(oracle: Oracle, store: MinioStore, tmp_path: Path) -> None:
    oracle.say = Habit(etags="opaque")
    with _opened(tmp_path, b"0123456789") as file, pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).send("m", Part(1, 0, 10), file, Transfer(10))
    assert raised.value.code == "checksum"


def test_an_echo_of_another_checksum_is_noticed(oracle: Oracle, store: MinioStore, tmp_path: Path) -> None:
    oracle.say = lambda _request: Answer(200, {"etag": '"e"', "x-amz-checksum-sha256": "AAAA"})
    with _opened(tmp_path, b"0123456789") as file, pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).send("m", Part(1, 0, 10), file, Transfer(10))
    assert raised.value.code == "checksum"


def test_over_http_the_digest_that_signs_is_the_checksum_too(oracle: Oracle, store: MinioStore, tmp_path: Path) -> None:
    oracle.say = Habit(echoes=True)
    with _opened(tmp_path, b"0123456789") as file:
        target_at(store, oracle.endpoint).send("m", Part(1, 2, 5), file, Transfer(5))
    headers = oracle.seen[0].headers
    digest = hashlib.sha256(b"23456")
    assert headers["x-amz-content-sha256"] == digest.hexdigest()
    assert headers["x-amz-checksum-sha256"] == b64(digest.digest())
    assert "content-md5" not in headers


def test_over_https_crc32_is_the_checksum_and_the_payload_unsigned(secure: tuple[Oracle, str], tmp_path: Path) -> None:
    oracle, ca_file = secure
    crc = hasher("CRC32")
    crc.update(b"23456")
    oracle.say = lambda _request: Answer(200, {"etag": '"e"', "x-amz-checksum-crc32": b64(crc.digest())})
    store = MinioStore(clock=RealClock(), ca_file=ca_file)
    with _opened(tmp_path, b"0123456789") as file:
        sent = target_at(store, oracle.endpoint).send("m", Part(1, 2, 5), file, Transfer(5))
    store.close()
    headers = oracle.seen[0].headers
    assert headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert headers["x-amz-checksum-crc32"] == b64(crc.digest())
    assert "content-md5" not in headers
    assert (sent.checksum, sent.algorithm) == (b64(crc.digest()), "CRC32")


def test_bytes_that_change_on_disk_after_they_went_out_are_noticed(
    oracle: Oracle, store: MinioStore, tmp_path: Path
) -> None:
    oracle.say = Habit()
    with _opened(tmp_path, b"0123456789") as file:
        change = Meddler(10, lambda _: _write(file, b"9876543210"))
        with pytest.raises(CloudError) as raised:
            target_at(store, oracle.endpoint).send("m", Part(1, 0, 10), file, change)
    assert raised.value.code == "checksum"


# The store's time


def _dated(seconds: float) -> dict[str, str]:
    return {"date": email.utils.formatdate(seconds, usegmt=True)}


def _signed_at(request: Request) -> str:
    return request.headers["x-amz-date"]


def test_over_tls_a_wrong_clock_is_set_right_by_the_stores_answer(secure: tuple[Oracle, str]) -> None:
    oracle, ca_file = secure
    clock = FakeClock(now=1_790_000_000)
    store = MinioStore(clock=clock, ca_file=ca_file)
    true_time = clock.now() + 3600

    def say(request: Request) -> Answer:
        if _signed_at(request) == "20260921T141320Z":
            return Answer(403, XML | _dated(true_time), xml("RequestTimeTooSkewed"))
        return Answer(200, XML | _dated(true_time), b"<R><UploadId>m</UploadId></R>")

    oracle.say = say
    assert store.offset is None
    assert target_at(store, oracle.endpoint).begin() == "m"
    assert len(oracle.seen) == 2
    assert _signed_at(oracle.seen[1]) == "20260921T151320Z"
    assert store.offset == pytest.approx(3600)
    clock.set_now(0)
    assert target_at(store, oracle.endpoint).begin() == "m"
    assert _signed_at(oracle.seen[2]) == "20260921T151320Z"
    store.close()


def test_a_refusal_for_time_is_tried_again_once_only(secure: tuple[Oracle, str]) -> None:
    oracle, ca_file = secure
    store = MinioStore(clock=FakeClock(), ca_file=ca_file)
    oracle.say = lambda _request: Answer(403, XML | _dated(0), xml("RequestTimeTooSkewed"))
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).begin()
    store.close()
    assert raised.value.code == "RequestTimeTooSkewed"
    assert len(oracle.seen) == 2


@pytest.mark.parametrize(
    ("off", "code"), [(-200, "HTTP_403"), (400, "RequestTimeTooSkewed"), (-400, "RequestTimeTooSkewed")]
)
def test_over_http_a_bare_refusal_far_from_our_time_blames_the_clock_and_teaches_nothing(
    oracle: Oracle, off: float, code: str
) -> None:
    clock = FakeClock()
    store = MinioStore(clock=clock)
    oracle.say = lambda _request: Answer(403, _dated(clock.now() + off))
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).begin()
    store.close()
    assert raised.value.code == code
    assert raised.value.server_time is None
    assert store.offset is None
    assert len(oracle.seen) == 1


def test_an_ended_lease_is_not_blamed_on_the_clock(oracle: Oracle) -> None:
    clock = FakeClock()
    store = MinioStore(clock=clock)
    oracle.say = lambda _request: Answer(400, XML | _dated(clock.now() + 4000), xml("ExpiredToken"))
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).begin()
    store.close()
    assert raised.value.code == "ExpiredToken"


def _write(file: int, content: bytes) -> None:
    os.pwrite(file, content, 0)


@contextlib.contextmanager
def _opened(folder: Path, content: bytes) -> Iterator[int]:
    path = folder / "opened.mcap"
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
