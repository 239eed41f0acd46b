"""Any S3-compatible store, by MinIO's client: multipart uploads that the store itself proves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal
from urllib.parse import SplitResult, urlsplit

import urllib3

# This import comes before any module that imports minio.
from agent.adapters.store import minio_import  # noqa: F401 - importing the module is all it is for
from agent.adapters.store.cancel_scope import CancelScope
from agent.adapters.store.client import LeaseProvider, S3Client, StoreTime, connections_of
from agent.adapters.store.multipart import MultipartTarget
from agent.adapters.store.object_requests import ObjectRequests
from agent.adapters.store.regions import StoreHost, store_host
from agent.model.errors import CloudError
from agent.model.ports import Clock
from agent.model.unforeseen import foreign
from agent.model.values import CredentialLease, UploadSession


class MinioStore:
    """Implements ``ports.ObjectStore``: the targets of all recordings, with shared connections.

    May be used from any thread.
    """

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
        """Make the store; no connection is opened.

        Args:
            clock: Tells the time that requests are signed with, until a store has told its own time
                over TLS.
            ca_file: Certificate authorities to trust instead of the system's; "" for the system's.
            proxy: ``http://[USER:PASSWORD@]HOST:PORT`` of an HTTP proxy, or "". The proxy settings
                of the environment are not used.
            addressing: How requests name the bucket. "auto" means virtual-host style for Alibaba
                OSS and AWS, and path style for all others.
            storage_class: The recordings' storage class; "" for the bucket's own.
            sse: The encryption of all objects, "AES256" or "aws:kms"; "" for the bucket's own.
            kms_key_id: The key of the encryption; "" for the store's own.
            connect_timeout: Seconds until a connection must be open.
            read_timeout: Seconds that an answer may bring no byte.
            patience: Seconds that a request may make no progress while it is sent.
            connections: How many connections are kept open to each host.

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
        self._connections = connections_of(
            self._time, ca_file, proxy, timeout=timeout, maxsize=connections
        )
        # The endpoint of the last session; "" before the first.
        self.endpoint = ""
        self._connections.stall_timeout = patience
        self._clock = clock
        self._stall_timeout = patience

    @property
    def offset(self) -> float | None:
        """Seconds by which a store's clock is ahead of this robot's; None until one is known.

        A store's clock is known once the store has answered over TLS.
        """
        return self._time.offset

    @foreign("Connect")
    def at(self, session: UploadSession, lease: Callable[[], CredentialLease]) -> MultipartTarget:
        """Return the target of one recording; no request is sent.

        Args:
            session: Names the endpoint, the bucket and the key.
            lease: Returns the lease that is valid now; called before each request.

        Raises:
            CloudError: The session's endpoint is impossible.
        """
        keys = LeaseProvider(lease)
        self.endpoint = session.endpoint
        try:
            url = _address(session.endpoint)
            host = store_host(url.hostname or "")
            client = S3Client(
                self._time,
                url.netloc,
                secure=url.scheme != "http",
                region=session.region or host.region,
                virtual_hosted=self._virtual_hosted(host),
                http_client=self._connections,
                credentials=keys,
            )
        except ValueError:
            raise CloudError(
                "Connect", "lying_server", "the session's endpoint is no address of a store"
            ) from None
        # The bucket would be named a second time in the host or in the path. That would be another
        # bucket, or another key.
        if host.bucket:
            raise CloudError(
                "Connect",
                "IncorrectEndpoint",
                f"{url.hostname} begins with the bucket {host.bucket}: "
                "an endpoint has no bucket's name in it",
            )
        cancel_scope = CancelScope(self._stall_timeout, self._clock.monotonic)
        return MultipartTarget(
            ObjectRequests(client, keys, session, cancel_scope),
            algorithm="CRC32" if url.scheme != "http" else "SHA256",
            encryption=self._encryption,
            storage_class=self._storage_class,
        )

    def close(self) -> None:
        """Close all connections."""
        self._connections.clear()

    def _virtual_hosted(self, host: StoreHost) -> bool:
        """Return whether requests name the bucket in the host name.

        The operator decides, or else the store.
        """
        if self._addressing == "auto":
            return host.virtual_hosted
        return self._addressing == "virtual"


def _address(endpoint: str) -> SplitResult:
    """Return the parts of an endpoint. An endpoint without a scheme is https.

    Raises:
        ValueError: The endpoint names no host.
    """
    url = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    if not url.hostname:
        raise ValueError(endpoint)
    return url
