"""MinIO's client → multipart uploads that the store itself proves; any S3-compatible store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal
from urllib.parse import SplitResult, urlsplit

import urllib3

from agent.adapters.store import minio_import as lean  # noqa: F401 - before anything else imports minio
from agent.adapters.store.cancel_scope import CancelScope
from agent.adapters.store.client import LeaseProvider, S3Client, StoreTime, connections_of
from agent.adapters.store.multipart import MinioTarget
from agent.adapters.store.regions import StoreHost, store_host
from agent.model.errors import CloudError
from agent.model.ports import Clock
from agent.model.unforeseen import foreign
from agent.model.values import CredentialLease, UploadSession


class MinioStore:
    """Implements ``ports.ObjectStore``; connections are shared by all its targets."""

    def __init__(
        self,
        *,
        clock: Clock,
        ca_file: str = "",
        proxy: str = "",
        addressing: Literal["auto", "path", "virtual"] = "auto",
        storage_class: str = "",
        sse: str = "",
        kms_key_id: str = "",
        connect_timeout: float = 10,
        read_timeout: float = 120,
        patience: float = 60,
        connections: int = 16,
    ) -> None:
        """Open nothing yet.

        Args:
            clock: Tells the time that requests are signed with, until a store says over TLS that it is wrong.
            ca_file: Trusted instead of the system's authorities.
            proxy: ``http://[USER:PASSWORD@]HOST:PORT`` of an HTTP proxy; the environment is not asked.
            addressing: "auto": virtual-host style for Alibaba OSS and AWS, path style elsewhere.
            storage_class: Of the recordings, "" for the bucket's own.
            sse: Server-side encryption of all objects ("AES256", "aws:kms"), "" for the bucket's own.
            kms_key_id: The key for that, "" for the store's own.
            connect_timeout: Seconds.
            read_timeout: Seconds without a byte of the answer.
            patience: Seconds without any progress on the way out, however slow.
            connections: Kept open per host.

        Raises:
            OSError: ``ca_file`` can't be read.
        """
        self._addressing = addressing
        self._storage_class = storage_class
        headers = {
            "x-amz-server-side-encryption": sse,
            "x-amz-server-side-encryption-aws-kms-key-id": kms_key_id,
        }
        self._encryption = {name: text for name, text in headers.items() if text}
        self._time = StoreTime(clock)
        timeout = urllib3.Timeout(connect=connect_timeout, read=read_timeout)
        self._pool = connections_of(
            self._time, ca_file, proxy, timeout=timeout, maxsize=connections
        )
        self.endpoint = ""  # of the last session; "" before the first
        self._pool.patience = patience
        self._clock = clock
        self._patience = patience

    @property
    def offset(self) -> float | None:
        """Seconds by which a store's clock is ahead of this robot's; None until one has answered over TLS."""
        return self._time.offset

    @foreign("Connect")
    def at(self, session: UploadSession, lease: Callable[[], CredentialLease]) -> MinioTarget:
        """The place of one recording; no request is made. Raises CloudError for an impossible endpoint."""
        keys = LeaseProvider(lease)
        self.endpoint = session.endpoint
        try:
            url = _address(session.endpoint)
            known = store_host(url.hostname or "")
            client = S3Client(
                self._time,
                url.netloc,
                secure=url.scheme != "http",
                region=session.region or known.region,
                virtual_hosted=self._virtual_hosted(known),
                http_client=self._pool,
                credentials=keys,
            )
        except ValueError:
            raise CloudError(
                "Connect", "lying_server", "the session's endpoint is no address of a store"
            ) from None
        # A bucket in the endpoint and again in front of it, or in the path, would be another bucket or
        # another key.
        if known.bucket:
            raise CloudError(
                "Connect",
                "IncorrectEndpoint",
                f"{url.hostname} begins with the bucket {known.bucket}: an endpoint has no bucket's name in it",
            )
        return MinioTarget(
            client,
            keys,
            session,
            CancelScope(self._patience, self._clock.monotonic),
            algorithm="CRC32" if url.scheme != "http" else "SHA256",
            encryption=self._encryption,
            storage_class=self._storage_class,
        )

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def _virtual_hosted(self, known: StoreHost) -> bool:
        """Return whether requests name the bucket in the host, as the operator or the store wants it."""
        if self._addressing == "auto":
            return known.virtual_hosted
        return self._addressing == "virtual"


def _address(endpoint: str) -> SplitResult:
    """The parts of an endpoint, which is https without a scheme; raises ValueError where there is no host."""
    url = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if not url.hostname:
        raise ValueError(endpoint)
    return url
