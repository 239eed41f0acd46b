"""MinioStore with stores of every behaviour.

Only proven bytes count as stored, and the time of the store is learned.
"""

from __future__ import annotations

import email.utils
import hashlib
import os
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.adapters.clock import RealClock
from agent.adapters.store import MinioStore
from agent.model.digests import b64, hasher, md5, quoted
from agent.model.errors import CloudError
from agent.model.transfer import Part, Transfer
from tests.contracts.store import Meddler
from tests.harness import s3_servers as servers
from tests.harness.fakes.clock import FakeClock
from tests.harness.scripted_http_server import (
    XML,
    Oracle,
    ReceivedRequest,
    ScriptedAnswer,
    opened,
    target_at,
    xml,
)


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


# The tests below cover the proof of a part.


class StoreBehaviour:
    """A store that takes parts.

    Options say whether it echoes checksums, checks MD5, and uses digests as ETags; ``damage`` parts
    are damaged when they arrive.
    """

    def __init__(
        self, *, echoes: bool = False, checks_md5: bool = False, etags: str = "digests"
    ) -> None:
        self.echoes, self.checks_md5, self.etags = echoes, checks_md5, etags
        self.damage = 0
        self.taken: list[ReceivedRequest] = []

    def __call__(self, request: ReceivedRequest) -> ScriptedAnswer:
        body = request.body
        if self.damage and len(body) > 1:
            self.damage -= 1
            body = bytes([body[0] ^ 1]) + body[1:]
        checksum = b64(hashlib.sha256(body).digest())
        if self.echoes and request.headers.get("x-amz-checksum-sha256", checksum) != checksum:
            return ScriptedAnswer(400, XML, xml("XAmzContentChecksumMismatch"))
        if self.checks_md5 and request.headers.get("content-md5", b64(md5(body))) != b64(md5(body)):
            return ScriptedAnswer(400, XML, xml("BadDigest"))
        self.taken.append(replace(request, body=body))
        etag = {"digests": md5(body), "opaque": md5(b"k" + body)}.get(self.etags, b"x").hex()
        return ScriptedAnswer(
            200,
            {"etag": quoted(etag)} | ({"x-amz-checksum-sha256": checksum} if self.echoes else {}),
        )


BEHAVIOURS = [
    StoreBehaviour(echoes=True, etags="opaque"),
    StoreBehaviour(echoes=True, checks_md5=True),
    StoreBehaviour(checks_md5=True),
    StoreBehaviour(),
    StoreBehaviour(checks_md5=True, etags="opaque"),
    StoreBehaviour(checks_md5=True, etags="odd"),
]


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_a_part_is_proven_by_whatever_the_store_offers(
    oracle: Oracle, store: MinioStore, tmp_path: Path, behaviour: StoreBehaviour
) -> None:
    behaviour.taken, oracle.say = [], behaviour
    target = target_at(store, oracle.endpoint)
    with opened(tmp_path, b"0123456789") as file:
        for number in (1, 2, 3):
            transfer = Transfer(10)
            target.send("m", Part(number, 0, 10), file, transfer)
            assert transfer.sent == 10
    assert [request.body for request in behaviour.taken[-3:]] == [b"0123456789"] * 3
    assert ("content-md5" in behaviour.taken[-1].headers) is not behaviour.echoes


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_damage_on_the_way_that_does_not_end_is_noticed_at_every_store(
    oracle: Oracle, store: MinioStore, tmp_path: Path, behaviour: StoreBehaviour
) -> None:
    oracle.say, behaviour.damage = behaviour, 99
    transfer = Transfer(10)
    try:
        with opened(tmp_path, b"0123456789") as file, pytest.raises(CloudError) as raised:
            target_at(store, oracle.endpoint).send("m", Part(1, 0, 10), file, transfer)
    finally:
        behaviour.damage = 0
    assert raised.value.code == "checksum"
    assert transfer.sent == 0


def test_a_store_that_proves_nothing_takes_no_part(
    oracle: Oracle, store: MinioStore, tmp_path: Path
) -> None:
    oracle.say = StoreBehaviour(etags="opaque")
    with opened(tmp_path, b"0123456789") as file, pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).send("m", Part(1, 0, 10), file, Transfer(10))
    assert raised.value.code == "checksum"


def test_an_echo_of_another_checksum_is_noticed(
    oracle: Oracle, store: MinioStore, tmp_path: Path
) -> None:
    oracle.say = lambda _request: ScriptedAnswer(
        200, {"etag": '"e"', "x-amz-checksum-sha256": "AAAA"}
    )
    with opened(tmp_path, b"0123456789") as file, pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).send("m", Part(1, 0, 10), file, Transfer(10))
    assert raised.value.code == "checksum"


def test_over_http_the_digest_that_signs_is_the_checksum_too(
    oracle: Oracle, store: MinioStore, tmp_path: Path
) -> None:
    oracle.say = StoreBehaviour(echoes=True)
    with opened(tmp_path, b"0123456789") as file:
        target_at(store, oracle.endpoint).send("m", Part(1, 2, 5), file, Transfer(5))
    headers = oracle.seen[0].headers
    digest = hashlib.sha256(b"23456")
    assert headers["x-amz-content-sha256"] == digest.hexdigest()
    assert headers["x-amz-checksum-sha256"] == b64(digest.digest())
    assert "content-md5" not in headers


def test_over_https_crc32_is_the_checksum_and_the_payload_unsigned(
    secure: tuple[Oracle, str], tmp_path: Path
) -> None:
    oracle, ca_file = secure
    crc = hasher("CRC32")
    crc.update(b"23456")
    oracle.say = lambda _request: ScriptedAnswer(
        200, {"etag": '"e"', "x-amz-checksum-crc32": b64(crc.digest())}
    )
    store = MinioStore(clock=RealClock(), ca_file=ca_file)
    with opened(tmp_path, b"0123456789") as file:
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
    oracle.say = StoreBehaviour()
    with opened(tmp_path, b"0123456789") as file:
        change = Meddler(10, lambda _: _write(file, b"9876543210"))
        with pytest.raises(CloudError) as raised:
            target_at(store, oracle.endpoint).send("m", Part(1, 0, 10), file, change)
    assert raised.value.code == "checksum"


# The tests below cover the time of the store.


def _dated(seconds: float) -> dict[str, str]:
    return {"date": email.utils.formatdate(seconds, usegmt=True)}


def _signed_at(request: ReceivedRequest) -> str:
    return request.headers["x-amz-date"]


def test_over_tls_a_wrong_clock_is_set_right_by_the_stores_answer(
    secure: tuple[Oracle, str],
) -> None:
    oracle, ca_file = secure
    clock = FakeClock(now=1_790_000_000)
    store = MinioStore(clock=clock, ca_file=ca_file)
    true_time = clock.now() + 3600

    def say(request: ReceivedRequest) -> ScriptedAnswer:
        if _signed_at(request) == "20260921T141320Z":
            return ScriptedAnswer(403, XML | _dated(true_time), xml("RequestTimeTooSkewed"))
        return ScriptedAnswer(200, XML | _dated(true_time), b"<R><UploadId>m</UploadId></R>")

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
    oracle.say = lambda _request: ScriptedAnswer(403, XML | _dated(0), xml("RequestTimeTooSkewed"))
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).begin()
    store.close()
    assert raised.value.code == "RequestTimeTooSkewed"
    assert len(oracle.seen) == 2


@pytest.mark.parametrize(
    ("off", "code"),
    [(-200, "HTTP_403"), (400, "RequestTimeTooSkewed"), (-400, "RequestTimeTooSkewed")],
)
def test_over_http_a_bare_refusal_far_from_our_time_blames_the_clock_and_teaches_nothing(
    oracle: Oracle, off: float, code: str
) -> None:
    clock = FakeClock()
    store = MinioStore(clock=clock)
    oracle.say = lambda _request: ScriptedAnswer(403, _dated(clock.now() + off))
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
    oracle.say = lambda _request: ScriptedAnswer(
        400, XML | _dated(clock.now() + 4000), xml("ExpiredToken")
    )
    with pytest.raises(CloudError) as raised:
        target_at(store, oracle.endpoint).begin()
    store.close()
    assert raised.value.code == "ExpiredToken"


def _write(file: int, content: bytes) -> None:
    os.pwrite(file, content, 0)
