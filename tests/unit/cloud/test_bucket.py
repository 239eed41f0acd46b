"""Bucket mode on fakes.

The tests cover keys, collisions, manifests, and uploads that continue after each interruption.
"""

from __future__ import annotations

import errno
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.cloud import bucket as bucket_module
from agent.cloud.no_profiles import AnyAsset
from agent.files import bag_metadata
from agent.model.errors import CloudError
from agent.model.sync_log import DocumentSession, SyncLog
from agent.model.values import DeviceProfile, Recording
from tests.harness.bucket_robot import NAME, BucketRobot
from tests.harness.fakes.store import FakeStore
from tests.harness.phase import phase_of
from tests.harness.recorders import write_sidecar

MIB = 1024 * 1024
EMPTY_PROFILE = DeviceProfile("", "", {}, "", "")


@pytest.fixture
def robot(tmp_path: Path) -> BucketRobot:
    return BucketRobot(tmp_path / "recordings")


def key_of(log: SyncLog) -> str:
    return f"robot/{log.mtime[:10]}/{Path(log.path).name}"


def spare_of(log: SyncLog) -> str:
    return (
        f"robot/{log.mtime[:10]}/{Path(log.path).stem}-{log.fingerprint.partition('-')[2][:8]}.mcap"
    )


def finish(robot: BucketRobot, id_: int = 1) -> SyncLog:
    for _ in range(20):
        robot.run()
        if robot.log(id_).status == "completed":
            break
        robot.clock.advance(1800)
    log = robot.log(id_)
    assert log.status == "completed", log.error
    assert robot.stored(log) == Path(log.path).read_bytes()
    assert robot.store.multiparts == {}
    return log


def test_a_recording_lies_under_its_key_and_its_manifest_announces_it(robot: BucketRobot) -> None:
    robot.record()
    log = finish(robot)
    assert (log.require_session().bucket, log.object_key, log.attempt_count) == (
        NAME,
        key_of(log),
        1,
    )
    assert robot.manifest(log) == {
        "schema": 1,
        "key": log.object_key,
        "size": log.file_size,
        "etag": log.require_session().etag,
        "checksum": log.require_session().checksum,
        "part_size_bytes": 1024,
        "fingerprint": log.fingerprint,
        "device_id": "robot",
        "asset_id": "",
        "episode_id": log.episode_id,
        "tags": dict(log.raw_tags),
        "uploaded_at": log.completed_at,
    }
    assert log.raw_tags["episode_id"] == log.episode_id


def test_the_manifest_comes_last(robot: BucketRobot) -> None:
    (robot.folder / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    robot.record()
    finish(robot)
    puts = [call for call in robot.store.calls if call in ("CompleteMultipartUpload", "PutObject")]
    assert puts == ["CompleteMultipartUpload", "PutObject", "PutObject"]
    assert list(robot.store.objects)[-1][1].endswith(".manifest.json")


def test_an_object_is_never_announced_before_it_is_whole(robot: BucketRobot) -> None:
    robot.store.fail("UploadPart", error=CloudError("UploadPart", "reset"), times=3)
    robot.record()
    robot.run()
    assert phase_of(robot.log()) == "uploading"
    assert robot.store.objects == {}


@pytest.mark.parametrize("name", ["a\tb\nc.mcap", "x" * 250 + ".mcap", "\x01" * 250 + ".mcap"])
def test_a_recording_of_any_name_is_uploaded(robot: BucketRobot, name: str) -> None:
    robot.record(name)
    log = finish(robot)
    assert robot.manifest(log)["key"] == log.object_key
    assert robot.resync().id == 2
    assert finish(robot, 2).object_key == log.object_key


# The tests below cover sidecars that are broken, late or changed.


@pytest.mark.parametrize("raw", [b"", b"[]", b'{"a": NaN}', b"no JSON", b'{"asset_id": 5}'])
def test_a_broken_sidecar_holds_nothing_back_and_is_named_in_history_and_manifest(
    robot: BucketRobot, raw: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    robot.record()
    Path(robot.log().path).with_suffix(".json").write_bytes(raw)
    log = finish(robot)
    assert "sidecar" in log.sidecar_fault
    assert robot.manifest(log)["warnings"] == [log.sidecar_fault]
    assert any("without its sidecar" in record.message for record in caplog.records)


def test_a_broken_sidecar_that_is_required_holds_its_recording_back(robot: BucketRobot) -> None:
    robot.restart(watch={"sidecar": "required"})
    robot.record()
    Path(robot.log().path).with_suffix(".json").write_text("[]")
    robot.run()
    log = robot.log()
    assert (log.status, log.error and log.error.code) == ("failed", "sidecar_invalid")


def changed_sidecar(robot: BucketRobot, log: SyncLog, content: object) -> SyncLog | None:
    """Write the recording's sidecar, and return the document that this begins."""
    write_sidecar(Path(log.path), content)
    found = robot.examiner.look(Path(log.path), sidecar_overdue=True)
    assert isinstance(found, Recording)
    return robot.intake.accept(found)


def test_a_sidecar_that_comes_after_the_upload_gives_another_manifest_and_no_upload(
    robot: BucketRobot, caplog: pytest.LogCaptureFixture
) -> None:
    robot.record()
    log = finish(robot)
    caplog.set_level(logging.INFO)
    assert "revision" not in robot.manifest(log)
    robot.clock.advance(3600)
    calls = len(robot.store.calls)
    assert changed_sidecar(robot, log, {"scene": "kitchen"}) is not None
    robot.run()
    new = robot.log(2)
    assert (new.status, new.trigger, new.manifest_revision) == ("completed", "sidecar", 2)
    assert new.session is not None
    assert log.session is not None
    assert (new.session.etag, new.session.checksum) == (log.session.etag, log.session.checksum)
    assert new.owner == log.owner
    assert robot.store.calls[calls:] == ["HeadObject", "PutObject"]
    manifest = robot.manifest(log)
    assert (manifest["revision"], manifest["tags"]["scene"]) == (2, "kitchen")
    assert manifest["uploaded_at"] == new.completed_at == log.completed_at
    assert robot.log(1) == log
    assert any("revision 2 of the manifest" in record.message for record in caplog.records)


def test_each_change_of_a_sidecar_counts_once_also_after_a_restart(robot: BucketRobot) -> None:
    robot.record()
    log = finish(robot)
    for revision, content in enumerate(([], {"a": 1}, {"a": 2}), 2):
        assert changed_sidecar(robot, log, content) is not None
        robot.restart()
        assert changed_sidecar(robot, log, content) is None
        robot.run()
        assert changed_sidecar(robot, log, content) is None
        manifest = robot.manifest(log)
        assert manifest["revision"] == revision
        assert ("warnings" in manifest) == (content == [])
    assert manifest["tags"]["a"] == "2"


def test_a_copy_with_another_sidecar_changes_no_manifest(robot: BucketRobot) -> None:
    robot.record()
    log = finish(robot)
    copy = robot.folder / "copy.mcap"
    copy.write_bytes(Path(log.path).read_bytes())
    assert changed_sidecar(robot, replace(log, path=str(copy)), {"scene": "kitchen"}) is None


def test_a_sidecar_that_changes_during_the_upload_is_seen_at_its_end(robot: BucketRobot) -> None:
    robot.store.fail("UploadPart", error=CloudError("UploadPart", "reset"), times=3)
    log = robot.record()
    robot.run()
    assert changed_sidecar(robot, log, {"scene": "kitchen"}) is None
    assert not robot.intake.take_found_again()
    finish(robot)
    robot.clock.advance(10)
    assert robot.intake.take_found_again() == [Path(log.path)]
    assert robot.find(Path(log.path)).manifest_revision == 2


def test_a_manifest_whose_object_was_deleted_is_not_written_anew(robot: BucketRobot) -> None:
    robot.record()
    log = finish(robot)
    del robot.store.objects[NAME, log.object_key]
    changed_sidecar(robot, log, {"scene": "kitchen"})
    robot.run()
    new = robot.log(2)
    assert (new.status, new.error and new.error.code) == ("failed", "object_missing")
    assert "revision" not in robot.manifest(log)


def test_a_resync_sends_a_recording_whose_manifest_waits_to_be_written_anew(
    robot: BucketRobot, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    robot.record()
    log = finish(robot)
    changed_sidecar(robot, log, {"scene": "kitchen"})
    found = robot.examiner.look(Path(log.path))
    assert isinstance(found, Recording)
    robot.intake.ask(found, trigger="cli", ask="resync")
    calls = len(robot.store.calls)
    new = finish(robot, 2)
    assert "CompleteMultipartUpload" in robot.store.calls[calls:]
    manifest = robot.manifest(log)
    assert (manifest["key"], manifest["revision"]) == (log.object_key, 2)
    assert manifest["etag"] == new.require_session().etag != ""
    assert new.completed_at == manifest["uploaded_at"]
    assert [vars(record)["event"] for record in caplog.records].count("done") == 2
    assert not any("of the manifest" in record.message for record in caplog.records)


# The tests below cover collisions of keys.


def test_a_key_that_holds_other_bytes_is_left_alone(robot: BucketRobot) -> None:
    log = robot.record()
    robot.store.objects[NAME, key_of(log)] = (
        b"somebody else's",
        _foreign_object(robot, b"somebody else's"),
    )
    log = finish(robot)
    assert log.object_key == spare_of(log)
    assert robot.store.content(NAME, key_of(log)) == b"somebody else's"


def test_two_recordings_of_one_name_under_way_at_once_get_two_keys(tmp_path: Path) -> None:
    robot = BucketRobot(tmp_path / "recordings", upload={"max_concurrent": 2})
    robot.restart(bucket={"key": "{name}"})
    for number, folder in enumerate(("x", "y")):
        (robot.folder / folder).mkdir()
        robot.record(f"{folder}/run.mcap", seed=number)
    first, second = finish(robot, 1), finish(robot, 2)
    assert first.object_key == "run.mcap"
    assert second.object_key == f"run-{second.fingerprint.partition('-')[2][:8]}.mcap"


def test_the_key_of_an_upload_put_back_before_a_restart_is_still_taken(robot: BucketRobot) -> None:
    robot.restart(bucket={"key": "{name}"})
    (robot.folder / "x").mkdir()
    robot.record("x/run.mcap", size=5000, seed=1)
    robot.store.before = _cut_parts
    robot.run()
    robot.store.before = lambda _call: None
    assert robot.log(1).object_key == "run.mcap"
    path = robot.folder / "run.mcap"
    robot.restart()
    robot.clock.advance(1800)
    robot.record(path.name, seed=2)
    assert (
        robot.bucket.create(
            EMPTY_PROFILE, robot.bucket.exchange(EMPTY_PROFILE), robot.log(2)
        ).session.object_key
        != "run.mcap"
    )


@pytest.mark.parametrize("code", ["AccessDenied", "HTTP_403"])
def test_where_looking_is_forbidden_the_key_always_says_whose_bytes_it_holds(
    robot: BucketRobot, code: str
) -> None:
    robot.store.fail("HeadObject", error=CloudError("HeadObject", code, status=403), times=100_000)
    robot.record()
    assert finish(robot).object_key == spare_of(robot.log())


def test_a_store_that_is_away_when_the_key_is_chosen_costs_no_attempt(robot: BucketRobot) -> None:
    robot.store.fail("HeadObject", times=2)
    robot.record()
    robot.run()
    closed = robot.gate.closed()
    assert closed is not None
    assert (closed.code, robot.log().object_key) == ("ServiceUnavailable", "")
    log = finish(robot)
    assert (log.attempt_count, log.object_key) == (1, key_of(log))


# The tests below cover the resync.


def test_a_resync_replaces_what_it_once_stored(robot: BucketRobot) -> None:
    robot.record()
    before = finish(robot)
    sent = len(robot.store.sent_parts)
    robot.resync()
    after = finish(robot, 2)
    assert after.object_key == before.object_key
    assert len(robot.store.sent_parts) == 2 * sent


def test_a_resync_keeps_its_key_when_the_file_was_renamed(robot: BucketRobot) -> None:
    robot.record()
    before = finish(robot)
    renamed = Path(before.path).rename(robot.folder / "renamed.mcap")
    newer = robot.resync()
    robot.history.documents[newer.id] = replace(newer, path=str(renamed))
    assert finish(robot, 2).object_key == before.object_key


def test_a_resync_does_not_replace_what_somebody_else_put_there(robot: BucketRobot) -> None:
    robot.record()
    before = finish(robot)
    robot.store.objects[NAME, before.object_key] = (b"other", _foreign_object(robot, b"other"))
    robot.resync()
    assert finish(robot, 2).object_key == spare_of(before)
    assert robot.store.content(NAME, before.object_key) == b"other"


def test_a_robot_that_lost_its_history_knows_its_object_by_the_manifest(robot: BucketRobot) -> None:
    robot.record()
    before = finish(robot)
    robot.history.documents.clear()
    robot.restart()
    log = robot.find(Path(before.path))
    assert finish(robot, log.id).object_key == before.object_key


def test_a_resync_cut_off_in_its_middle_goes_on_and_is_not_taken_for_done(
    robot: BucketRobot,
) -> None:
    robot.record(size=5000)
    finish(robot)
    robot.store.sent_parts.clear()
    robot.resync()
    robot.store.before = lambda call: _cut_parts(call) if len(robot.store.sent_parts) >= 2 else None
    robot.run()
    robot.store.before = lambda _call: None
    assert phase_of(robot.log(2)) == "uploading"
    robot.restart()
    finish(robot, 2)
    assert robot.store.sent_parts == [1, 2, 3, 4, 5, 6]


# The tests below cover uploads that continue after an interruption.


@pytest.mark.parametrize(
    "call",
    [
        "CreateMultipartUpload",
        "UploadPart",
        "CompleteMultipartUpload",
        "HeadObject",
        "ListMultipartUploads",
        "PutObject",
    ],
)
@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("forbidden", [False, True])
def test_a_call_that_fails_or_whose_answer_is_lost_leaves_one_announced_object(
    robot: BucketRobot, call: str, lost: bool, forbidden: bool
) -> None:
    robot.store.fail(call, error=CloudError(call, "reset"), times=4, lost=lost)
    if forbidden:
        robot.store.fail(
            "HeadObject", error=CloudError("HeadObject", "AccessDenied", status=403), times=100_000
        )
    robot.record()
    log = finish(robot)
    assert log.attempt_count == 1
    assert {key for _, key in robot.store.objects} == {
        log.object_key,
        log.object_key + ".manifest.json",
    }


def test_after_a_restart_only_the_missing_parts_are_sent(robot: BucketRobot) -> None:
    robot.record(size=5000)
    robot.store.before = lambda call: _cut_parts(call) if len(robot.store.sent_parts) >= 2 else None
    robot.run()
    robot.store.before = lambda _call: None
    robot.restart()
    log = finish(robot)
    assert robot.store.sent_parts == [1, 2, 3, 4, 5, 6]
    assert log.object_key == key_of(log)


def test_an_object_that_vanished_before_it_was_announced_is_sent_again_under_its_key(
    robot: BucketRobot,
) -> None:
    robot.store.fail("PutObject", times=3)
    log = robot.record()
    robot.run()
    assert phase_of(robot.log()) == "completing"
    robot.store.objects.clear()
    assert finish(robot).object_key == key_of(log)


def test_a_session_of_another_bucket_is_forgotten(robot: BucketRobot) -> None:
    robot.record(size=5000)
    robot.store.before = _cut_parts
    robot.run()
    robot.store.before = lambda _call: None
    robot.store.multiparts.clear()
    robot.restart(bucket={"name": "another"})
    assert finish(robot).require_session().bucket == "another"


def test_a_recording_given_up_leaves_no_multipart(robot: BucketRobot) -> None:
    robot.record(size=5000)
    robot.store.flip(10_000)
    for _ in range(10):
        robot.advance(1800)
    assert (robot.log().status, robot.log().next_retry_at) == ("failed", None)
    assert robot.store.multiparts == {}


# The tests below cover the credentials for the bucket.


def test_keys_that_end_in_mid_upload_are_replaced(robot: BucketRobot) -> None:
    robot.record(size=5000)

    def expire_once(call: str) -> None:
        if call == "UploadPart" and len(robot.store.sent_parts) == 2:
            robot.store.expire(robot.keys.leases[0].access_key_id)

    robot.store.before = expire_once
    log = finish(robot)
    assert (log.credential_refreshes, log.attempt_count) == (1, 1)


def test_keys_that_end_soon_are_replaced_before_they_do(robot: BucketRobot) -> None:
    robot.keys.seconds = 100
    robot.record(size=5000)

    def pass_time(call: str) -> None:
        if call == "UploadPart":
            robot.clock.advance(40)
            robot.credentials.refresh_due()

    robot.store.before = pass_time
    finish(robot)
    assert robot.log().credential_refreshes >= 2
    assert len(robot.keys.leases) >= 4


def test_a_source_without_keys_blocks_and_costs_no_attempt(robot: BucketRobot) -> None:
    def none() -> None:
        raise CloudError("StorageKeys", "storage_keys")

    robot.keys.before = none
    robot.record()
    robot.run()
    closed = robot.gate.closed()
    assert closed is not None
    assert (closed.kind, closed.call, robot.log().attempt_count) == (
        "blocked",
        "CreateLogicalUpload",
        0,
    )
    robot.keys.before = lambda: None
    assert finish(robot).attempt_count == 1


# The tests below cover files that are uploaded with a recording.


def test_a_bags_metadata_goes_beside_its_splits_once(robot: BucketRobot) -> None:
    (robot.folder / "bag").mkdir()
    (robot.folder / "bag" / "metadata.yaml").write_bytes(b"version: 9\n")
    for number in (1, 2):
        robot.record(f"bag/bag_{number}.mcap", seed=number)
        finish(robot, number)
    folder = f"robot/{robot.log().mtime[:10]}/bag"
    assert robot.store.content(NAME, f"{folder}/metadata.yaml") == b"version: 9\n"
    assert robot.store.calls.count("PutObject") == 3


def test_metadata_of_another_bag_under_the_same_key_is_left_alone(robot: BucketRobot) -> None:
    robot.restart(bucket={"key": "{name}"})
    robot.store.objects[NAME, "metadata.yaml"] = (b"other", _foreign_object(robot, b"other"))
    (robot.folder / "metadata.yaml").write_bytes(b"version: 9\n")
    robot.record()
    finish(robot)
    others = [key for _, key in robot.store.objects if key.startswith("metadata-")]
    assert robot.store.content(NAME, "metadata.yaml") == b"other"
    assert [robot.store.content(NAME, key) for key in others] == [b"version: 9\n"]


def test_metadata_that_is_no_file_is_passed_over(robot: BucketRobot) -> None:
    (robot.folder / "metadata.yaml").mkdir()
    robot.record()
    finish(robot)
    assert robot.store.calls.count("PutObject") == 1


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_metadata_behind_a_link_is_not_sent_unless_links_are_followed(
    robot: BucketRobot, tmp_path: Path, caplog: pytest.LogCaptureFixture, linked: str
) -> None:
    secret = tmp_path / "private" / "metadata.yaml"
    secret.parent.mkdir()
    secret.write_text("aws_secret_access_key = x")
    (robot.folder / "bag").mkdir()
    log = robot.record("bag/a.mcap")
    if linked == "file":
        (robot.folder / "bag" / "metadata.yaml").symlink_to(secret)
    else:
        (robot.folder / "bag" / "a.mcap").rename(secret.with_name("a.mcap"))
        (robot.folder / "bag").rmdir()
        (robot.folder / "bag").symlink_to(secret.parent)
    session = DocumentSession("completing", bucket=NAME, object_key="bag/a.mcap", etag='"e"')
    stored = replace(log, session=session)
    robot.bucket.complete(EMPTY_PROFILE, robot.bucket.exchange(EMPTY_PROFILE), stored)
    assert [key for _, key in robot.store.objects] == ["bag/a.mcap.manifest.json"]
    assert "metadata.yaml is not sent" in caplog.text
    robot.bucket._follow_symlinks = True
    robot.bucket.complete(EMPTY_PROFILE, robot.bucket.exchange(EMPTY_PROFILE), stored)
    assert robot.store.content(NAME, "bag/metadata.yaml") == secret.read_bytes()


def test_metadata_that_can_not_be_read_now_ends_the_attempt_and_goes_with_the_next(
    robot: BucketRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    (robot.folder / "metadata.yaml").write_bytes(b"version: 9\n")
    robot.record()
    lacking = True

    def opened(path: Path, folder: int, *, follow_symlinks: bool) -> int:
        if lacking:
            raise OSError(errno.EMFILE, "Too many open files")
        return bag_metadata.open_bag_metadata(path, folder, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(bucket_module, "open_bag_metadata", opened)
    robot.run()
    assert robot.log().status == "pending"
    assert (closed := robot.gate.closed()) is not None
    assert closed.code == "out_of_descriptors"
    lacking = False
    robot.advance(1800)
    finish(robot)
    assert [key for _, key in robot.store.objects if key.endswith("metadata.yaml")] != []


# The tests below cover part sizes and asset ids.


@pytest.mark.parametrize(
    ("setting", "size", "part_size"),
    [
        (8 * MIB, 1, 8 * MIB),
        (8 * MIB, 1024 * MIB - 1, 8 * MIB),
        (8 * MIB, 1024 * MIB, 16 * MIB),
        (8 * MIB, 2048 * MIB - 1, 16 * MIB),
        (8 * MIB, 2048 * MIB, 32 * MIB),
        (8 * MIB, 320_000 * MIB, 32 * MIB),
        (8 * MIB, 320_000 * MIB + 1, 33 * MIB),
        (8 * MIB, 5 * 1024 * 1024 * MIB, 525 * MIB),
        (5 * 1024 * MIB, 5 * 1024 * 1024 * MIB, 5 * 1024 * MIB),
    ],
)
def test_parts_are_larger_where_they_are_many_and_grow_so_that_ten_thousand_suffice(
    robot: BucketRobot, setting: int, size: int, part_size: int
) -> None:
    robot.part_size = setting
    robot.restart()
    log = replace(robot.record(), file_size=size)
    session = robot.bucket.create(EMPTY_PROFILE, robot.bucket.exchange(EMPTY_PROFILE), log).session
    assert session.part_size_bytes == part_size
    assert size <= 10_000 * part_size


def test_a_recording_waits_for_an_asset_id_only_where_the_key_needs_one(robot: BucketRobot) -> None:
    robot.restart(bucket={"key": "{asset_id}/{name}"})
    robot.record()
    robot.run()
    error = robot.log().error
    assert error is not None
    assert (error.code, robot.log().attempt_count) == ("no_asset_id", 0)
    robot.assets["robot"] = "asset-1"
    robot.advance(1800)
    assert (finish(robot).object_key, robot.log().asset_id) == ("asset-1/a.mcap", "asset-1")


def test_an_unbound_robot_waits_in_bucket_mode_too(robot: BucketRobot) -> None:
    robot.assets["robot"] = ""
    robot.record()
    robot.run()
    error = robot.log().error
    assert error is not None
    assert error.code == "unbound_robot"


def test_a_key_too_long_for_s3_is_cut(robot: BucketRobot) -> None:
    robot.restart(bucket={"key": "x/" * 600 + "{name}"})
    robot.record()
    log = finish(robot)
    assert len(log.object_key) <= 1001
    assert log.object_key.endswith("/a.mcap")


def test_there_is_a_profile_for_every_asset_id() -> None:
    assert AnyAsset()["x"].asset_id == "x"
    assert AnyAsset().get("") == EMPTY_PROFILE
    assert "x" in AnyAsset()
    assert list(AnyAsset()) == []


def _foreign_object(robot: BucketRobot, data: bytes) -> Any:
    """Return what the store says of an object that another program put there."""
    other = FakeStore()
    bucket = BucketRobot(robot.folder, store=other).bucket
    with bucket._at("x", robot.keys.lease()) as target:
        target.put(data, "")
        return target.stat()


def _cut_parts(call: str) -> None:
    if call == "UploadPart":
        raise CloudError(call, "reset")
