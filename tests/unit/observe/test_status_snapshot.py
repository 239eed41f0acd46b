"""The status document of a running agent, whose form is stable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli.status_lines import read_state_folder
from agent.discovery.report import DiskReport
from agent.dispatch.claim import Claim
from agent.model.errors import CloudError
from agent.model.sync_log import SyncLog
from agent.model.transfer import Transfer
from agent.model.values import utc_text
from agent.observe.status_snapshot import Rates, StatusSnapshot, status_line
from tests.harness.fakes.clock import FakeClock
from tests.harness.paths import REPOSITORY
from tests.harness.robot import Robot

MIB = 1024 * 1024


@pytest.fixture
def robot(tmp_path: Path) -> Robot:
    return Robot(tmp_path / "robot")


def snapshot(robot: Robot, failures: dict[Path, str] | None = None) -> StatusSnapshot:
    return StatusSnapshot(
        device_id="robot",
        history=robot.history,
        gate=robot.gate,
        dispatch=robot.dispatch,
        discover=robot.discover,
        credentials=robot.credentials,
        watcher_up=lambda: not failures,
        watch_failures=lambda: failures or {},
        unasked=lambda: 0,
        waiting_markers=lambda _: [Path("/data/a.mcap.resync")],
        clock=robot.clock,
        settings=lambda: {"restart_for": ["agent.state_dir"], "refused": ""},
        fault=lambda: {"message": "no such file", "hint": "put one there"},
    )


def snapshot_as_json(robot: Robot) -> dict[str, Any]:
    """Return the document as programs read it."""
    document: dict[str, Any] = json.loads(json.dumps(snapshot(robot).take()))
    return document


# These tests never read the upload terms of a claim.
_TERMS: Any = None


def claim(sent: int = 0, *, began: float = 1000.0) -> Claim:
    log = SyncLog(
        id=1, episode_id="e", path="/a.mcap", file_size=100 * MIB, mtime="", fingerprint="f"
    )
    transfer = Transfer(log.file_size)
    transfer.advance(sent)
    return Claim(log, _TERMS, transfer, probe=False, durable=True, began=began, causes=0)


def test_its_keys_are_promised(robot: Robot) -> None:
    robot.record()
    robot.dispatch.tick()
    document = snapshot_as_json(robot)
    assert list(document) == [
        "schema",
        "version",
        "device_id",
        "upgrade",
        "settings",
        "profiles",
        "gate",
        "uploads",
        "lease_remaining_seconds",
        "last_error",
        "watcher_up",
        "watch_failures",
        "unwatched_folders",
        "waiting_markers",
        "files",
        "held_files",
        "copies",
        "unreadable_folders",
        "not_deleted",
        "standing",
    ]
    assert list(document["uploads"][0]) == [
        "id",
        "episode_id",
        "path",
        "file_size",
        "bytes_sent",
        "bytes_per_second",
        "seconds_left",
        "probe",
    ]
    assert list(document["standing"]) == [
        "schema",
        "recordings",
        "queue_length",
        "backlog_bytes",
        "oldest_unsynced",
        "waiting",
        "waiting_count",
        "failed",
        "orphaned_uploads",
        "stuck_markers",
        "damaged_lines",
    ]


def test_the_page_for_operators_explains_every_key(robot: Robot) -> None:
    page = (REPOSITORY / "deploy" / "README.md").read_text(encoding="utf-8")
    document = snapshot_as_json(robot)
    summary = document.pop("standing")
    beside = read_state_folder(robot.folder)
    promised = (*document, *summary, *beside, "agent_failure")
    assert [key for key in promised if f"`{key}`" not in page] == []


def test_the_last_error_and_the_gate_say_what_to_do(robot: Robot) -> None:
    robot.profiles.error = CloudError("LoadProfiles", "profile_file", "there is none")
    log = robot.record()
    robot.run()
    document = snapshot_as_json(robot)
    assert (document["last_error"]["path"], document["last_error"]["code"]) == (
        log.path,
        "profile_file",
    )
    assert document["gate"]["reason"] == document["last_error"]["message"]
    assert document["gate"]["hint"] == document["last_error"]["hint"] != ""
    assert document["standing"]["queue_length"] == 1


def test_what_failed_for_good_is_named_until_it_is_tried_anew(robot: Robot) -> None:
    log = robot.record()
    robot.history.move(log.id, "claimed")
    robot.history.move(log.id, "gave_up")
    assert [item["id"] for item in snapshot_as_json(robot)["standing"]["failed"]] == [log.id]
    robot.history.add(log)
    assert snapshot_as_json(robot)["standing"]["failed"] == []


def test_what_lies_on_the_disk_is_walked_over_again_only_when_it_or_the_clock_has_changed(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[float] = []
    report = robot.discover.report

    def counted(most: int) -> DiskReport:
        walks.append(robot.clock.monotonic())
        return report(most)

    def scanned() -> tuple[int, list[str]]:
        """Do a scan. Return the number of walks so far, and the files that wait."""
        robot.clock.advance(61)
        robot.discover.step()
        waiting = picture.take()["files"]["waiting"]
        return len(walks), waiting

    monkeypatch.setattr(robot.discover, "report", counted)
    picture = snapshot(robot)
    assert [scanned(), scanned(), scanned()] == [(1, [])] * 3
    (robot.folder / "a.mcap").write_bytes(b"\x89MCAP0\r\n")
    walked, [told] = scanned()
    assert (walked, "2026" in told) == (2, True)
    robot.clock.set_now(2_000_000_000.0)
    assert "2033" in picture.take()["files"]["waiting"][0]


def test_folders_that_cannot_be_watched_are_named(robot: Robot) -> None:
    document = snapshot(robot, {Path("/data"): "no space left on device"}).take()
    assert document["watcher_up"] is False
    assert document["unwatched_folders"] == [
        {"path": "/data", "message": "no space left on device"}
    ]
    # This key of version 0.1 stays until 0.3.
    assert document["watch_failures"] == ["/data (no space left on device)"]


def test_a_file_that_is_no_recording_yet_has_its_time_and_reason_as_fields(
    robot: Robot,
) -> None:
    robot.clock.advance(61)
    path = robot.folder / "a.mcap"
    path.write_bytes(b"\x89MCAP0\r\n")
    robot.discover.step()
    since = utc_text(round(robot.clock.now()))
    robot.clock.advance(5)
    document = snapshot_as_json(robot)
    [held] = document["held_files"]
    assert list(held) == ["path", "state", "since", "reason", "message"]
    assert (held["path"], held["since"]) == (str(path), since)
    assert (held["state"], held["reason"]) == ("settling", "settling")
    # This key of version 0.1 stays until 0.3.
    assert document["files"]["waiting"] == [f"{path} ({held['message']}, no change since {since})"]


def test_copies_and_folders_that_cannot_be_read_are_paths(
    robot: Robot, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Path("/data/closed")
    report = DiskReport(
        counts=dict.fromkeys(("complete", "damaged", "skipped", "recording"), 0),
        copies=[[Path("/data/a.mcap"), Path("/data/b = c.mcap")]],
        unreadable_folders={closed: "Permission denied"},
    )
    monkeypatch.setattr(robot.discover, "report", lambda _most: report)
    robot.discover.step()
    document = snapshot_as_json(robot)
    assert document["copies"] == [["/data/a.mcap", "/data/b = c.mcap"]]
    assert document["unreadable_folders"] == [{"path": str(closed), "message": "Permission denied"}]
    assert document["files"]["copies"] == ["/data/a.mcap = /data/b = c.mcap"]
    assert document["files"]["unreadable"] == [f"{closed} (Permission denied)"]


def test_a_rate_is_of_the_last_seconds_not_of_the_whole_upload() -> None:
    clock = FakeClock()
    rates, upload = Rates(clock), claim()
    for _ in range(30):
        clock.advance(2)
        upload.transfer.advance(2 * MIB)
        (rate,) = rates.of([upload])
    assert rate == pytest.approx(MIB)
    for _ in range(6):
        clock.advance(2)
        upload.transfer.advance(8 * MIB)
        (rate,) = rates.of([upload])
    assert rate == pytest.approx(4 * MIB)
    clock.advance(5)
    rates.of([upload])
    clock.advance(11)
    assert rates.of([upload]) == [0]


def test_a_rate_is_known_from_the_first_second_and_never_below_nothing() -> None:
    clock = FakeClock()
    rates, upload = Rates(clock), claim(3 * MIB)
    clock.advance(1)
    assert rates.of([upload]) == [3 * MIB]
    # One part must be sent again.
    upload.transfer.advance(-3 * MIB)
    clock.advance(1)
    assert rates.of([upload]) == [0]


def test_a_new_claim_of_the_same_document_begins_anew() -> None:
    clock = FakeClock()
    rates = Rates(clock)
    clock.advance(100)
    rates.of([claim(50 * MIB)])
    clock.advance(1)
    assert rates.of([claim(MIB, began=clock.monotonic() - 1)]) == [MIB]
    assert rates.of([]) == []


def test_a_picture_in_one_line_names_what_closes_the_gate() -> None:
    seen: dict[str, Any] = {"gate": None, "uploads": [{}], "standing": {"queue_length": 3}}
    assert status_line(seen) == "1 uploading, 3 in the queue"
    assert (
        status_line({**seen, "gate": {"reason": "no network"}})
        == "1 uploading, 3 in the queue; gate closed: no network"
    )
