"""MinioStore with a scripted server. Each answer, and each missing answer, has one meaning."""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import urllib3

from agent.adapters.clock import RealClock
from agent.adapters.store import MinioStore
from agent.adapters.store import client as client_module
from agent.adapters.store.responses import connection_error
from agent.model.digests import md5, quoted
from agent.model.errors import CloudError, judge
from agent.model.ports import Target
from agent.model.transfer import Part, SentPart, StoredObject, Transfer
from agent.model.values import CredentialLease
from tests.harness import s3_servers as servers
from tests.harness.faults.tcp_faults import Port
from tests.harness.scripted_http_server import (
    HTML,
    LEASE,
    PAGE,
    XML,
    Oracle,
    ScriptedAnswer,
    opened,
    raw_server,
    session_at,
    target_at,
    xml,
)
from tests.harness.shortages import no_descriptors


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


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (ScriptedAnswer(403, XML, xml("ExpiredToken")), "ExpiredToken"),
        (ScriptedAnswer(403, XML, xml("AccessDenied")), "AccessDenied"),
        (ScriptedAnswer(503, XML, xml("SlowDown")), "SlowDown"),
        (ScriptedAnswer(404, {"content-type": "text/xml; charset=utf-8"}, xml("NoSuchUpload")),
         "NoSuchUpload"),
        (ScriptedAnswer(400, {"content-type": "text/plain"}, xml("InvalidPart")), "InvalidPart"),
        (ScriptedAnswer(400, XML, xml("BadDigest")), "checksum"),
        (ScriptedAnswer(400, XML, xml("XAmzContentChecksumMismatch")), "checksum"),
        (ScriptedAnswer(400, XML, b"<Error><Co"), "HTTP_400"),
        (ScriptedAnswer(403), "HTTP_403"),
        (ScriptedAnswer(500, HTML, PAGE), "HTTP_500"),
        (ScriptedAnswer(502, HTML, PAGE), "HTTP_502"),
        (ScriptedAnswer(413, HTML, PAGE), "HTTP_413"),
        (ScriptedAnswer(404, HTML, PAGE), "portal"),
        (ScriptedAnswer(403, HTML | {"x-amz-request-id": "1"}, PAGE), "HTTP_403"),
        (ScriptedAnswer(511, HTML, PAGE), "portal"),
        (ScriptedAnswer(407, HTML, PAGE), "proxy"),
        (ScriptedAnswer(200, HTML, PAGE), "portal"),
        (ScriptedAnswer(200, {}, b"<html><p>not even xml"), "portal"),
        (ScriptedAnswer(200, XML, xml("SlowDown")), "SlowDown"),
        (ScriptedAnswer(200, XML, b"<other/>"), "InvalidResponse"),
        (ScriptedAnswer(200, XML, b""), "InvalidResponse"),
        (ScriptedAnswer(200, XML, b'<?xml version="1.0" encoding="klingon"?><R/>'),
         "InvalidResponse"),
        (ScriptedAnswer(200, XML, b'<?xml version="1.0" encoding="utf-7"?><R/>'),
         "InvalidResponse"),
        (ScriptedAnswer(200, XML, b'<?xml version="1.0" encoding="shift_jis"?><R/>'),
         "InvalidResponse"),
        (ScriptedAnswer(200, XML, b"<a>" * 100_000), "InvalidResponse"),
        (ScriptedAnswer(200, XML, b'<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "a">]><r>&a;</r>'),
         "InvalidResponse"),
        (ScriptedAnswer(400, XML, b"<Error><Message>&#" + b"9" * 5000 + b";</Message></Error>"),
         "HTTP_400"),
        (ScriptedAnswer(302, {"location": "http://portal.example/"}), "portal"),
        (ScriptedAnswer(301, {"x-amz-bucket-region": "eu-west-1"}), "PermanentRedirect"),
        (ScriptedAnswer(307, XML, xml("TemporaryRedirect")), "TemporaryRedirect"),
        (ScriptedAnswer(418, {}, b"\xff\xfe"), "HTTP_418"),
    ],
)  # fmt: skip
def test_each_answer_becomes_its_code(
    oracle: Oracle, store: MinioStore, answer: ScriptedAnswer, code: str
) -> None:
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
        (
            "CompleteMultipartUpload",
            lambda target, _: target.complete("m", [SentPart(1, 10, '"e"')]),
        ),
        ("HeadObject", lambda target, _: target.stat()),
        ("AbortMultipartUpload", lambda target, _: target.abort("m")),
    ],
)
def test_each_operation_names_itself_in_its_errors(
    oracle: Oracle,
    store: MinioStore,
    tmp_path: Path,
    call: str,
    act: Callable[[Target, int], object],
) -> None:
    oracle.say = lambda _request: ScriptedAnswer(503, XML | {"retry-after": "7"}, xml("SlowDown"))
    with opened(tmp_path, b"x" * 10) as file, pytest.raises(CloudError) as raised:
        act(target_at(store, oracle.endpoint), file)
    assert raised.value.call == call
    assert raised.value.retry_after == 7
    assert judge(raised.value).kind == "offline"


CALLS: list[tuple[str, Callable[[Target, int], object]]] = [
    ("CreateMultipartUpload", lambda target, _: target.begin()),
    ("ListMultipartUploads", lambda target, _: target.multiparts()),
    ("UploadPart", lambda target, file: target.send("m", Part(1, 0, 10), file, Transfer(10))),
    ("ListParts", lambda target, _: target.parts("m")),
    ("CompleteMultipartUpload", lambda target, _: target.complete("m", [SentPart(1, 10, '"e"')])),
    ("HeadObject", lambda target, _: target.stat()),
    ("AbortMultipartUpload", lambda target, _: target.abort("m")),
    ("PutObject", lambda target, _: target.put(b"x", "text/plain")),
    ("GetObject", lambda target, _: target.read(10)),
]


@pytest.mark.parametrize(("call", "act"), CALLS)
@pytest.mark.parametrize(
    "says",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x00\xff\x80\n",
        b"hello\n",
        b"<html>hello</html>",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 99 too few\r\n\r\n",
        b"HTTP/3.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
def test_what_is_no_http_counts_only_where_others_pass_whatever_was_asked(
    store: MinioStore, tmp_path: Path, call: str, act: Callable[[Target, int], object], says: bytes
) -> None:
    with (
        raw_server(says) as endpoint,
        opened(tmp_path, b"x" * 10) as file,
        pytest.raises(CloudError) as raised,
    ):
        act(target_at(store, endpoint), file)
    assert (raised.value.call, raised.value.code, raised.value.status) == (call, "no_http", 0)
    assert judge(raised.value).kind == "counted"


def test_a_head_without_an_end_is_cut_off_though_it_is_no_http(store: MinioStore) -> None:
    with raw_server(b"\x00" * 200_000) as endpoint, pytest.raises(CloudError) as raised:
        target_at(store, endpoint).begin()
    assert raised.value.code in {"InvalidResponse", "no_http", "reset"}


def test_the_rest_of_an_answer_that_is_too_long_spoils_no_later_request(store: MinioStore) -> None:
    said = iter([b"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: 2\r\n\r\nabc", b"defghi\r\n"])

    def serve(client: socket.socket) -> None:
        while client.recv(64 * 1024) and (text := next(said, b"")):
            client.sendall(text)

    port = Port(serve)
    try:
        target = target_at(store, f"http://127.0.0.1:{port.number}")
        target.put(b"x", "text/plain")
        with pytest.raises(CloudError) as raised:
            target.put(b"x", "text/plain")
    finally:
        port.stop()
    assert raised.value.code in {"no_http", "reset"}


PARTS = "<R><Part><PartNumber>{}</PartNumber><Size>{}</Size><ETag>e</ETag></Part></R>"


@pytest.mark.parametrize(
    ("number", "size"),
    [
        ("x", "1"),
        ("", "1"),
        ("-1", "1"),
        ("1", "1e3"),
        ("1", "9" * 5000),
        ("1", "-5"),
        ("\u0663", "1"),
        ("1", "1.5"),
    ],
)
def test_a_part_whose_number_is_none_is_no_answer_of_a_store(
    oracle: Oracle, store: MinioStore, number: str, size: str
) -> None:
    oracle.say = lambda _request: ScriptedAnswer(200, XML, PARTS.format(number, size).encode())
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).parts("m")
    assert (raised.value.call, raised.value.code) == ("ListParts", "InvalidResponse")


@pytest.mark.parametrize("length", ["abc", "-5", "9" * 5000, "1e3", "0x10"])
def test_a_length_that_is_no_number_is_no_answer_of_a_store(store: MinioStore, length: str) -> None:
    head = f"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: {length}\r\n\r\n"
    with raw_server(head.encode()) as endpoint, pytest.raises(CloudError) as raised:
        target_at(store, endpoint).stat()
    assert (raised.value.call, raised.value.code) == ("HeadObject", "InvalidResponse")


@pytest.mark.parametrize(
    "date",
    ["Fri, 31 Dec 9999 23:59:59 GMT", "Sat, 99 Foo 99999999999 99:99:99", "0", " "],
)
def test_a_date_that_can_not_be_teaches_nothing_and_breaks_nothing(
    secure: tuple[Oracle, str], date: str
) -> None:
    oracle, ca_file = secure
    told = {"retry-after": date, "date": date} | XML
    store = MinioStore(clock=RealClock(), ca_file=ca_file, connect_timeout=2, read_timeout=2)
    try:
        # The second request is signed with the time that the first answer told.
        for _ in range(2):
            oracle.say = lambda _request: ScriptedAnswer(503, told, xml("SlowDown"))
            with pytest.raises(CloudError) as raised:
                target_at(store, oracle.endpoint).begin()
            assert (raised.value.code, raised.value.retry_after) == ("SlowDown", 0)
        assert store.offset is None
    finally:
        store.close()


def test_a_retry_after_that_is_too_large_is_only_long(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda _request: ScriptedAnswer(
        503, XML | {"retry-after": "9" * 5000}, xml("SlowDown")
    )
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).begin()
    assert raised.value.retry_after > 1e9


@pytest.mark.parametrize(("call", "act"), CALLS)
def test_what_nobody_foresaw_leaves_each_call_as_its_own_error(
    oracle: Oracle,
    store: MinioStore,
    tmp_path: Path,
    call: str,
    act: Callable[[Target, int], object],
) -> None:
    surprise = mock.patch.object(
        client_module, "read", side_effect=AttributeError("nobody foresaw this")
    )
    with surprise, opened(tmp_path, b"x" * 10) as file, pytest.raises(CloudError) as raised:
        act(target_at(store, oracle.endpoint), file)
    assert (raised.value.call, raised.value.code) == (call, "unexpected_answer")
    assert isinstance(raised.value.__cause__, AttributeError)


@pytest.mark.parametrize(("call", "act"), CALLS)
def test_a_robot_without_descriptors_says_so_in_each_call(
    oracle: Oracle,
    store: MinioStore,
    tmp_path: Path,
    call: str,
    act: Callable[[Target, int], object],
) -> None:
    with opened(tmp_path, b"x" * 10) as file, no_descriptors(), pytest.raises(CloudError) as raised:
        act(target_at(store, oracle.endpoint), file)
    assert (raised.value.call, raised.value.code) == (call, "out_of_descriptors")
    assert oracle.seen == []


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
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), "reset"),
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
        urllib3.exceptions.MaxRetryError(
            pool, "/", urllib3.exceptions.ProtocolError("aborted", error)
        ),
        urllib3.exceptions.MaxRetryError(pool, "/", caused),
    ):
        assert connection_error("UploadPart", form).code == code, form


def test_a_tunnel_that_the_proxy_refuses_is_told_from_one_that_nobody_answers() -> None:
    refused = OSError("Tunnel connection failed: 407 Proxy Authentication Required")
    assert (
        connection_error(
            "UploadPart", urllib3.exceptions.ProxyError("Unable to connect to proxy", refused)
        ).code
        == "proxy"
    )
    away = ConnectionRefusedError(errno.ECONNREFUSED, "refused")
    assert (
        connection_error(
            "UploadPart", urllib3.exceptions.ProxyError("Unable to connect to proxy", away)
        ).code
        == "refused"
    )


def test_the_timeouts_of_the_connection_library_are_timeouts() -> None:
    pool = urllib3.HTTPConnectionPool("h")
    for error in (
        urllib3.exceptions.ReadTimeoutError(pool, "/", "slow"),
        urllib3.exceptions.ConnectTimeoutError(urllib3.connection.HTTPConnection("h"), "slow"),
    ):
        assert connection_error("UploadPart", error).code == "timeout"
        assert (
            connection_error("UploadPart", urllib3.exceptions.MaxRetryError(pool, "/", error)).code
            == "timeout"
        )


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


def test_a_certificate_nobody_vouches_for_is_told_apart(
    secure: tuple[Oracle, str], store: MinioStore
) -> None:
    with pytest.raises(CloudError) as raised:
        target_at(store, secure[0].endpoint).begin()
    assert raised.value.code == "certificate"


def test_plain_text_where_tls_was_expected_is_a_cut_handshake(
    oracle: Oracle, store: MinioStore
) -> None:
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint.replace("http:", "https:")).begin()
    assert raised.value.code == "tls"


def test_an_error_inside_a_success_of_complete_is_that_error(
    oracle: Oracle, store: MinioStore
) -> None:
    oracle.say = lambda _request: ScriptedAnswer(200, XML, b"\n\n" + xml("InternalError"))
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).complete("m", [SentPart(1, 10, '"e"')])
    assert raised.value.code == "InternalError"


def test_a_complete_that_names_no_etag_is_no_success(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda _request: ScriptedAnswer(200, XML, b"<CompleteMultipartUploadResult/>")
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).complete("m", [SentPart(1, 10, '"e"')])
    assert raised.value.code == "InvalidResponse"


def test_a_whole_that_is_not_its_parts_is_a_checksum_error(
    oracle: Oracle, store: MinioStore
) -> None:
    etag = f"{md5(b'other').hex()}-1"
    oracle.say = lambda _request: ScriptedAnswer(
        200, XML, f"<R><ETag>&quot;{etag}&quot;</ETag></R>".encode()
    )
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).complete(
            "m", [SentPart(1, 10, quoted(md5(b"one").hex()))]
        )
    assert raised.value.code == "checksum"


def test_checksums_that_were_echoed_are_said_again_at_complete(
    oracle: Oracle, store: MinioStore
) -> None:
    oracle.say = lambda _request: ScriptedAnswer(200, XML, b"<R><ETag>e</ETag></R>")
    stored = target_at(store, oracle.endpoint).complete(
        "m", [SentPart(1, 10, '"a&b"', "c3Vt", "SHA256")]
    )
    assert b"<ChecksumSHA256>c3Vt</ChecksumSHA256>" in oracle.seen[0].body
    assert b'<ETag>"a&amp;b"</ETag>' in oracle.seen[0].body
    assert stored == StoredObject(10, '"e"')


def test_stat_keeps_the_etags_letters_and_quotes(oracle: Oracle, store: MinioStore) -> None:
    oracle.say = lambda _request: ScriptedAnswer(
        200, {"etag": '"ABCdef-2"', "content-length": "12"}
    )
    assert target_at(store, oracle.endpoint).stat() == StoredObject(12, '"ABCdef-2"')


def test_a_success_of_head_without_etag_is_not_the_stores(
    oracle: Oracle, store: MinioStore
) -> None:
    oracle.say = lambda _request: ScriptedAnswer(200, HTML | {"content-length": "61"})
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).stat()
    assert raised.value.code == "portal"


def test_a_success_of_a_part_without_etag_is_not_the_stores(
    oracle: Oracle, store: MinioStore, tmp_path: Path
) -> None:
    oracle.say = lambda _request: ScriptedAnswer(200, HTML, PAGE)
    with opened(tmp_path, b"x" * 10) as file, pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).send("m", Part(1, 0, 10), file, Transfer(10))
    assert raised.value.code == "portal"


@pytest.mark.parametrize("status", [400, 403])
def test_a_refused_head_is_asked_again_for_its_reason(
    oracle: Oracle, store: MinioStore, status: int
) -> None:
    oracle.say = lambda request: (
        ScriptedAnswer(status)
        if request.method == "HEAD"
        else ScriptedAnswer(403, XML, xml("TokenRefreshRequired"))
    )
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).stat()
    assert (raised.value.call, raised.value.code) == ("HeadObject", "TokenRefreshRequired")
    assert oracle.seen[1].headers["range"] == "bytes=0-0"


def test_a_missing_bucket_is_not_taken_for_a_missing_object(
    oracle: Oracle, store: MinioStore
) -> None:
    oracle.say = lambda request: (
        ScriptedAnswer(404)
        if request.method == "HEAD"
        else ScriptedAnswer(404, XML, xml("NoSuchBucket"))
    )
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).stat()
    assert raised.value.code == "NoSuchBucket"


def test_a_head_that_is_refused_where_reading_is_allowed_stays_refused(
    oracle: Oracle, store: MinioStore
) -> None:
    oracle.say = lambda request: (
        ScriptedAnswer(403) if request.method == "HEAD" else ScriptedAnswer(206, body=b"x")
    )
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).stat()
    assert raised.value.code == "HTTP_403"


def test_no_key_of_the_lease_is_ever_in_an_error(oracle: Oracle, store: MinioStore) -> None:
    lease = CredentialLease("the-access-key", "the-secret-key", "the-session-token", 0.0)
    oracle.say = lambda _request: ScriptedAnswer(
        403, XML, xml("SignatureDoesNotMatch", "the-access-key the-secret-key the-session-token")
    )
    with pytest.raises(CloudError) as raised:
        store.at(session_at(oracle.endpoint), lambda: lease).begin()
    for secret in ("the-access-key", "the-secret-key", "the-session-token"):
        assert secret not in str(raised.value)


def test_a_session_token_that_no_header_can_carry_is_not_quoted(
    oracle: Oracle, store: MinioStore
) -> None:
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
    leases = iter([LEASE, replace(LEASE, access_key_id="second-key", session_token="second")])  # noqa: S106 - a key of the test
    oracle.say = lambda _request: ScriptedAnswer(200, XML, b"<R><UploadId>m</UploadId></R>")
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
        (
            "oss-cn-hangzhou.aliyuncs.com",
            "",
            "bucket.oss-cn-hangzhou.aliyuncs.com/key oss-cn-hangzhou",
        ),
        (
            "https://oss-cn-x-internal.aliyuncs.com",
            "cn-x",
            "bucket.oss-cn-x-internal.aliyuncs.com/key cn-x",
        ),
        (
            "s3.eu-west-1.amazonaws.com",
            "eu-west-1",
            "bucket.s3.eu-west-1.amazonaws.com/key eu-west-1",
        ),
    ],
)
def test_each_endpoint_is_addressed_as_it_wants(
    store: MinioStore, endpoint: str, region: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def urlopen(_pool: object, _method: str, url: str, **options: Any) -> Any:
        address = url.partition("://")[2].partition("?")[0]
        seen.append(f"{address} {options['headers']['authorization'].split('/')[2]}")
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
