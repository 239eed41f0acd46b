"""Creates a certificate authority in a folder, and a certificate that it issues for one host.

The embedded cloud speaks TLS with this certificate when it is asked to.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from agent.devcloud.ledger import write_private
from agent.devcloud.servers import LOOPBACK
from agent.model.tls import server_context


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files of a server that speaks TLS.

    Clients trust ``ca_file``. ``server_file`` has the server's private key and certificate chain.
    """

    ca_file: Path
    server_file: Path

    def context(self) -> ssl.SSLContext:
        """Return a TLS context for a server."""
        return server_context(self.server_file)


def certificates(folder: Path, host: str) -> Certificates:
    """Return the certificates for ``host`` in ``folder``. Create them when they are missing.

    Existing certificates are kept, because clients already trust them.
    """
    suffix = "" if host == LOOPBACK else f"-{host}"
    made = Certificates(folder / f"ca{suffix}.pem", folder / f"server{suffix}.pem")
    if made.ca_file.exists() and made.server_file.exists():
        return made
    import trustme  # noqa: PLC0415 - a cloud without TLS does not need it

    authority = trustme.CA()
    issued = authority.issue_cert(host, "localhost")
    write_private(made.server_file, issued.private_key_and_cert_chain_pem.bytes().decode())
    made.ca_file.write_bytes(authority.cert_pem.bytes())
    return made
