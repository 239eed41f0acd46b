"""A certificate authority of one folder, and a certificate for one host by it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from agent.devcloud.ledger import write_private
from agent.devcloud.servers import LOOPBACK
from agent.model.tls import server_context


@dataclass(frozen=True, slots=True)
class Certificates:
    """``ca_file`` is for clients to trust; ``server_file`` has key and chain, for servers."""

    ca_file: Path
    server_file: Path

    def context(self) -> ssl.SSLContext:
        """A context for a server."""
        return server_context(self.server_file)


def certificates(folder: Path, host: str) -> Certificates:
    """The certificates in ``folder``; made when they are missing, kept so that clients go on trusting them."""
    suffix = "" if host == LOOPBACK else f"-{host}"
    made = Certificates(folder / f"ca{suffix}.pem", folder / f"server{suffix}.pem")
    if made.ca_file.exists() and made.server_file.exists():
        return made
    import trustme  # noqa: PLC0415 - only the few who want TLS pay for it

    authority = trustme.CA()
    issued = authority.issue_cert(host, "localhost")
    write_private(made.server_file, issued.private_key_and_cert_chain_pem.bytes().decode())
    made.ca_file.write_bytes(authority.cert_pem.bytes())
    return made
