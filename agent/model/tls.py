"""TLS contexts: the one place that makes them, so that TLS 1.2 is the least everywhere."""

from __future__ import annotations

import ssl
from pathlib import Path


def client_context(ca_file: str = "") -> ssl.SSLContext:
    """Return a context that verifies a server's certificate and its name.

    ``ca_file`` is the path of the certificates that are trusted instead of the system's; ""
    means the system's. Raises OSError if the file cannot be read.
    """
    return _without_old_versions(ssl.create_default_context(cafile=ca_file or None))


def unverified_client_context() -> ssl.SSLContext:
    """Return a context that trusts every server, only to ask whether a server answers at all."""
    context = _without_old_versions(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_context(certificate: Path) -> ssl.SSLContext:
    """Return a context for a server whose key and chain are in the file ``certificate``.

    Raises OSError if the file cannot be read.
    """
    context = _without_old_versions(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.load_cert_chain(certificate)
    return context


def _without_old_versions(context: ssl.SSLContext) -> ssl.SSLContext:
    """Raise the least version of ``context`` to TLS 1.2 and return the context.

    RFC 8996 forbids TLS 1.0 and 1.1. Debian builds its Python so that OpenSSL's configuration
    alone decides about versions, and that may allow them. If the configuration already demands
    more than TLS 1.2, that stays.
    """
    # "The oldest version that this OpenSSL has" is a negative number, so never the larger one.
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    return context
