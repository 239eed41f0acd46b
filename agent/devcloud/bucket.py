"""Reads the bucket behind the embedded cloud with the root keys.

The platform and the tests use this module to see what devices have stored.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from urllib.parse import quote

import urllib3
from minio import Minio

from agent.devcloud import sigv4
from agent.devcloud.servers import REGION, Endpoint
from agent.model.tls import client_context


class StoreAwayError(Exception):
    """The store does not answer, or its answer cannot be used."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What a HEAD request returns for an object.

    ``size`` is in bytes. ``etag`` is the header's text as it stands, with its quotes.
    """

    size: int
    etag: str


class DevBucket:
    """One bucket of one store, read with the root keys.

    Safe for several threads: the connection pool below is.
    """

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        """Prepare access to the bucket ``name``. No request is sent before the first call."""
        self.name = name
        self._endpoint = endpoint
        self._http = urllib3.PoolManager(
            retries=False,
            timeout=urllib3.Timeout(connect=10, read=300),
            ssl_context=client_context() if endpoint.secure else None,
        )
        self._client = Minio(
            endpoint.netloc,
            access_key=endpoint.access_key,
            secret_key=endpoint.secret_key,
            secure=endpoint.secure,
            region=REGION,
            http_client=self._http,
        )

    def ensure(self) -> None:
        """Create the bucket if it does not exist."""
        if not self._client.bucket_exists(self.name):
            self._client.make_bucket(self.name)

    def head(self, key: str) -> Stored | None:
        """Return size and ETag of the object ``key``, or None when there is no such object.

        Raises:
            StoreAwayError: The store does not answer, or with an unexpected status.
        """
        path = quote(f"/{self.name}/{key}", safe="/-_.~")
        headers = sigv4.sign(sigv4.Request("HEAD", path, "", {}), self._endpoint)
        try:
            answer = self._http.request("HEAD", self._endpoint.url + path, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise StoreAwayError(f"the store does not answer: {type(error).__name__}") from error
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise StoreAwayError(f"the store answers HTTP {answer.status}")
        return Stored(int(answer.headers["content-length"]), answer.headers.get("etag", ""))

    def keys(self) -> list[str]:
        """Return the keys of all objects, sorted."""
        return sorted(
            str(item.object_name) for item in self._client.list_objects(self.name, recursive=True)
        )

    def read(self, key: str) -> bytes:
        """Return the bytes of an object. The whole object is held in memory."""
        with self._client.get_object(self.name, key) as answer:
            return bytes(answer.read())

    def sha256(self, key: str) -> str:
        """Return an object's SHA-256 in lower-case hex. The object is read block by block."""
        digest = hashlib.sha256()
        with self._client.get_object(self.name, key) as answer:
            for block in answer.stream(256 * 1024):
                digest.update(block)
        return digest.hexdigest()

    def close(self) -> None:
        """Close all connections."""
        self._http.clear()
