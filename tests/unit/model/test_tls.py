"""The agent never speaks TLS below 1.2, even where OpenSSL's configuration allows it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from agent.adapters.clock import RealClock
from agent.adapters.gateway import GrpcGateway
from agent.adapters.store import MinioStore
from agent.adapters.store.keys import ProviderKeys
from agent.devcloud.bucket import DevBucket, StoreAwayError
from agent.devcloud.certificates import certificates
from agent.devcloud.servers import Endpoint
from agent.model.errors import CloudError
from agent.model.tls import client_context, unverified_client_context
from agent.model.values import AccessToken, DeviceProfile
from tests.harness import s3_servers as servers
from tests.harness.scripted_http_server import Oracle, target_at

pytestmark = [
    pytest.mark.skipif(not ssl.HAS_TLSv1_1, reason="this OpenSSL has no TLS 1.1"),
    # Python warns of the old TLS version, which these tests request on purpose.
    pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def _an_openssl_that_allows_old_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each new context allow TLS 1.1.

    Debian's Python does so where OpenSSL's configuration allows that version.
    """
    create = ssl.SSLContext.__new__

    def lenient(kind: type[ssl.SSLContext], *arguments: Any) -> ssl.SSLContext:
        context: ssl.SSLContext = create(kind, *arguments)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        # TLS 1.1 needs digests that OpenSSL 3 allows only at this security level.
        context.set_ciphers("ALL:@SECLEVEL=0")
        return context

    monkeypatch.setattr(ssl.SSLContext, "__new__", staticmethod(lenient))


@pytest.fixture
def made(tmp_path: Path) -> servers.Certificate:
    return servers.certificate(tmp_path / "certs")


@pytest.fixture
def old(made: servers.Certificate) -> Iterator[Oracle]:
    """A server that speaks TLS 1.1 and nothing newer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made.cert_file, made.key_file)
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    oracle = Oracle(context)
    yield oracle
    oracle.stop()


def shake_hands(oracle: Oracle, context: ssl.SSLContext) -> str | None:
    """Return the TLS version that a client with ``context`` and the server agree on.

    Raises SSLError when they agree on none.
    """
    place = urlsplit(oracle.endpoint)
    with (
        socket.create_connection((place.hostname, place.port or 443), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=place.hostname) as secure,
    ):
        return secure.version()


def test_who_allows_tls_1_1_reaches_this_server(old: Oracle, made: servers.Certificate) -> None:
    assert shake_hands(old, ssl.create_default_context(cafile=made.ca_file)) == "TLSv1.1"


def test_the_store_is_not_spoken_to_below_tls_1_2(old: Oracle, made: servers.Certificate) -> None:
    store = MinioStore(clock=RealClock(), ca_file=str(made.ca_file))
    with closing(store), pytest.raises(CloudError) as raised:
        target_at(store, old.endpoint).begin()
    assert raised.value.code == "tls"
    assert old.seen == []


def test_the_token_service_is_not_spoken_to_below_tls_1_2(
    old: Oracle, made: servers.Certificate, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("secret")
    token.chmod(0o600)
    keys = ProviderKeys(
        "web-identity",
        clock=RealClock(),
        hide=lambda *_secrets, **_how: None,
        endpoint=old.endpoint,
        web_identity_token_file=token,
        ca_file=str(made.ca_file),
    )
    with pytest.raises(CloudError) as raised:
        keys.lease()
    assert raised.value.code == "tls"
    assert old.seen == []


def test_the_gateway_is_not_spoken_to_below_tls_1_2(old: Oracle, made: servers.Certificate) -> None:
    profile = DeviceProfile("robot", "key", {}, "", old.endpoint)
    gateway = GrpcGateway(timeout_seconds=10, ca_file=str(made.ca_file))
    with closing(gateway), pytest.raises(CloudError) as raised:
        gateway.recover(profile, AccessToken("token", 0.0), "logical")
    assert raised.value.code == "tls"


def test_the_embedded_cloud_does_not_speak_to_its_store_below_tls_1_2(
    old: Oracle, monkeypatch: pytest.MonkeyPatch, made: servers.Certificate
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(made.ca_file))
    with pytest.raises(StoreAwayError):
        DevBucket(Endpoint(old.endpoint), "bucket").head("key")
    assert old.seen == []


@pytest.mark.parametrize("verified", [True, False])
def test_no_client_context_shakes_hands_below_tls_1_2(
    old: Oracle, made: servers.Certificate, *, verified: bool
) -> None:
    context = client_context(str(made.ca_file)) if verified else unverified_client_context()
    with pytest.raises(ssl.SSLError):
        shake_hands(old, context)


def test_the_embedded_cloud_serves_nobody_below_tls_1_2(tmp_path: Path) -> None:
    made = certificates(tmp_path, "127.0.0.1")
    oracle = Oracle(made.context())
    client = ssl.create_default_context(cafile=made.ca_file)
    try:
        assert shake_hands(oracle, client) == "TLSv1.3"
        client.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError):
            shake_hands(oracle, client)
    finally:
        oracle.stop()


def test_what_demands_more_than_tls_1_2_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    create = ssl.create_default_context

    def strict(**options: Any) -> ssl.SSLContext:
        context = create(**options)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    assert client_context().minimum_version == ssl.TLSVersion.TLSv1_3
