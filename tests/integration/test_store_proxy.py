"""Tests of the store proxy of the embedded cloud.

They check what a lease allows, what it does not allow, and that bodies only stream through.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import io
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import urllib3
from minio import Minio
from minio.error import S3Error

from agent.devcloud import sigv4
from agent.devcloud.admission import Admission, NotAdmittedError
from agent.devcloud.bucket import DevBucket
from agent.devcloud.byte_rate import ByteRate
from agent.devcloud.ledger import Device, IssuedLease, Ledger
from agent.devcloud.servers import Endpoint
from agent.devcloud.store_proxy import StoreProxy
from tests.harness import s3_servers as servers

BUCKET = "recordings"
KEY = "robot-1/2025-06-30/an id/épisode+1.mcap"
MIB = 1024 * 1024


@pytest.fixture(
    scope="module", params=[name for name in servers.available() if name in {"rclone", "minio"}]
)
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.S3Server]:
    with servers.start(request.param, tmp_path_factory.mktemp(request.param)) as running:
        yield running


class ProxiedStore:
    """A proxy over a real store, and the lease that the proxy knows."""

    def __init__(self, store: servers.S3Server, folder: Path, bandwidth: float = 0) -> None:
        self.clock = time.time()
        self.ledger = Ledger(folder / "platform.json", lambda: self.clock)
        self.endpoint = Endpoint(store.endpoint, store.access_key, store.secret_key)
        self.root = DevBucket(self.endpoint, BUCKET)
        self.root.ensure()
        self.lease = self.issue("DEV1")
        self.front = StoreProxy(
            self.ledger, self.endpoint, now=lambda: self.clock, bandwidth=bandwidth
        )
        self.http = urllib3.PoolManager(retries=False, timeout=30)

    def issue(self, access_key: str, seconds: float = 600) -> IssuedLease:
        lease = IssuedLease(
            access_key,
            f"secret of {access_key}",
            f"token of {access_key}",
            BUCKET,
            KEY,
            self.clock + seconds,
        )
        self.ledger.put(lease)
        return lease

    def client(self, lease: IssuedLease | None = None) -> Minio:
        lease = lease or self.lease
        where = f"127.0.0.1:{self.front.port}"
        return Minio(
            where,
            access_key=lease.id,
            secret_key=lease.secret_key,
            session_token=lease.session_token,
            secure=False,
            region="us-east-1",
            http_client=self.http,
        )

    def put(
        self, client: Minio, content: bytes = b"bytes", key: str = KEY, bucket: str = BUCKET
    ) -> None:
        client.put_object(bucket, key, io.BytesIO(content), len(content))

    def signed(self, method: str, query: str = "", **headers: str) -> tuple[str, dict[str, str]]:
        """Return target and headers of a request signed with the lease's keys."""
        path = "/" + BUCKET + "/robot-1/2025-06-30/an%20id/%C3%A9pisode%2B1.mcap"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        request = sigv4.Request(
            method, path, query, named | {"x-amz-security-token": self.lease.session_token}
        )
        made = sigv4.sign(request, Endpoint(self.front.url, self.lease.id, self.lease.secret_key))
        return path + (f"?{query}" if query else ""), made

    def close(self) -> None:
        self.http.clear()
        self.front.stop()
        self.root.close()


@pytest.fixture
def proxied(store: servers.S3Server, tmp_path: Path) -> Iterator[ProxiedStore]:
    with contextlib.closing(ProxiedStore(store, tmp_path)) as made:
        yield made


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(S3Error) as caught:
        call()
    return str(caught.value.code)


def test_signatures_are_those_of_the_example_that_amazon_publishes() -> None:
    empty = hashlib.sha256(b"").hexdigest()
    request = sigv4.Request(
        "GET",
        "/test.txt",
        "",
        {
            "host": "examplebucket.s3.amazonaws.com",
            "range": "bytes=0-9",
            "x-amz-content-sha256": empty,
            "x-amz-date": "20130524T000000Z",
        },
    )
    made = sigv4.signature(
        request,
        request.headers,
        "20130524/us-east-1/s3/aws4_request",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    )
    assert made == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"


def test_a_lease_carries_a_multipart_upload_and_reads_it_back(proxied: ProxiedStore) -> None:
    content = b"0123456789abcdef" * (11 * MIB // 16)
    client = proxied.client()
    client.put_object(BUCKET, KEY, io.BytesIO(content), len(content), part_size=5 * MIB)
    assert client.stat_object(BUCKET, KEY).size == len(content)
    with client.get_object(BUCKET, KEY) as answer:
        assert hashlib.sha256(answer.read()).digest() == hashlib.sha256(content).digest()
    assert proxied.root.sha256(KEY) == hashlib.sha256(content).hexdigest()
    client.remove_object(BUCKET, KEY)
    assert proxied.root.head(KEY) is None


def test_an_ended_lease_is_refused_and_a_fresh_one_for_the_same_object_passes(
    proxied: ProxiedStore,
) -> None:
    client = proxied.client()
    proxied.put(client)
    proxied.clock += 600
    assert refusal(lambda: proxied.put(client)) == "ExpiredToken"
    proxied.put(proxied.client(proxied.issue("DEV2")), b"again")
    assert proxied.root.read(KEY) == b"again"


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"id": "NOBODY"}, "InvalidAccessKeyId"),
        ({"secret_key": "guessed"}, "SignatureDoesNotMatch"),
        ({"session_token": "guessed"}, "InvalidToken"),
    ],
)
def test_keys_that_are_not_the_leases_are_refused_by_name(
    proxied: ProxiedStore, wrong: dict[str, str], code: str
) -> None:
    assert refusal(lambda: proxied.put(proxied.client(replace(proxied.lease, **wrong)))) == code  # type: ignore[arg-type] # every value is text


def test_a_lease_opens_nothing_but_its_own_object(proxied: ProxiedStore) -> None:
    client = proxied.client()
    assert refusal(lambda: proxied.put(client, key=KEY + "2")) == "AccessDenied"
    assert refusal(lambda: proxied.put(client, bucket="elsewhere")) == "AccessDenied"
    assert refusal(lambda: list(client.list_objects(BUCKET))) == "AccessDenied"
    assert refusal(lambda: client.remove_bucket(BUCKET)) == "AccessDenied"
    assert (
        refusal(lambda: client._list_multipart_uploads(BUCKET, prefix="robot-2")) == "AccessDenied"
    )
    target, headers = proxied.signed("PUT", x_amz_copy_source=f"/{BUCKET}/other")
    assert proxied.http.request("PUT", proxied.front.url + target, headers=headers).status == 403


def test_multiparts_under_the_leases_own_key_are_listed(proxied: ProxiedStore) -> None:
    client = proxied.client()
    upload_id = client._create_multipart_upload(BUCKET, KEY, {})
    listed = client._list_multipart_uploads(BUCKET, prefix=KEY)
    client._abort_multipart_upload(BUCKET, KEY, upload_id)
    assert [item.upload_id for item in listed.uploads] == [upload_id]


def test_a_request_without_a_signature_is_refused(proxied: ProxiedStore) -> None:
    answer = proxied.http.request("GET", f"{proxied.front.url}/{BUCKET}/{KEY}")
    assert (answer.status, answer.headers["content-type"]) == (403, "application/xml")
    assert b"<Code>AccessDenied</Code>" in answer.data


def test_a_refused_head_has_no_body(proxied: ProxiedStore) -> None:
    proxied.clock += 600
    target, headers = proxied.signed("HEAD")
    with contextlib.closing(
        socket.create_connection(("127.0.0.1", proxied.front.port), timeout=10)
    ) as raw:
        lines = [
            f"HEAD {target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        raw.sendall("\r\n".join([*lines, "connection: close", "", ""]).encode())
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"\r\n\r\n")


def test_a_clock_that_is_far_off_is_refused_with_the_stores_date(proxied: ProxiedStore) -> None:
    proxied.ledger.put(replace(proxied.lease, expires_at=proxied.clock + 7200))
    proxied.clock += 3600
    target, headers = proxied.signed("GET")
    answer = proxied.http.request("GET", proxied.front.url + target, headers=headers)
    assert answer.status == 403
    assert b"RequestTimeTooSkewed" in answer.data
    assert "date" in answer.headers


def test_a_header_added_after_signing_is_refused(proxied: ProxiedStore) -> None:
    target, headers = proxied.signed("PUT")
    answer = proxied.http.request(
        "PUT", proxied.front.url + target, body=b"x", headers=headers | {"x-amz-acl": "public-read"}
    )
    assert answer.status == 403
    assert b"x-amz-acl" in answer.data


def test_a_payload_other_than_the_signed_one_never_lands(proxied: ProxiedStore) -> None:
    client = proxied.client()
    proxied.put(client, b"what was there")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "minio.api.sha256_hash", lambda _: hashlib.sha256(b"something else").hexdigest()
        )
        assert (
            refusal(lambda: proxied.put(client, b"damaged on the way"))
            == "XAmzContentSHA256Mismatch"
        )
    assert proxied.root.read(KEY) == b"what was there"


def test_a_wrong_content_md5_reaches_the_store_which_refuses_it(proxied: ProxiedStore) -> None:
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()  # noqa: S324 - S3 defines the header so
    target, headers = proxied.signed("PUT", content_md5=wrong)
    answer = proxied.http.request("PUT", proxied.front.url + target, body=b"bytes", headers=headers)
    assert answer.status == 400
    assert b"BadDigest" in answer.data


def test_checksums_reach_a_store_that_has_them_and_come_back(
    proxied: ProxiedStore, store: servers.S3Server
) -> None:
    if store.name != "minio":
        pytest.skip("rclone has no checksums")
    right = base64.b64encode(hashlib.sha256(b"bytes").digest()).decode()
    target, headers = proxied.signed("PUT", x_amz_checksum_sha256=right)
    answer = proxied.http.request("PUT", proxied.front.url + target, body=b"bytes", headers=headers)
    assert (answer.status, answer.headers["x-amz-checksum-sha256"]) == (200, right)
    answer = proxied.http.request("PUT", proxied.front.url + target, body=b"other", headers=headers)
    assert answer.status == 400


def test_one_connection_serves_many_requests_also_after_a_refused_body(
    proxied: ProxiedStore,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxied.front.port, timeout=30)
    with contextlib.closing(connection):
        connection.connect()
        local = connection.sock.getsockname()
        target, headers = proxied.signed("PUT")
        for method, body, sent, status in [
            ("PUT", b"first", headers, 200),
            ("PUT", b"x" * MIB, headers | {"x-amz-security-token": "wrong"}, 400),
            ("PUT", b"second", headers, 200),
            ("GET", None, proxied.signed("GET")[1], 200),
        ]:
            connection.request(method, target, body=body, headers=sent)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status == status
            assert connection.sock.getsockname() == local
        assert content == b"second"


def test_a_client_that_expects_to_be_asked_for_its_body_is_asked(proxied: ProxiedStore) -> None:
    target, headers = proxied.signed("PUT")
    with contextlib.closing(
        socket.create_connection(("127.0.0.1", proxied.front.port), timeout=10)
    ) as raw:
        lines = [f"PUT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        raw.sendall(
            "\r\n".join([*lines, "content-length: 5", "expect: 100-continue", "", ""]).encode()
        )
        assert raw.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        raw.sendall(b"bytes")
        assert raw.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_chunked_request_is_refused(proxied: ProxiedStore) -> None:
    target, headers = proxied.signed("PUT")
    answer = proxied.http.request(
        "PUT", proxied.front.url + target, body=iter([b"by", b"tes"]), headers=headers, chunked=True
    )
    assert answer.status == 411


class Zeros(io.RawIOBase):
    """A stream of zero bytes that takes no memory."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        size = self.left if size < 0 else min(size, self.left)
        self.left -= size
        return bytes(min(size, 64 * 1024)) if size <= 64 * 1024 else bytes(size)


def test_64_mib_stream_through_in_both_directions_with_flat_memory(proxied: ProxiedStore) -> None:
    size = 64 * MIB
    target, headers = proxied.signed("PUT")
    sent = http.client.HTTPConnection("127.0.0.1", proxied.front.port, timeout=60)
    tracemalloc.start()
    try:
        with contextlib.closing(sent):
            sent.request(
                "PUT", target, body=Zeros(size), headers=headers | {"content-length": str(size)}
            )
            assert sent.getresponse().status == 200
            target, headers = proxied.signed("GET")
            answer = proxied.http.request(
                "GET", proxied.front.url + target, headers=headers, preload_content=False
            )
            received = sum(len(block) for block in answer.stream(64 * 1024))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert received == size
    assert peak < 4 * MIB


def test_a_store_that_is_away_is_unavailable_until_it_is_back(proxied: ProxiedStore) -> None:
    proxied.front.store = Endpoint("http://127.0.0.1:9")
    assert refusal(lambda: proxied.put(proxied.client())) == "ServiceUnavailable"
    proxied.front.store = proxied.endpoint
    proxied.put(proxied.client())
    assert proxied.root.read(KEY) == b"bytes"


def test_stopping_cuts_connections_and_leaves_no_thread(
    proxied: ProxiedStore, store: servers.S3Server, tmp_path: Path
) -> None:
    before = set(threading.enumerate())
    other = ProxiedStore(store, tmp_path / ".." / tmp_path.name)
    other.put(other.client())
    raw = socket.create_connection(("127.0.0.1", other.front.port), timeout=10)
    with contextlib.closing(raw):
        other.put(other.client())
        other.close()
        assert raw.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", other.front.port), timeout=10)
    assert set(threading.enumerate()) <= before
    assert proxied.front.port != other.front.port


def test_stopping_does_not_wait_for_a_store_that_never_answers(
    store: servers.S3Server, tmp_path: Path
) -> None:
    proxied = ProxiedStore(store, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxied.front.store = Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}")
        failures: list[Exception] = []

        def put() -> None:
            try:
                proxied.put(proxied.client())
            except Exception as error:  # noqa: BLE001 - the error is checked below
                failures.append(error)

        sender = threading.Thread(target=put)
        sender.start()
        waiting, _ = silent.accept()
        with waiting:
            proxied.close()
            # Without the stop the silent store would keep the request for two minutes.
            sender.join(timeout=30)
            assert not sender.is_alive()
    assert len(failures) == 1


def test_a_paced_link_is_shared_by_all_connections(store: servers.S3Server, tmp_path: Path) -> None:
    rate = 4_000_000
    with contextlib.closing(ProxiedStore(store, tmp_path, bandwidth=rate)) as proxied:
        begun = time.monotonic()
        senders = [
            threading.Thread(target=proxied.put, args=(proxied.client(), b"x" * 1_000_000)),
            threading.Thread(target=proxied.put, args=(proxied.client(), b"y" * 1_000_000)),
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        assert time.monotonic() - begun > 0.4
        assert proxied.root.head(KEY) is not None


def test_a_cut_link_lets_everybody_go() -> None:
    pace = ByteRate(1)
    pace.cut()
    # Without the cut this call would take thirty years.
    pace.take(10**9)


def test_a_lease_ends_at_its_second_and_not_before(tmp_path: Path) -> None:
    clock = SimpleNamespace(now=float(int(time.time())))
    ledger = Ledger(tmp_path / "platform.json", lambda: clock.now)
    lease = IssuedLease("DEV1", "secret", "token", BUCKET, "key", clock.now + 1)
    ledger.put(lease)
    request = sigv4.Request("GET", f"/{BUCKET}/key", "", {"x-amz-security-token": "token"})
    signed = replace(
        request, headers=sigv4.sign(request, Endpoint("http://store", "DEV1", "secret"))
    )
    admission = Admission(ledger, lambda: clock.now)
    clock.now += 0.999
    assert admission.admit(signed) == lease
    clock.now += 0.001
    with pytest.raises(NotAdmittedError) as caught:
        admission.admit(signed)
    assert caught.value.code == "ExpiredToken"


def test_what_the_platform_remembers_survives_a_line_that_was_torn(tmp_path: Path) -> None:
    path = tmp_path / "platform.json"
    first, second = (Device(name, "key", {"site": "here"}) for name in ("one", "two"))
    Ledger(path, time.time).put(first, second, replace(first, refused="KEY_DISABLED"))
    path.write_bytes(path.read_bytes() + b'{"kind": "Device", "id": "thr')
    again = Ledger(path, time.time)
    again.put(replace(second, refused="KEY_EXPIRED"))
    assert [device.refused for device in Ledger(path, time.time).all(Device)] == [
        "KEY_DISABLED",
        "KEY_EXPIRED",
    ]
