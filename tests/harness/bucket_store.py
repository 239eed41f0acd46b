"""A real S3 server with a bucket, for an agent in bucket mode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from tests.harness import s3_servers as servers

BUCKET = "robots"


USER = ("robot", "robot-secret-key")


@dataclass
class Store:
    """A real server with a bucket, and the configuration of an agent that uses it directly."""

    server: servers.S3Server
    config_path: Path

    @property
    def library(self) -> Minio:
        """A client for the bucket that is independent of the agent."""
        address = self.server.endpoint.partition("://")[2]
        return Minio(
            address,
            self.server.access_key,
            self.server.secret_key,
            secure=False,
            region="us-east-1",
        )

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        answer = self.library.get_object(BUCKET, key)
        try:
            return bytes(answer.read())
        finally:
            answer.close()
            answer.release_conn()

    def keys(self) -> set[str]:
        """Return the keys of all objects in the bucket."""
        return {str(item.object_name) for item in self.library.list_objects(BUCKET, recursive=True)}

    def multiparts(self) -> list[Any]:
        """Return the unfinished multipart uploads of the robot."""
        return list(self.library._list_multipart_uploads(BUCKET, prefix="robot-7/").uploads)

    def settings(self, endpoint: str = "", **more: str) -> dict[str, str]:
        """Return the environment settings for the agent, without their prefix."""
        return {
            "CLOUD__MODE": "bucket",
            "AGENT__DEVICE_ID": "robot-7",
            "BUCKET__ENDPOINT": endpoint or self.server.endpoint,
            "BUCKET__NAME": BUCKET,
            "UPLOAD__PART_SIZE_MIB": "5",
            **more,
        }


@pytest.fixture(params=["minio", "moto"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Store]:
    if request.param not in servers.available():
        pytest.skip(f"{request.param} is not on PATH")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET_KEY)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    config = tmp_path / "agent.toml"
    config.touch()
    with servers.start(request.param, tmp_path / "server") as server:
        store = Store(server, config)
        store.library.make_bucket(BUCKET)
        yield store
