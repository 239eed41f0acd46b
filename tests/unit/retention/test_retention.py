"""Which recordings are deleted, when, and what prevents a deletion.

The features run on fakes, the recordings are real files.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.gate.gate import Gate
from agent.model.errors import CloudError, HistoryFullError, judge
from agent.model.sync_log import SyncLog
from agent.model.transfer import StoredObject
from agent.model.values import DeviceProfile
from agent.retention.deletion import Deletion
from tests.harness.bucket_robot import BucketRobot
from tests.harness.fakes.gateway import PROFILE
from tests.harness.fakes.store import FakeStore
from tests.harness.file_systems import immutable, mounted
from tests.harness.recorders import write_mcap, write_sidecar
from tests.harness.robot import BUILT, Robot

HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0
ASKED = "GetUploadRecovery"


class RetainingRobot(Robot):
    """A robot that deletes nothing before the test tells it to."""

    def send(self, *names: str, size: int = 3000) -> list[SyncLog]:
        """Record and upload one recording after the other."""
        logs = []
        for seed, name in enumerate(names, start=self.history.last_id):
            (self.folder / name).parent.mkdir(exist_ok=True)
            write_mcap(self.folder / name, size=size, seed=seed)
            self.discover.rescan()
            self.pass_time(16, steps=6)
            logs.append(self.log(self.history.last_id))
            assert (logs[-1].path, logs[-1].status) == (str(self.folder / name), "completed")
        return logs

    def asked(self) -> int:
        """How often the platform was asked whether it has a recording."""
        return self.gateway.calls.count(ASKED)

    def left(self) -> list[str]:
        """The names of the recordings on the disk."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*.mcap*"))

    def ask_again(self, log: SyncLog) -> SyncLog:
        """Add a document that asks for the same recording once more."""
        return self.history.add(
            SyncLog(
                0, log.episode_id, log.path, log.file_size, log.mtime, log.fingerprint, resync=True
            )
        )


class RetainingBucketRobot(BucketRobot, RetainingRobot):
    """The same robot in bucket mode, that is without a platform."""

    def asked(self) -> int:
        return self.store.calls.count("HeadObject")


class Disk:
    """A file system that reports ``free`` bytes as free.

    If ``watched`` is set, deleting recordings in this folder frees space.
    """

    def __init__(self, folder: Path, free: float) -> None:
        self.folder = folder
        self.free = free
        self.watched: Path | None = None

    def __call__(self, root: Path) -> tuple[int, float]:
        taken = (
            sum(path.stat().st_blocks * 512 for path in self.watched.rglob("*.mcap"))
            if self.watched
            else 0
        )
        return root.stat().st_dev, self.free - taken


@pytest.fixture
def robot(tmp_path: Path) -> RetainingRobot:
    return RetainingRobot(tmp_path / "recordings")


@pytest.fixture
def bucket(tmp_path: Path) -> RetainingBucketRobot:
    return RetainingBucketRobot(tmp_path / "recordings")


@pytest.fixture(autouse=True)
def _log_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "event", "") == event]


# The tests below cover retention.keep_hours.


def test_an_uploaded_recording_goes_when_its_hours_have_passed_and_not_before(
    robot: RetainingRobot,
) -> None:
    retention = robot.retaining(keep_seconds=24 * HOUR)
    robot.send("a.mcap")
    robot.clock.advance(23.9 * HOUR)
    retention.delete_due()
    assert robot.left() == ["a.mcap"]
    assert robot.asked() == 0
    robot.clock.advance(0.2 * HOUR)
    retention.delete_due()
    assert robot.left() == []
    assert robot.asked() == 1


def test_each_deletion_is_logged_and_the_history_stays_as_it_is(
    robot: RetainingRobot, caplog: pytest.LogCaptureFixture
) -> None:
    (log,) = robot.send("a.mcap")
    robot.retention.delete_due()
    (record,) = said(caplog, "deleted")
    assert record.levelname == "INFO"
    about = vars(record)
    assert (about["path"], about["size"], about["document"]) == (log.path, log.file_size, log.id)
    assert (about["object_key"], about["reason"]) == (
        log.object_key,
        "retention.keep_hours have passed",
    )
    assert robot.log(log.id) == log
    robot.pass_time(DAY)
    assert list(robot.history.documents) == [log.id]


def test_only_what_is_uploaded_goes(robot: RetainingRobot) -> None:
    robot.gateway.fail(
        "CreateLogicalUpload", error=CloudError("CreateLogicalUpload", "INVALID_ARGUMENT")
    )
    write_mcap(robot.folder / "failed.mcap", seed=1)
    robot.discover.rescan()
    robot.pass_time(16, steps=6)
    assert robot.log().status == "failed"
    robot.send("a.mcap")
    write_mcap(robot.folder / "new.mcap", seed=2)
    robot.retention.delete_due()
    assert robot.left() == ["failed.mcap", "new.mcap"]


def test_every_name_below_the_folders_goes_with_its_companions(robot: RetainingRobot) -> None:
    robot.send("a.mcap")
    (robot.folder / "day").mkdir()
    shutil.copy2(robot.folder / "a.mcap", robot.folder / "day" / "copy.mcap")
    (robot.folder / "link.mcap").hardlink_to(robot.folder / "a.mcap")
    write_sidecar(robot.folder / "day" / "copy.mcap")
    robot.pass_time(120, steps=20)
    assert len(robot.history.documents) == 1
    robot.retention.delete_due()
    assert list(robot.folder.rglob("*")) == [robot.folder / "day"]


def test_a_renamed_recording_is_found_under_its_new_name(robot: RetainingRobot) -> None:
    robot.send("a.mcap")
    (robot.folder / "a.mcap").rename(robot.folder / "b.mcap")
    robot.discover.rescan()
    robot.pass_time(16, steps=6)
    robot.retention.delete_due()
    assert robot.left() == []


def test_a_hard_link_outside_of_the_folders_stays(robot: RetainingRobot, tmp_path: Path) -> None:
    (log,) = robot.send("a.mcap")
    outside = tmp_path / "kept.mcap"
    outside.hardlink_to(log.path)
    robot.retention.delete_due()
    assert robot.left() == []
    assert outside.read_bytes() == robot.stored(log)


# The tests below show what prevents a deletion.


def test_a_resync_that_is_open_or_failed_keeps_the_recording(robot: RetainingRobot) -> None:
    (log,) = robot.send("a.mcap")
    again = robot.ask_again(log)
    robot.retention.delete_due()
    robot.history.move(again.id, "claimed")
    robot.retention.delete_due()
    robot.history.move(again.id, "gave_up")
    robot.clock.advance(11)
    robot.retention.delete_due()
    assert robot.left() == ["a.mcap"]
    assert robot.asked() == 0


def test_a_resync_that_is_asked_for_while_the_cloud_answers_keeps_the_recording(
    robot: RetainingRobot,
) -> None:
    (log,) = robot.send("a.mcap")
    robot.gateway.before = lambda call: robot.ask_again(log) if call == ASKED else None  # type: ignore[assignment]
    robot.retention.delete_due()
    assert robot.asked() == 1
    assert robot.left() == ["a.mcap"]


def test_a_recording_in_flight_stays(robot: RetainingRobot) -> None:
    (log,) = robot.send("a.mcap")
    again = robot.ask_again(log)
    robot.dispatch.tick()
    robot.history.documents[again.id] = replace(log, id=again.id)
    robot.retention.delete_due()
    assert robot.left() == ["a.mcap"]
    assert robot.asked() == 0
    robot.executor.waiting.clear()


def test_a_file_that_is_replaced_while_the_cloud_answers_stays(robot: RetainingRobot) -> None:
    (log,) = robot.send("a.mcap")
    other = write_mcap(robot.folder.parent / "aside.mcap", seed=99)
    content = other.read_bytes()
    robot.gateway.before = lambda call: other.rename(log.path) if call == ASKED else None  # type: ignore[assignment]
    robot.retention.delete_due()
    assert Path(log.path).read_bytes() == content


def test_a_file_that_is_replaced_in_the_last_moment_stays(
    robot: RetainingRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    (log,) = robot.send("a.mcap")
    other = write_mcap(robot.folder.parent / "aside.mcap", seed=99)
    content = other.read_bytes()
    transaction = robot.history.transaction
    monkeypatch.setattr(
        robot.history, "transaction", lambda: (other.rename(log.path), transaction())[1]
    )
    robot.retention.delete_due()
    assert Path(log.path).read_bytes() == content


def test_a_recording_that_a_program_writes_to_stays_and_goes_later(
    robot: RetainingRobot, caplog: pytest.LogCaptureFixture
) -> None:
    robot.send("a.mcap")
    with (robot.folder / "a.mcap").open("r+b"):
        for _ in range(5):
            robot.retention.delete_due()
            robot.clock.advance(400)
    assert robot.left() == ["a.mcap"]
    assert robot.asked() == 0
    assert len(said(caplog, "not_deleted")) == 1
    robot.clock.advance(600)
    robot.retention.delete_due()
    assert robot.left() == []


def test_a_recording_that_is_opened_for_writing_while_the_cloud_answers_stays(
    robot: RetainingRobot,
) -> None:
    (log,) = robot.send("a.mcap")
    writers = []
    robot.gateway.before = lambda call: (
        writers.append(Path(log.path).open("r+b"))  # noqa: SIM115 - closed below
        if call == ASKED
        else None
    )
    robot.retention.delete_due()
    assert len(writers) == 1
    writers[0].close()
    assert robot.left() == ["a.mcap"]


def test_a_folder_nobody_may_write_to_is_said_once_and_the_cloud_is_not_asked(
    robot: RetainingRobot, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.send("day/a.mcap", "day/b.mcap", "c.mcap")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "day" and allowed(path, mode))
    for _ in range(5):
        robot.retention.delete_due()
        robot.clock.advance(900)
    assert robot.left() == ["day/a.mcap", "day/b.mcap"]
    assert [vars(record)["path"] for record in said(caplog, "undeletable")] == [
        str(robot.folder / "day")
    ]
    assert robot.asked() == 1


def test_a_folder_that_is_sealed_is_said_once(
    robot: RetainingRobot, caplog: pytest.LogCaptureFixture
) -> None:
    robot.send("day/a.mcap")
    with immutable(robot.folder / "day"):
        for _ in range(3):
            robot.retention.delete_due()
            robot.clock.advance(900)
    assert robot.left() == ["day/a.mcap"]
    assert len(said(caplog, "undeletable")) == 1


# The tests below cover the comparison of all bytes.


def record_frames(robot: RetainingRobot, name: str = "a.mcap") -> SyncLog:
    """Upload a recording of 60 frames of 100 kB without compression."""
    robot.gateway.part_size = 1024 * 1024
    write_mcap(robot.folder / name, size=6_000_000, messages=60, chunked=False)
    robot.discover.rescan()
    robot.pass_time(16, steps=6)
    log = robot.log(robot.history.last_id)
    assert log.status == "completed"
    return log


def zero_frames(path: Path) -> None:
    """Set frames 14 to 16 to zeros in place.

    The size, the bytes that the fingerprint reads and the time of change stay.
    """
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(1_400_000)
        file.write(bytes(300_000))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def sparse_twin(path: Path, twin: Path) -> Path:
    """Create a sparse file that only looks like the recording.

    It has the same size, time of change and bytes that the fingerprint reads, and no other bytes.
    """
    content, window = path.read_bytes(), 65_536
    with twin.open("wb") as file:
        file.truncate(len(content))
        for at in (0, (len(content) - window) // 2, len(content) - window):
            file.seek(at)
            file.write(content[at : at + window])
    os.utime(twin, ns=(0, path.stat().st_mtime_ns))
    return twin


def made(tmp_path: Path, **store: Any) -> RetainingRobot:
    """A robot with a store that has these options."""
    return RetainingRobot(tmp_path / "recordings", store=FakeStore(**store))


@pytest.mark.parametrize(
    ("store", "code"),
    [
        ({}, "differs"),
        ({"algorithm": "CRC32"}, "differs"),
        ({"algorithm": "CRC32", "etags": "opaque"}, "differs"),
        ({"checksums": False}, "unclear"),
        ({"checksums": False, "etags": "oss"}, "unclear"),
    ],
)
def test_a_recording_that_was_changed_in_place_stays_though_no_window_and_no_time_shows_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, store: dict[str, Any], code: str
) -> None:
    robot = made(tmp_path, **store)
    log = record_frames(robot)
    zero_frames(Path(log.path))
    for _ in range(4):
        robot.retention.delete_due()
        robot.clock.advance(700)
    assert robot.left() == ["a.mcap"]
    assert robot.asked() == 0, "what is known to stay needs no question"
    (record,) = said(caplog, "not_deleted")
    assert (record.levelname, vars(record)["reason"]) == ("WARNING", code)
    assert f"keystone-agent resync {log.path}" in record.getMessage()
    assert f"touch {log.path}.resync" in record.getMessage()
    (kept,) = robot.retention.kept()
    assert (kept["code"], kept["count"], kept["paths"]) == (code, 1, [log.path])


@pytest.mark.parametrize(
    "store",
    [
        {},
        {"algorithm": "CRC32"},
        {"algorithm": "CRC32", "etags": "opaque"},
        {"checksums": False},
        {"checksums": False, "etags": "oss"},
    ],
)
def test_a_recording_that_is_as_it_was_uploaded_goes_by_whatever_digest_is_known(
    tmp_path: Path, store: dict[str, Any]
) -> None:
    robot = made(tmp_path, **store)
    assert record_frames(robot).owner == os.getuid()
    robot.retention.delete_due()
    assert robot.left() == []
    assert robot.retention.kept() == []


def test_space_that_is_short_lets_no_changed_recording_go(robot: RetainingRobot) -> None:
    log = record_frames(robot)
    robot.send("b.mcap")
    zero_frames(Path(log.path))
    robot.retaining(min_free=10_000_000, free=Disk(robot.folder, 0)).delete_due()
    assert robot.left() == ["a.mcap"]


@pytest.mark.parametrize("first", ["twin", "recording"])
def test_a_sparse_twin_and_the_recording_never_stand_for_each_other(
    robot: RetainingRobot, tmp_path: Path, first: str
) -> None:
    """A user who may write into one folder can create a twin.

    Uploading the twin must not allow deleting the other file.
    """
    robot.gateway.part_size = 1024 * 1024
    recording = write_mcap(tmp_path / "recording", size=6_000_000, messages=60, chunked=False)
    twin = sparse_twin(recording, tmp_path / "twin")
    uploaded, other = (twin, recording) if first == "twin" else (recording, twin)
    content = other.read_bytes()
    uploaded.rename(robot.folder / "a.mcap")
    robot.discover.rescan()
    robot.pass_time(16, steps=6)
    assert robot.log().status == "completed"
    other.rename(robot.folder / "b.mcap")
    robot.discover.rescan()
    robot.pass_time(120, steps=20)
    assert len(robot.history.documents) == 1, "both have one fingerprint"
    robot.retention.delete_due()
    assert robot.left() == ["b.mcap"]
    assert (robot.folder / "b.mcap").read_bytes() == content
    (kept,) = robot.retention.kept()
    assert (kept["code"], kept["paths"]) == ("differs", [str(robot.folder / "b.mcap")])


@pytest.mark.parametrize("owner", [None, os.getuid() + 1])
def test_a_crc_of_a_document_with_another_owner_or_none_lets_nothing_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, owner: int | None
) -> None:
    robot = made(tmp_path, algorithm="CRC32", etags="opaque")
    (log,) = robot.send("a.mcap")
    robot.history.documents[log.id] = replace(log, owner=owner)
    for _ in range(3):
        robot.retention.delete_due()
        robot.clock.advance(700)
    assert robot.left() == ["a.mcap"]
    assert [kept["code"] for kept in robot.retention.kept()] == ["other_owner"]
    assert len(said(caplog, "not_deleted")) == 1


def test_what_can_be_compared_with_nothing_stays_and_nobody_is_asked_about_it(
    bucket: RetainingBucketRobot, caplog: pytest.LogCaptureFixture
) -> None:
    logs = bucket.send("a.mcap", "b.mcap", "c.mcap")
    for log in logs[:2]:
        content, stored = bucket.store.objects[log.require_session().bucket, log.object_key]
        bucket.store.objects[log.require_session().bucket, log.object_key] = (
            content,
            replace(stored, etag='"opaque"', checksum=""),
        )
        session = replace(log.require_session(), etag='"opaque"', checksum="")
        bucket.history.documents[log.id] = replace(log, session=session)
    before = bucket.asked()
    for _ in range(3):
        bucket.retention.delete_due()
        bucket.clock.advance(700)
    assert bucket.left() == ["a.mcap", "b.mcap"]
    assert bucket.asked() - before == 1
    (kept,) = bucket.retention.kept()
    assert (kept["code"], kept["count"], kept["paths"]) == (
        "no_digest",
        2,
        [logs[0].path, logs[1].path],
    )
    assert [vars(record)["document"] for record in said(caplog, "not_deleted")] == [1, 2]


def test_a_changed_recording_that_is_uploaded_again_goes(robot: RetainingRobot) -> None:
    log = record_frames(robot)
    zero_frames(Path(log.path))
    content = Path(log.path).read_bytes()
    robot.retention.delete_due()
    assert len(robot.retention.kept()) == 1
    Path(f"{log.path}.resync").touch()
    robot.discover.rescan()
    robot.pass_time(120, steps=20)
    assert robot.stored(robot.log(2)) == content
    robot.clock.advance(700)
    robot.retention.delete_due()
    assert robot.left() == []
    assert robot.retention.kept() == []


def test_a_file_that_stays_for_another_reason_is_read_once(
    robot: RetainingRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.send("a.mcap")
    reads = counted_reads(monkeypatch)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("a folder with the sticky bit")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refused)
        for _ in range(3):
            robot.retention.delete_due()
            robot.clock.advance(700)
    assert len(reads) == 4, "once for each of its parts"
    robot.retention.delete_due()
    assert robot.left() == []
    assert len(reads) == 4


def test_a_stop_ends_the_reading_of_a_recording_at_once(
    robot: RetainingRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_frames(robot)
    reads = counted_reads(monkeypatch, lambda: robot.retention.stop(0))
    robot.retention.delete_due()
    assert len(reads) == 1
    assert robot.retention.stop(0)
    assert robot.left() == ["a.mcap"]


def counted_reads(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], object] = lambda: None
) -> list[int]:
    """Count the reads that compare a recording with its upload.

    ``act`` runs before each of them.
    """
    reads: list[int] = []
    read = os.preadv

    def counted(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        act()
        reads.append(offset)
        return read(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", counted)
    return reads


def test_a_look_begins_no_other_recording_when_it_has_taken_long(
    robot: RetainingRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.send("a.mcap", "b.mcap", "c.mcap")
    counted_reads(monkeypatch, lambda: robot.clock.advance(25))
    robot.retention.delete_due()
    assert robot.left() == ["b.mcap", "c.mcap"], "space is looked at between two looks"
    for _ in range(2):
        robot.retention.delete_due()
    assert robot.left() == []


# The tests below cover the answers of the cloud.


def test_an_object_the_platform_has_no_more_keeps_the_recording_and_is_said_once_a_day_asked(
    robot: RetainingRobot, caplog: pytest.LogCaptureFixture
) -> None:
    (log,) = robot.send("a.mcap")
    robot.gateway.sessions[log.require_session().logical_upload_id].stage = "terminal"
    for _ in range(23):
        robot.retention.delete_due()
        robot.clock.advance(HOUR)
    assert robot.asked() == 1
    robot.clock.advance(2 * HOUR)
    robot.retention.delete_due()
    assert robot.asked() == 2
    (record,) = said(caplog, "object_missing")
    assert record.levelname == "ERROR"
    assert f"`keystone-agent resync {log.path}`" in record.getMessage()
    assert robot.left() == ["a.mcap"]


@pytest.mark.parametrize("change", ["gone", "other"])
def test_an_object_that_is_gone_from_the_bucket_or_another_keeps_the_recording(
    bucket: RetainingBucketRobot, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    (log,) = bucket.send("a.mcap")
    place = log.require_session().bucket, log.object_key
    content, stored = bucket.store.objects[place]
    if change == "gone":
        del bucket.store.objects[place]
    else:
        bucket.store.objects[place] = content, StoredObject(stored.size, f'"{"0" * 32}-3"')
    bucket.retention.delete_due()
    assert bucket.left() == ["a.mcap"]
    assert len(said(caplog, "object_missing")) == 1


def test_a_bucket_that_has_the_object_lets_the_recording_go(bucket: RetainingBucketRobot) -> None:
    bucket.send("a.mcap", "b.mcap")
    bucket.retention.delete_due()
    assert bucket.left() == []


def test_where_looking_is_forbidden_nothing_goes_and_a_look_says_it_once(
    bucket: RetainingBucketRobot, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.send(*[f"{number}.mcap" for number in range(6)])
    bucket.store.fail(
        "HeadObject", error=CloudError("HeadObject", "AccessDenied", status=403), times=10_000
    )
    before = bucket.asked()
    bucket.retention.delete_due()
    assert bucket.asked() - before == 3
    assert len(said(caplog, "unconfirmed")) == 1
    bucket.clock.advance(29)
    bucket.retention.delete_due()
    assert bucket.asked() - before == 3
    assert len(bucket.left()) == 6


def test_one_object_that_may_not_be_looked_for_keeps_no_other_recording(
    bucket: RetainingBucketRobot,
) -> None:
    bucket.send("a.mcap", "b.mcap")
    bucket.store.fail("HeadObject", error=CloudError("HeadObject", "AccessDenied", status=403))
    bucket.retention.delete_due()
    assert bucket.left() == ["a.mcap"]


def test_a_cloud_that_is_away_is_asked_ever_more_rarely_and_the_oldest_goes_when_it_is_back(
    robot: RetainingRobot, caplog: pytest.LogCaptureFixture
) -> None:
    robot.send("a.mcap", "b.mcap")
    robot.gateway.fail(ASKED, times=10_000)
    for _ in range(6 * 60):
        robot.retention.delete_due()
        robot.clock.advance(10)
    assert robot.asked() == 7
    assert len(said(caplog, "unconfirmed")) == 7
    assert robot.left() == ["a.mcap", "b.mcap"]
    robot.gateway.mend()
    robot.clock.advance(1800)
    robot.retention.delete_due()
    assert robot.left() == []
    robot.send("c.mcap")
    robot.gateway.fail(ASKED)
    robot.retention.delete_due()
    robot.clock.advance(31)
    robot.retention.delete_due()
    assert robot.left() == []


def test_a_recording_of_another_device_or_bucket_keeps_no_other(
    robot: RetainingRobot, caplog: pytest.LogCaptureFixture
) -> None:
    first, _, third = robot.send("a.mcap", "b.mcap", "c.mcap")
    robot.gateway.sessions[first.require_session().logical_upload_id].asset_id = "robot-2"
    robot.history.documents[third.id] = replace(third, asset_id="robot-3")
    robot.retention.delete_due()
    robot.send("d.mcap")
    for _ in range(2):
        robot.retention.delete_due()
        robot.clock.advance(5)
    assert robot.left() == ["a.mcap", "c.mcap"]
    assert len(said(caplog, "unconfirmed")) == 1


def test_the_profile_of_the_documents_asset_id_is_asked_with(robot: RetainingRobot) -> None:
    (log,) = robot.send("a.mcap")
    other = DeviceProfile(
        "robot-2", "api-key-2", {"site": "there"}, "http://auth", "http://gateway"
    )
    robot.gateway.profiles[other.api_key] = other
    robot.profiles.profiles = {"robot-2": other, PROFILE.asset_id: PROFILE}
    robot.assets["robot"] = "robot-2"
    robot.retention.delete_due()
    assert log.asset_id == PROFILE.asset_id
    assert robot.left() == []


def test_a_profile_file_that_is_missing_keeps_everything(robot: RetainingRobot) -> None:
    robot.send("a.mcap")
    robot.profiles.error = CloudError("DeviceProfiles", "profile_file")
    robot.retention.delete_due()
    assert robot.left() == ["a.mcap"]


# The tests below cover the gate.


def close_by_cloud(gate: Gate) -> None:
    error = CloudError("CreateLogicalUpload", "UNAVAILABLE")
    gate.close(error, judge(error))


@pytest.mark.parametrize(
    "close",
    [
        close_by_cloud,
        lambda gate: gate.hold("pause", "paused"),
        lambda gate: gate.hold("stopping", "it stops"),
    ],
    ids=["cloud", "pause", "stopping"],
)
def test_nobody_is_asked_through_a_closed_gate(
    robot: RetainingRobot, close: Callable[[Gate], None]
) -> None:
    robot.send("a.mcap")
    close(robot.gate)
    robot.gate.hold(HistoryFullError.code, "full")
    robot.retention.delete_due()
    assert robot.asked() == 0
    assert robot.left() == ["a.mcap"]


def test_a_full_disk_closes_the_gate_for_everything_but_what_frees_it(
    robot: RetainingRobot,
) -> None:
    robot.send("a.mcap")
    robot.history.full = True
    robot.gate.hold(HistoryFullError.code, "full")
    robot.retention.delete_due()
    assert robot.left() == []


def test_a_gate_that_nobody_is_left_to_probe_holds_up_no_longer_than_to_its_next_probe(
    robot: RetainingRobot,
) -> None:
    robot.send("a.mcap")
    close_by_cloud(robot.gate)
    robot.clock.advance(31)
    robot.retention.delete_due()
    assert robot.left() == []


# The tests below cover clocks.


def test_nothing_goes_by_age_while_the_clock_is_unknown(robot: RetainingRobot) -> None:
    retention = robot.retaining(keep_seconds=24 * HOUR)
    robot.send("a.mcap")
    robot.clock.set_now(1000)
    for _ in range(10):
        retention.delete_due()
        robot.clock.advance(DAY)
    assert robot.left() == ["a.mcap"]


def test_what_was_completed_in_1970_is_kept_from_when_this_process_saw_it(
    robot: RetainingRobot,
) -> None:
    right = robot.clock.now()
    robot.clock.set_now(1000)
    robot.send("a.mcap")
    assert (robot.log().completed_at or "").startswith("1970")
    retention = robot.retaining(keep_seconds=24 * HOUR)
    retention.delete_due()
    robot.clock.advance(HOUR)
    robot.clock.set_now(right)
    retention.delete_due()
    assert robot.left() == ["a.mcap"]
    robot.clock.advance(22.9 * HOUR)
    retention.delete_due()
    assert robot.left() == ["a.mcap"]
    robot.clock.advance(0.2 * HOUR)
    retention.delete_due()
    assert robot.left() == []


def test_a_clock_that_jumps_deletes_nothing(robot: RetainingRobot) -> None:
    retention = robot.retaining(keep_seconds=24 * HOUR)
    robot.send("a.mcap")
    for jump in (YEAR, -2 * YEAR, 3 * YEAR):
        robot.clock.set_now(max(robot.clock.now() + jump, BUILT))
        robot.clock.advance(10)
        retention.delete_due()
        assert robot.left() == ["a.mcap"]
    robot.clock.advance(25 * HOUR)
    robot.send("b.mcap")
    retention.delete_due()
    assert "b.mcap" in robot.left()


def test_a_jump_before_a_long_history_is_read_again_deletes_nothing(robot: RetainingRobot) -> None:
    retention = robot.retaining(keep_seconds=24 * HOUR)
    retention.delete_due()
    robot.send("a.mcap")
    robot.clock.set_now(robot.clock.now() + YEAR)
    retention.delete_due()
    assert robot.left() == ["a.mcap"]


def test_a_clock_that_is_set_after_a_start_in_1970_lets_go_what_is_old(
    robot: RetainingRobot,
) -> None:
    robot.send("a.mcap")
    right = robot.clock.now()
    robot.clock.set_now(1000)
    retention = robot.retaining(keep_seconds=24 * HOUR)
    retention.delete_due()
    robot.clock.advance(10)
    robot.clock.set_now(right + 25 * HOUR)
    retention.delete_due()
    assert robot.left() == []


def test_a_clock_that_is_lost_before_the_deed_deletes_nothing(robot: RetainingRobot) -> None:
    robot.send("a.mcap")
    robot.gate.hold("pause", "paused")
    robot.retention.delete_due()
    robot.clock.set_now(1000)
    robot.gate.release("pause")
    robot.retention.delete_due()
    assert robot.left() == ["a.mcap"]


def test_the_clouds_time_decides_where_it_is_known(robot: RetainingRobot) -> None:
    robot.send("a.mcap")
    right = robot.clock.now()
    robot.clock.set_now(right + YEAR)
    robot.store.offset = -YEAR
    # A new retention has not seen the jump of the clock.
    retention = robot.retaining(keep_seconds=24 * HOUR)
    retention.delete_due()
    assert robot.left() == ["a.mcap"]
    robot.clock.set_now(1000)
    robot.store.offset = right + 25 * HOUR - 1000
    robot.clock.advance(11)
    retention.delete_due()
    assert robot.left() == []


# The tests below cover free disk space.


def test_the_oldest_go_one_by_one_until_enough_is_free_whatever_their_age(
    robot: RetainingRobot, caplog: pytest.LogCaptureFixture
) -> None:
    robot.send("c.mcap", "a.mcap", "b.mcap", size=100_000)
    disk = Disk(robot.folder, 1_000_000)
    disk.watched = robot.folder
    retention = robot.retaining(min_free=850_000, free=disk)
    retention.delete_due()
    assert robot.left() == ["b.mcap"]
    assert {vars(record)["reason"] for record in said(caplog, "deleted")} == {
        "less than retention.min_free_gib was free"
    }
    robot.clock.advance(600)
    retention.delete_due()
    assert robot.left() == ["b.mcap"]
    assert robot.asked() == 2


def test_what_somebody_else_frees_meanwhile_counts(robot: RetainingRobot) -> None:
    robot.send("a.mcap", "b.mcap", "c.mcap", size=100_000)
    disk = Disk(robot.folder, 0)

    def free(call: str) -> None:
        if call == ASKED:
            disk.free = 10_000_000

    robot.gateway.before = free
    robot.retaining(min_free=9_000_000, free=disk).delete_due()
    assert robot.left() == ["b.mcap", "c.mcap"]


def test_a_disk_that_shows_late_what_was_freed_costs_no_recording_more(
    robot: RetainingRobot,
) -> None:
    robot.send("a.mcap", "b.mcap", "c.mcap", size=100_000)
    robot.retaining(min_free=1000, free=Disk(robot.folder, 0)).delete_due()
    assert robot.left() == ["b.mcap", "c.mcap"]


def test_nothing_goes_and_nobody_is_asked_while_enough_is_free(robot: RetainingRobot) -> None:
    robot.send("a.mcap")
    robot.history.newest_first = None  # type: ignore[assignment,method-assign] # the history is not even read
    robot.retaining(min_free=1000, free=Disk(robot.folder, 1000)).delete_due()
    assert robot.left() == ["a.mcap"]


def test_an_unsynced_recording_never_goes_and_what_holds_it_up_is_said_once(
    robot: RetainingRobot, caplog: pytest.LogCaptureFixture
) -> None:
    robot.gateway.fail("CreateLogicalUpload", times=10_000)
    for seed, name in enumerate(("a.mcap", "b.mcap")):
        write_mcap(robot.folder / name, seed=seed)
    robot.pass_time(16, steps=6)
    disk = Disk(robot.folder, 0)
    retention = robot.retaining(min_free=1000, free=disk)
    for _ in range(20):
        retention.delete_due()
        robot.clock.advance(10)
    (record,) = said(caplog, "space_short")
    assert "2 recordings are not uploaded yet" in record.getMessage()
    assert "the cloud is not asked" in record.getMessage()
    assert robot.left() == ["a.mcap", "b.mcap"]
    disk.free = 2000
    retention.delete_due()
    disk.free = 0
    for _ in range(2):
        retention.delete_due()
    assert len(said(caplog, "space_short")) == 2, "it is said again once it was over"


def test_a_recording_on_another_file_system_does_not_go_for_want_of_space(tmp_path: Path) -> None:
    robot = RetainingRobot(tmp_path / "recordings")
    (robot.folder / "disk").mkdir()
    with mounted(robot.folder / "disk"):
        robot.send("disk/a.mcap", "b.mcap", "disk/c.mcap", size=100_000)
        shutil.copy2(robot.folder / "b.mcap", robot.folder / "disk" / "copy-of-b.mcap")
        robot.discover.rescan()
        robot.pass_time(16, steps=6)
        retention = robot.retaining(min_free=10_000_000, free=Disk(robot.folder, 0))
        for _ in range(5):
            retention.delete_due()
            robot.clock.advance(900)
        assert robot.left() == ["disk/a.mcap", "disk/c.mcap", "disk/copy-of-b.mcap"]


def test_a_recording_whose_bytes_would_stay_does_not_go_for_want_of_space(
    robot: RetainingRobot, tmp_path: Path
) -> None:
    robot.send("a.mcap", "b.mcap", size=100_000)
    (tmp_path / "kept.mcap").hardlink_to(robot.folder / "a.mcap")
    (robot.folder / "b2.mcap").hardlink_to(robot.folder / "b.mcap")
    robot.discover.rescan()
    robot.pass_time(16, steps=6)
    robot.retaining(min_free=10_000_000, free=Disk(robot.folder, 0)).delete_due()
    assert robot.left() == ["a.mcap"]


# The tests below cover the cost of a run and stopping it.


def test_a_long_history_is_read_for_a_thousandth_of_the_time(
    robot: RetainingRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.send("a.mcap")
    reads, read = [], robot.history.newest_first

    def slowly(status: object = None) -> object:
        reads.append(robot.clock.monotonic())
        robot.clock.advance(3)
        return read("completed" if status else None)

    monkeypatch.setattr(robot.history, "newest_first", slowly)
    retention = robot.retaining(keep_seconds=YEAR)
    for _ in range(2000):
        retention.delete_due()
        robot.clock.advance(10)
    assert len(reads) >= 6
    assert min(after - before for before, after in pairwise(reads)) >= 3000


def test_an_agent_that_stops_deletes_nothing_more(robot: RetainingRobot) -> None:
    robot.send("a.mcap", "b.mcap", "c.mcap")

    def stop(call: str) -> None:
        if call == ASKED:
            assert not robot.retention.stop(0)

    robot.gateway.before = stop
    robot.retention.delete_due()
    assert robot.asked() == 1
    assert robot.retention.stop(0)
    robot.retention.delete_due()
    assert robot.left() == ["a.mcap", "b.mcap", "c.mcap"]


def test_a_look_asks_a_bounded_number_of_times(
    robot: RetainingRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.retention.confirm._MOST", 2)
    robot.send("a.mcap", "b.mcap", "c.mcap")
    robot.retention.delete_due()
    assert robot.left() == ["c.mcap"]
    robot.retention.delete_due()
    assert robot.left() == []


def test_a_power_cut_between_the_steps_leaves_a_companion_at_most(
    robot: RetainingRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.mcap", "b.mcap"):
        write_sidecar(robot.folder / name)
    robot.send("a.mcap", "b.mcap")

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Deletion, "delete_companions", cut)
        with pytest.raises(KeyboardInterrupt):
            robot.retention.delete_due()
    robot.restart()
    robot.pass_time(16, steps=6)
    robot.retention.delete_due()
    assert [path.name for path in robot.folder.iterdir()] == ["a.json"]


def test_a_recording_that_is_put_back_goes_again(robot: RetainingRobot, tmp_path: Path) -> None:
    (log,) = robot.send("a.mcap")
    shutil.copy2(log.path, tmp_path / "kept")
    robot.retention.delete_due()
    (tmp_path / "kept").rename(log.path)
    robot.pass_time(120, steps=20)
    robot.retention.delete_due()
    assert robot.left() == []
    assert len(robot.history.documents) == 1
