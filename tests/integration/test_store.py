"""MinioStore against real servers, and FakeStore, held to the same contract."""

from __future__ import annotations

import inspect
import os
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import urllib3
from minio import Minio
from minio.credentials.credentials import Credentials
from minio.credentials.providers import AssumeRoleProvider, StaticProvider
from minio.helpers import BaseURL
from minio.minioadmin import MinioAdmin

from agent.adapters.clock import RealClock
from agent.adapters.store import MinioStore
from agent.adapters.store import multipart as multipart_module
from agent.adapters.store.client import ConfiguredURL
from agent.model.errors import CloudError, judge
from agent.model.transfer import Part, Transfer, parts_of
from agent.model.values import CredentialLease
from tests.contracts.store import Place, StoreContract
from tests.harness import s3_servers as servers
from tests.harness.fakes.store import FakeStore
from tests.harness.scripted_http_server import LEASE, opened

REAL = [(name, tls) for name in ("moto", "rclone", "minio", "versitygw") for tls in (False, True)]


@pytest.fixture(
    scope="module", params=REAL, ids=lambda case: f"{case[0]}-{'https' if case[1] else 'http'}"
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[servers.S3Server]:
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
    """Return session keys of a user of that server."""
    address = server.endpoint.partition("://")[2]
    pool = urllib3.PoolManager(ca_certs=str(server.ca_file)) if server.ca_file else None
    root = StaticProvider(server.access_key, server.secret_key)
    admin = MinioAdmin(endpoint=address, credentials=root, secure=bool(pool), http_client=pool)
    admin.user_add("robot", "robot-secret")
    admin.policy_set("readwrite", user="robot")
    role = AssumeRoleProvider(
        sts_endpoint=server.endpoint,
        access_key="robot",
        secret_key="robot-secret",  # noqa: S106 - a test's key
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


# These tests check that the library is still built as the agent expects.


def test_the_private_methods_of_the_library_are_still_these() -> None:
    assert list(inspect.signature(Minio._execute).parameters) == [
        "self",
        "method",
        "bucket_name",
        "object_name",
        "body",
        "headers",
        "query_params",
        "preload_content",
        "no_body_trace",
    ]
    assert list(inspect.signature(Minio._build_headers).parameters) == [
        "self",
        "host",
        "headers",
        "body",
        "creds",
    ]
    assert {"_user_agent", "_base_url"} <= vars(Minio("localhost", region="r")).keys()


def test_the_address_of_the_library_consists_of_what_the_agents_own_sets() -> None:
    ours = vars(
        ConfiguredURL("https://s3.eu-west-1.amazonaws.com", "eu-west-1", virtual_hosted=True)
    )
    assert ours.keys() == vars(BaseURL("https://s3.eu-west-1.amazonaws.com", "eu-west-1")).keys()
    unknown = vars(BaseURL("https://s3.example.org:443", "eu-west-1"))
    assert unknown == vars(
        ConfiguredURL("https://s3.example.org:443", "eu-west-1", virtual_hosted=False)
    )


# These tests use real servers for more than the contract covers.


def test_parts_are_listed_to_the_last_page(
    real_place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart_module, "_PAGE_ENTRIES", "2")
    target = real_place.target("many/parts.mcap")
    with opened(tmp_path, b"x" * 500) as file:
        multipart = target.begin()
        for part in parts_of(500, 100):
            target.send(multipart, part, file, Transfer(500))
    assert [part.number for part in target.parts(multipart)] == [1, 2, 3, 4, 5]


def test_multiparts_are_listed_to_the_last_page(
    server: servers.S3Server, real_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    if server.name == "versitygw":
        pytest.skip("VersityGW refuses the marker that it gave")
    monkeypatch.setattr(multipart_module, "_PAGE_ENTRIES", "2")
    target = real_place.target("many/multiparts.mcap")
    begun = {target.begin() for _ in range(5)}
    real_place.target("many/multiparts.mcap.json").begin()
    assert set(target.multiparts()) == begun


def test_keys_that_are_wrong_cost_a_fresh_lease_or_are_blocked(
    server: servers.S3Server, real_place: Place
) -> None:
    if server.name == "moto":
        pytest.skip("moto takes any keys")
    wrong = replace(LEASE, access_key_id="somebody-else", secret_access_key="no-such-secret")  # noqa: S106 - a test's key
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
    lease = CredentialLease(
        granted.access_key, granted.secret_key, granted.session_token or "", 0.0
    )
    assert real_place.target("by/role", lambda: lease).begin()
    ended = replace(lease, session_token="ended")  # noqa: S106 - a test's token
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
    with opened(tmp_path, content) as file, ThreadPoolExecutor(4) as pool:
        multipart = target.begin()
        sent = list(
            pool.map(
                lambda part: target.send(multipart, part, file, transfer), parts_of(size, part_size)
            )
        )
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
            target.send(
                multipart, Part(1, 0, size * mebibyte), descriptor, Transfer(size * mebibyte)
            )
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            target.abort(multipart)
    finally:
        os.close(descriptor)
    assert abs(peaks[2] - peaks[1]) < mebibyte
