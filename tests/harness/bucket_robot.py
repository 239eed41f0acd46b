"""A robot in bucket mode, built on fakes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.cloud.bucket import BucketGateway
from agent.cloud.identity import named_asset
from agent.cloud.no_profiles import NoProfiles
from agent.model.ports import Gateway, Profiles
from agent.model.sync_log import SyncLog
from agent.model.values import DeviceProfile, Recording
from tests.harness.fakes.keys import FakeKeys
from tests.harness.robot import Robot

NAME = "recordings"


class BucketRobot(Robot):
    """A robot that uploads to a bucket without a platform."""

    template = "{device_id}/{date}/{relpath}"
    part_size = 1024
    bucket_name = NAME

    def seam(self) -> Gateway:
        self.keys = FakeKeys(self.clock)
        self.bucket = BucketGateway(
            store=self.store,
            keys=self.keys,
            history=self.history,
            clock=self.clock,
            endpoint="memory",
            name=self.bucket_name,
            region="",
            template=self.template,
            part_size=self.part_size,
            roots=[self.folder],
        )
        return self.bucket

    def known_profiles(self) -> Profiles:
        return NoProfiles()

    def _asset_id(
        self, recording: Recording, snapshot: str, profiles: Mapping[str, DeviceProfile]
    ) -> str:
        del profiles
        return named_asset(
            recording,
            robot="robot",
            known=self.assets,
            snapshot=snapshot,
            default="",
            required="asset_id" in self.template,
        )

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
