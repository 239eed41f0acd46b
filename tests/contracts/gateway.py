"""The contract of ``ports.Gateway``, for the fake and for the real client of the embedded cloud."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agent.model.errors import CloudError, judge
from agent.model.ports import Gateway, ObjectStore
from agent.model.sync_log import DocumentSession, SyncLog
from agent.model.transfer import Part, Transfer
from agent.model.values import AccessToken, DeviceProfile, Grant

ASSET_TAG = "778a6d83c9ec49108537542a570966ee.device_id"
FILE_TAG = "a206e337ecdf70a93bb611cf6a30c346.raw_file"
SIZE = 1000
LOG = SyncLog(
    1, "episode-1", "/recordings/a.mcap", SIZE, "2025-06-30T12:00:00.000Z", f"{SIZE}-{'0' * 64}"
)


@dataclass
class PlatformUnderTest:
    """A gateway, the store for its leases, and what only the platform's operators can do."""

    gateway: Gateway
    store: ObjectStore
    profile: DeviceProfile
    other: DeviceProfile
    expire_tokens: Callable[[], None]
    expire_leases: Callable[[], None]

    def token(self, profile: DeviceProfile | None = None) -> AccessToken:
        """Return a new access token."""
        return self.gateway.exchange(profile or self.profile)

    def create(self, restart_from: str = "") -> Grant:
        """Open an upload session."""
        return self.gateway.create(self.profile, self.token(), LOG, restart_from)


class GatewayContract:
    """The tests. A subclass provides the fixture ``platform``."""

    @pytest.fixture
    def platform(self) -> PlatformUnderTest:
        raise NotImplementedError

    @pytest.fixture
    def recording(self, tmp_path: Path) -> Path:
        path = tmp_path / "a.mcap"
        path.write_bytes(os.urandom(SIZE))
        return path

    def test_a_key_is_traded_for_a_token_that_calls_accept(
        self, platform: PlatformUnderTest
    ) -> None:
        token = platform.token()
        assert platform.gateway.create(platform.profile, token, LOG).session.upload_id

    def test_spaces_around_a_key_do_not_matter(self, platform: PlatformUnderTest) -> None:
        assert platform.token(
            replace(platform.profile, api_key=f" {platform.profile.api_key}\n")
        ).value

    def test_an_unknown_key_is_invalid(self, platform: PlatformUnderTest) -> None:
        with pytest.raises(CloudError) as raised:
            platform.token(replace(platform.profile, api_key="no-such-key"))
        assert (raised.value.call, raised.value.code) == (
            "ExchangeCredential",
            "INVALID_CREDENTIAL",
        )
        assert "no-such-key" not in str(raised.value)

    def test_a_token_that_has_ended_is_unauthenticated(self, platform: PlatformUnderTest) -> None:
        token = platform.token()
        platform.expire_tokens()
        with pytest.raises(CloudError) as raised:
            platform.gateway.create(platform.profile, token, LOG)
        assert (raised.value.call, raised.value.code) == ("CreateLogicalUpload", "UNAUTHENTICATED")
        assert token.value not in str(raised.value)

    def test_a_session_says_where_and_in_what_parts(self, platform: PlatformUnderTest) -> None:
        session = platform.create().session
        assert all((session.logical_upload_id, session.upload_id, session.bucket, session.endpoint))
        assert session.object_key
        assert session.part_size_bytes > 0

    def test_each_session_is_a_new_one(self, platform: PlatformUnderTest) -> None:
        assert platform.create().session.upload_id != platform.create().session.upload_id

    def test_a_document_without_episode_is_an_invalid_argument(
        self, platform: PlatformUnderTest
    ) -> None:
        with pytest.raises(CloudError) as raised:
            platform.gateway.create(platform.profile, platform.token(), replace(LOG, episode_id=""))
        assert raised.value.code == "INVALID_ARGUMENT"

    def test_a_reissued_lease_is_another_one_for_the_same_place(
        self, platform: PlatformUnderTest
    ) -> None:
        first = platform.create()
        again = platform.gateway.reissue(
            platform.profile, platform.token(), first.session.upload_id
        )
        assert again.session == first.session
        assert again.lease.access_key_id != first.lease.access_key_id

    def test_an_unknown_session_is_not_found(self, platform: PlatformUnderTest) -> None:
        token = platform.token()
        for call in (
            lambda: platform.gateway.recover(platform.profile, token, "nothing"),
            lambda: platform.gateway.reissue(platform.profile, token, "nothing"),
            lambda: platform.gateway.abort(platform.profile, token, "nothing", "why"),
        ):
            with pytest.raises(CloudError) as raised:
                call()
            assert raised.value.code == "UPLOAD_NOT_FOUND"

    def test_a_session_of_another_device_is_not_ours(self, platform: PlatformUnderTest) -> None:
        session = platform.create().session
        with pytest.raises(CloudError) as raised:
            platform.gateway.recover(
                platform.other, platform.token(platform.other), session.logical_upload_id
            )
        assert raised.value.code == "UPLOAD_NOT_OWNED"

    def test_recovery_goes_on_while_nothing_is_stored(self, platform: PlatformUnderTest) -> None:
        session = platform.create().session
        known = platform.gateway.recover(
            platform.profile, platform.token(), session.logical_upload_id
        )
        assert (known.stage, known.action, known.upload_id) == (
            "active",
            "continue",
            session.upload_id,
        )

    def test_recovery_asks_to_complete_once_the_object_is_stored(
        self, platform: PlatformUnderTest, recording: Path
    ) -> None:
        grant = platform.create()
        log = self._store(platform, grant, recording)
        known = platform.gateway.recover(
            platform.profile, platform.token(), grant.session.logical_upload_id
        )
        assert (known.action, known.part_count, known.etag) == (
            "complete_only",
            1,
            log.require_session().etag,
        )

    def test_a_completed_session_says_so_and_accepts_the_same_document_again(
        self, platform: PlatformUnderTest, recording: Path
    ) -> None:
        grant = platform.create()
        log = self._store(platform, grant, recording)
        token = platform.token()
        platform.gateway.complete(platform.profile, token, log)
        platform.gateway.complete(platform.profile, token, log)
        known = platform.gateway.recover(platform.profile, token, grant.session.logical_upload_id)
        assert (known.stage, known.part_count, known.etag) == (
            "completed",
            1,
            log.require_session().etag,
        )

    def test_an_object_counts_as_stored_once_it_is_completed_with_the_same_etag(
        self, platform: PlatformUnderTest, recording: Path
    ) -> None:
        log = self._store(platform, platform.create(), recording)
        token = platform.token()
        assert not platform.gateway.stored(platform.profile, token, log)
        platform.gateway.complete(platform.profile, token, log)
        assert platform.gateway.stored(platform.profile, token, log)
        session = log.require_session()
        for other in (
            replace(session, etag='"0-1"'),
            replace(session, logical_upload_id="nowhere"),
            None,
        ):
            changed = replace(log, session=other)
            assert not platform.gateway.stored(platform.profile, token, changed)

    def test_a_document_of_something_that_is_not_stored_is_refused(
        self, platform: PlatformUnderTest
    ) -> None:
        grant = platform.create()
        with pytest.raises(CloudError) as raised:
            platform.gateway.complete(
                platform.profile, platform.token(), _completing(grant, '"0-1"')
            )
        assert (raised.value.call, raised.value.code) == ("CompleteUpload", "FAILED_PRECONDITION")

    def test_an_aborted_session_is_over_and_aborting_it_again_is_no_error(
        self, platform: PlatformUnderTest
    ) -> None:
        session = platform.create().session
        token = platform.token()
        for _ in range(2):
            platform.gateway.abort(platform.profile, token, session.logical_upload_id, "given up")
        known = platform.gateway.recover(platform.profile, token, session.logical_upload_id)
        assert (known.stage, known.action, known.reason) == ("terminal", "abort", "given up")
        with pytest.raises(CloudError) as raised:
            platform.gateway.reissue(platform.profile, token, session.upload_id)
        assert raised.value.code == "UPLOAD_NOT_REFRESHABLE"

    def test_a_restart_ends_the_session_before(self, platform: PlatformUnderTest) -> None:
        old = platform.create().session
        new = platform.create(old.upload_id).session
        assert new.upload_id != old.upload_id
        known = platform.gateway.recover(platform.profile, platform.token(), old.logical_upload_id)
        assert known.stage == "terminal"

    def test_a_lease_that_has_ended_is_refused_by_the_store_and_a_fresh_one_is_not(
        self, platform: PlatformUnderTest
    ) -> None:
        grant = platform.create()
        platform.expire_leases()
        with pytest.raises(CloudError) as raised:
            platform.store.at(grant.session, lambda: grant.lease).begin()
        assert judge(raised.value).kind == "lease_lost"
        fresh = platform.gateway.reissue(
            platform.profile, platform.token(), grant.session.upload_id
        )
        assert platform.store.at(grant.session, lambda: fresh.lease).begin()

    @staticmethod
    def _store(platform: PlatformUnderTest, grant: Grant, recording: Path) -> SyncLog:
        target = platform.store.at(grant.session, lambda: grant.lease)
        multipart = target.begin()
        descriptor = os.open(recording, os.O_RDONLY)
        try:
            sent = target.send(multipart, Part(1, 0, SIZE), descriptor, Transfer(SIZE))
        finally:
            os.close(descriptor)
        target.complete(multipart, [sent])
        stored = target.stat()
        assert stored is not None
        return _completing(grant, stored.etag)


def _completing(grant: Grant, etag: str) -> SyncLog:
    return replace(
        LOG,
        raw_tags={ASSET_TAG: "robot-1", FILE_TAG: "a.mcap"},
        session=DocumentSession(
            logical_upload_id=grant.session.logical_upload_id,
            upload_id=grant.session.upload_id,
            part_count=1,
            etag=etag,
            part_size_bytes=grant.session.part_size_bytes,
        ),
    )
