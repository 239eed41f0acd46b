"""A robot in bucket mode, built on fakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.cloud.bucket import BucketGateway
from agent.model.sync_log import SyncLog
from tests.harness.fakes.store import FakeStore
from tests.harness.robot import Robot

NAME = "recordings"


class BucketRobot(Robot):
    """A robot that uploads to a bucket without a platform."""

    # The settings allow no parts as small as the tests' recordings need.
    part_size = 1024

    def __init__(
        self, folder: Path, *, store: FakeStore | None = None, **changes: Mapping[str, Any]
    ) -> None:
        bucket = {"endpoint": "memory", "name": NAME, **changes.pop("bucket", {})}
        super().__init__(folder, store=store, cloud={"mode": "bucket"}, bucket=bucket, **changes)

    def restart(self, **changes: Mapping[str, Any]) -> None:
        super().restart(**changes)
        gateway = self.app.engine.connection.backend.gateway
        assert isinstance(gateway, BucketGateway)
        gateway._part_size = self.part_size
        self.bucket = gateway

    def resync(self) -> SyncLog:
        """Request that the newest recording is uploaded again, and return its new document."""
        newest = next(self.history.newest_first())
        return self.history.add(
            replace(
                SyncLog(
                    0,
                    newest.episode_id,
                    newest.path,
                    newest.file_size,
                    newest.mtime,
                    newest.fingerprint,
                ),
                device_id="robot",
                resync=True,
            )
        )

    def manifest(self, log: SyncLog) -> Any:
        return json.loads(
            self.store.content(log.require_session().bucket, log.object_key + ".manifest.json")
        )
