"""The bucket behind the embedded cloud, with the keys that may do everything: how its owners look at it."""

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
    """The store does not answer, or not with sense."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What HEAD says of an object; ``etag`` exactly as the header has it."""

    size: int
    etag: str


class DevBucket:
    """One bucket of one store."""

    def __init__(self, endpoint: Endpoint, name: str) -> None:
        """Look at bucket ``name``; nothing is asked yet."""
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
        """Make the bucket if it is not there."""
        if not self._client.bucket_exists(self.name):
            self._client.make_bucket(self.name)

    def head(self, key: str) -> Stored | None:
        """What lies under ``key``; None when nothing does.

        Raises:
            StoreAwayError: the store did not say.
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
        """The keys of all objects."""
        return sorted(
            str(item.object_name) for item in self._client.list_objects(self.name, recursive=True)
        )

    def read(self, key: str) -> bytes:
        """The bytes of an object, all in memory."""
        with self._client.get_object(self.name, key) as answer:
            return bytes(answer.read())

    def sha256(self, key: str) -> str:
        """SHA-256 of an object's bytes in lower-case hex, read block by block."""
        digest = hashlib.sha256()
        with self._client.get_object(self.name, key) as answer:
            for block in answer.stream(256 * 1024):
                digest.update(block)
        return digest.hexdigest()

    def close(self) -> None:
        """Let go of connections."""
        self._http.clear()
