"""Lets every host name lead to one server of the test."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from agent.devcloud import sigv4
from tests.harness.scripted_http_server import Oracle, ReceivedRequest


@dataclass(frozen=True)
class Redirected:
    """The server to which every host name leads.

    Attributes:
        oracle: The server. It speaks TLS.
        ca_file: The certificate authority that issued its certificate.
        resolved: The host names that were looked up, in order.
    """

    oracle: Oracle
    ca_file: Path
    resolved: list[str]


@contextmanager
def every_name_leads_to_one_server(
    certified: str, folder: Path, patch: pytest.MonkeyPatch
) -> Iterator[Redirected]:
    """Run a TLS server during the block, and let each host name and port lead to it.

    Args:
        certified: The only host name that the server's certificate is for.
        folder: Where the authority's certificate is written.
        patch: Replaces the resolver until the test ends.
    """
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(certified).configure_cert(context)
    ca_file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    oracle = Oracle(context)
    port = int(oracle.endpoint.rpartition(":")[2])
    resolved: list[str] = []

    def resolve(host: str, *_: Any, **__: Any) -> list[Any]:
        resolved.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    patch.setattr(socket, "getaddrinfo", resolve)
    try:
        yield Redirected(oracle, ca_file, resolved)
    finally:
        oracle.stop()


def signed_region(request: ReceivedRequest, secret_key: str) -> str:
    """Return the region that a recorded request is signed for, after its signature was checked."""
    claim = sigv4.read(request.headers["authorization"])
    assert claim is not None
    path, _, query = request.path.partition("?")
    signed = sigv4.Request(request.method, path, query, request.headers)
    proof = sigv4.signature(signed, claim.signed_headers, claim.scope, secret_key)
    assert "host" in claim.signed_headers
    assert proof == claim.signature
    return claim.scope.split("/")[1]
