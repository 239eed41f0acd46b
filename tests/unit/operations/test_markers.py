"""Marker files on real disks.

Each marker is handled exactly once, and is deleted only when the outcome is durable.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.model.sync_log import Marker
from agent.model.touch_files import target_of
from agent.model.values import Sighting
from agent.operations import marker_file
from agent.operations import markers as markers_module
from agent.operations.requests import BATCH
from tests.harness.fakes.gateway import PROFILE
from tests.harness.power_failure import PowerFailure
from tests.harness.recorders import damaged, dated, write_mcap, write_sidecar
from tests.harness.robot import UploadedRobot


class MarkerRobot(UploadedRobot):
    """A robot whose recordings are uploaded, and the markers that an operator drops."""

    def touch(self, name: str, text: str = "", *, noticed: bool = True) -> Path:
        """Drop a marker beside the recordings."""
        path = self.folder / name
        path.write_text(text)
        if noticed:
            self.discover.sight(Sighting(path))
        return path

    def touch_by_name(self, name: str, text: str = "") -> Path:
        """Drop a marker in the folder for markers."""
        path = self.marked / name
        path.write_text(text)
        return path

    def asked(self, since: int = 1) -> list[tuple[str, bool, str, str]]:
        """Return the documents after the id ``since``.

        Each is given by its file, whether it is a resync, who asked for it, and why.
        """
        return [
            (Path(log.path).name, log.resync, log.trigger, log.reason)
            for log in self.history.documents.values()
            if log.id > since
        ]


@pytest.fixture
def robot(tmp_path: Path) -> MarkerRobot:
    return MarkerRobot(tmp_path / "recordings", "a.mcap")


def why(marker: Path) -> str:
    """Return the reason that replaced a rejected marker."""
    assert not marker.exists()
    return marker.with_name(f"{marker.name}.rejected").read_text("utf-8")


# The tests below cover what each marker does.


def test_a_touch_beside_a_recording_uploads_it_again_and_the_marker_goes(
    robot: MarkerRobot,
) -> None:
    before = robot.log(1)
    marker = robot.touch("a.mcap.resync", "too dark\nin the shelf\x1b[0m")
    robot.run_due_work()
    assert not marker.exists()
    assert robot.asked() == [("a.mcap", True, "marker", "too dark in the shelf [0m")]
    assert robot.log(1) == before
    assert robot.log(2).status == "completed"
    assert robot.history.markers == {}


def test_a_reason_is_cut_to_a_thousand_characters(robot: MarkerRobot) -> None:
    robot.touch("a.mcap.resync", "é" * 5000)
    robot.run_due_work()
    assert robot.log(2).reason == "é" * 1000


def test_a_second_touch_while_the_resync_waits_adds_nothing(robot: MarkerRobot) -> None:
    robot.gate.hold("test", "the test says so")
    for _ in range(3):
        marker = robot.touch("a.mcap.resync")
        robot.run_due_work()
        assert not marker.exists()
    assert robot.asked() == [("a.mcap", True, "marker", "")]


def test_a_touch_after_the_resync_has_ended_uploads_it_once_more(robot: MarkerRobot) -> None:
    for _ in range(2):
        robot.touch("a.mcap.resync")
        robot.settle()
    assert robot.history.counts()["completed"] == 3


def test_first_puts_a_recording_ahead_of_the_queue(tmp_path: Path) -> None:
    robot = MarkerRobot(tmp_path / "recordings")
    robot.gate.hold("test", "the test says so")
    for seed in range(3):
        write_mcap(robot.folder / f"{seed}.mcap", seed=seed)
    robot.settle()
    marker = robot.touch("2.mcap.first")
    robot.run_due_work()
    assert not marker.exists()
    robot.gate.release("test")
    robot.dispatch.tick()
    assert [claim.log.path for claim in robot.dispatch.in_flight()] == [
        str(robot.folder / "2.mcap")
    ]


def test_first_of_what_is_uploaded_says_so_in_the_place_of_the_marker(robot: MarkerRobot) -> None:
    marker = robot.touch("a.mcap.first")
    robot.run_due_work()
    assert "uploaded already; a resync sends it again" in why(marker)
    assert robot.asked() == []


def test_a_touch_in_a_folder_uploads_all_in_it_and_below_again(tmp_path: Path) -> None:
    robot = MarkerRobot(tmp_path / "recordings", "day/a.mcap", "day/night/b.mcap", "other.mcap")
    marker = robot.touch("day/.resync", "all of it")
    robot.settle()
    assert not marker.exists()
    assert robot.asked(3) == [
        ("a.mcap", True, "marker", "all of it"),
        ("b.mcap", True, "marker", "all of it"),
    ]


def test_a_touch_in_the_watched_folder_itself_uploads_everything_again(robot: MarkerRobot) -> None:
    robot.touch(".resync", noticed=False)
    robot.settle()
    assert robot.asked() == [("a.mcap", True, "marker", "")]


def test_a_folder_marker_needs_no_wait_for_the_next_scan(robot: MarkerRobot) -> None:
    marker = robot.touch(".resync")
    for _ in range(4):
        robot.pass_time(1, steps=1)
    assert not marker.exists()


def test_a_folder_without_a_recording_is_said_to_have_none(robot: MarkerRobot) -> None:
    (robot.folder / "empty").mkdir()
    marker = robot.touch("empty/.resync")
    robot.settle()
    assert "no finished recording" in why(marker)


def test_a_folder_waits_for_what_was_dropped_there_just_before(robot: MarkerRobot) -> None:
    robot.gate.hold("test", "the test says so")
    write_mcap(robot.folder / "b.mcap", size=2000, seed=9)
    marker = robot.touch(".resync")
    robot.run_due_work()
    robot.discover.rescan()
    robot.clock.advance(2)
    robot.run_due_work()
    assert marker.exists()
    robot.settle()
    assert not marker.exists()
    assert sorted(log.path[-6:] for log in robot.history.open()) == ["a.mcap", "b.mcap"]


@pytest.mark.parametrize("moved", [False, True])
def test_an_episode_is_uploaded_again_wherever_it_lies_now(tmp_path: Path, moved: bool) -> None:
    robot = MarkerRobot(tmp_path / "recordings")
    write_sidecar(write_mcap(robot.folder / "a.mcap"), {"episode_id": "ep-7"})
    robot.settle()
    if moved:
        (robot.folder / "a.mcap").rename(robot.folder / "b.mcap")
        (robot.folder / "a.json").unlink()
        robot.restart()
    marker = robot.touch_by_name("ep-7.resync", "once more")
    robot.settle()
    assert not marker.exists()
    assert robot.asked() == [("b.mcap" if moved else "a.mcap", True, "marker", "once more")]


def test_an_episode_that_nobody_knows_is_rejected_with_the_reason(robot: MarkerRobot) -> None:
    marker = robot.touch_by_name("ep-8.resync")
    robot.run_due_work()
    assert "no episode of this name" in why(marker)


def test_an_episode_whose_file_is_gone_is_rejected_with_the_reason(robot: MarkerRobot) -> None:
    episode = robot.log(1).episode_id
    (robot.folder / "a.mcap").unlink()
    robot.settle()
    marker = robot.touch_by_name(f"{episode}.resync")
    robot.run_due_work()
    assert "no longer on this robot" in why(marker)


def test_pause_holds_the_gate_while_it_exists_also_across_a_restart(robot: MarkerRobot) -> None:
    pause = robot.touch_by_name("pause")
    robot.run_due_work()
    closed = robot.gate.closed()
    assert closed is not None
    assert (closed.code, "resume" in closed.hint) == ("pause", True)
    robot.touch("a.mcap.resync")
    robot.restart()
    robot.dispatch.tick()
    robot.settle()
    assert robot.asked() == [("a.mcap", True, "marker", "")]
    assert robot.log(2).status == "pending"
    pause.unlink()
    robot.run_due_work()
    assert robot.log(2).status == "completed"


def test_a_folder_is_asked_for_with_what_has_changed_unnoticed_though_a_scan_began_that_spares_most(
    tmp_path: Path,
) -> None:
    robot = MarkerRobot(tmp_path / "recordings", *(f"d/{number}.mcap" for number in range(6)))
    for number in range(6):
        write_mcap(robot.folder / "d" / f"{number}.mcap", seed=50 + number)
    marker = robot.folder / "d" / ".resync"
    # An open marker is still being written, so it is not handled.
    with marker.open("w") as writing:
        robot.clock.advance(robot.discover.next_step() - robot.clock.monotonic() - 3)
        robot.discover.sight(Sighting(marker))
        robot.discover_due()
        robot.clock.advance(4)
        robot.discover_due()
        assert marker.exists()
        writing.write("calibration")
    while marker.exists():
        robot.pass_time(1, steps=1)
    assert {name for name, *_ in robot.asked(since=6)} == {f"{number}.mcap" for number in range(6)}


def test_rescan_looks_at_everything_and_goes_when_that_is_done(robot: MarkerRobot) -> None:
    scans = robot.discover.scans
    marker = robot.touch_by_name("rescan")
    robot.run_due_work()
    assert marker.exists()
    robot.pass_time(4)
    assert not marker.exists()
    assert robot.discover.scans == scans + 1


def test_a_rescan_that_can_not_be_removed_is_heeded_once(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = robot.discover.scans
    robot.touch_by_name("rescan")
    monkeypatch.setattr(marker_file, "unlink", read_only)
    robot.pass_time(40, steps=20)
    assert robot.discover.scans == scans + 1


def test_compressed_recordings_have_markers_too() -> None:
    assert target_of("bag_0.mcap.zstd.resync") == "bag_0.mcap.zstd"
    assert target_of("a.mcap.first.resync") == "a.mcap.first"
    assert target_of("a.mcap") is None


# The tests below cover markers that wait, and markers that cannot be handled.


def test_a_marker_for_a_recording_that_still_settles_waits(robot: MarkerRobot) -> None:
    path = write_mcap(robot.folder / "b.mcap", seed=5)
    robot.discover.sight(Sighting(path))
    marker = robot.touch("b.mcap.resync")
    robot.run_due_work()
    assert marker.exists()
    assert robot.markers.report().waiting == [marker]
    robot.settle()
    assert not marker.exists()
    assert robot.asked() == [("b.mcap", False, "discovered", "")]


def test_a_marker_for_what_is_still_being_recorded_waits_and_costs_nothing_meanwhile(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = write_mcap(robot.folder / "aside.tmp", seed=5).read_bytes()
    (robot.folder / "b.mcap").write_bytes(content[:-100])
    robot.settle()
    marker = robot.touch("b.mcap.first")
    robot.run_due_work()
    tried = []

    def at(path: Path, **_asked: object) -> None:
        tried.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(robot.requests, "at", at)
        robot.pass_time(30, steps=30)
    assert tried == []
    assert marker.exists()
    (robot.folder / "b.mcap").write_bytes(content)
    robot.settle()
    assert not marker.exists()


def test_new_bytes_in_the_place_of_a_known_recording_have_to_settle_first(
    robot: MarkerRobot,
) -> None:
    # Discovery has not seen the new bytes yet.
    write_mcap(robot.folder / "a.mcap", size=2000, seed=77)
    marker = robot.touch("a.mcap.resync")
    robot.run_due_work()
    assert marker.exists()
    robot.settle()
    assert robot.asked() == [("a.mcap", False, "discovered", "")]


def test_a_marker_for_no_recording_is_rejected_with_the_reason(robot: MarkerRobot) -> None:
    marker = robot.touch("typo.mcap.resync")
    robot.run_due_work()
    assert why(marker) == f"{robot.folder / 'typo.mcap'}: there is no such file\n"
    assert robot.history.markers == {}


def test_a_damaged_file_is_sent_as_it_is(robot: MarkerRobot) -> None:
    damaged(robot.folder / "b.mcap")
    robot.settle()
    marker = robot.touch("b.mcap.resync")
    robot.settle()
    assert not marker.exists()
    log = next(robot.history.newest_first())
    assert (log.status, log.trigger, log.raw_tags["mcap_complete"]) == (
        "completed",
        "marker",
        "false",
    )


def test_a_marker_for_an_excluded_recording_is_rejected_after_a_scan(robot: MarkerRobot) -> None:
    write_mcap(robot.folder / ".hidden.mcap", seed=5)
    marker = robot.touch(".hidden.mcap.resync")
    robot.run_due_work()
    assert marker.exists()
    robot.settle()
    assert "watch.exclude" in why(marker)


def test_other_files_that_end_like_markers_are_left_alone(robot: MarkerRobot) -> None:
    notes = robot.touch("notes.first", "mine")
    robot.settle()
    assert notes.read_text() == "mine"


def test_a_bag_of_another_format_is_told_that_it_is_no_recording(robot: MarkerRobot) -> None:
    (robot.folder / "a.db3").write_bytes(b"SQLite")
    marker = robot.touch("a.db3.resync")
    robot.settle()
    assert "watch.include" in why(marker)


@pytest.mark.parametrize("name", ["..resync", "...resync", "..first"])
def test_a_strange_name_keeps_no_other_marker_waiting(robot: MarkerRobot, name: str) -> None:
    robot.touch(name)
    robot.touch("a.mcap.resync")
    robot.settle()
    assert robot.asked() == [("a.mcap", True, "marker", "")]


def test_a_mistake_over_one_marker_keeps_no_other_waiting_and_is_logged_once(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    episode = robot.requests.episode
    monkeypatch.setattr(
        robot.requests,
        "episode",
        lambda name, **asked: 1 / 0 if name == "bad" else episode(name, **asked),
    )
    bad = robot.touch_by_name("bad.resync")
    robot.touch_by_name(f"{robot.log(1).episode_id}.resync")
    robot.settle()
    assert bad.exists()
    assert robot.asked() == [("a.mcap", True, "marker", "")]
    assert len([record for record in caplog.records if "could not handle" in record.message]) == 1


def test_pipes_links_and_folders_are_no_markers(robot: MarkerRobot) -> None:
    os.mkfifo(robot.folder / "a.mcap.resync")
    (robot.folder / "a.mcap.first").symlink_to(robot.folder / "a.mcap")
    (robot.folder / ".resync").mkdir()
    robot.settle()
    assert robot.asked() == []
    assert (robot.folder / "a.mcap.first").is_symlink()


def test_a_marker_that_is_taken_back_while_it_waits_does_nothing(robot: MarkerRobot) -> None:
    path = write_mcap(robot.folder / "b.mcap", seed=5)
    robot.discover.sight(Sighting(path))
    marker = robot.touch("b.mcap.resync")
    robot.run_due_work()
    marker.unlink()
    robot.settle()
    assert robot.asked() == [("b.mcap", False, "discovered", "")]
    assert robot.markers.report().waiting == []
    assert not marker.with_name("b.mcap.resync.rejected").exists()


def test_a_full_disk_keeps_the_marker_and_it_is_served_afterwards(robot: MarkerRobot) -> None:
    marker = robot.touch("a.mcap.resync")
    robot.history.full = True
    robot.pass_time(8)
    assert marker.exists()
    assert robot.asked() == []
    robot.history.full = False
    robot.pass_time(60)
    assert not marker.exists()
    assert robot.asked() == [("a.mcap", True, "marker", "")]


# The tests below cover requests that commands left.


def request(robot: MarkerRobot, /, **asked: Any) -> Path:
    return robot.touch_by_name("1.request", json.dumps(asked))


def test_what_a_command_left_while_no_agent_ran_is_done_after_the_start(tmp_path: Path) -> None:
    robot = MarkerRobot(tmp_path / "recordings", "day/a.mcap", "day/b.mcap")
    for number, target in enumerate([robot.folder / "day" / "a.mcap", robot.folder / "day"]):
        left = robot.touch_by_name(
            f"{number}.request",
            json.dumps({"ask": "resync", "target": str(target), "reason": "why not"}),
        )
    robot.restart()
    robot.run_due_work()
    robot.settle()
    assert not left.exists()
    assert robot.asked(2) == [
        ("a.mcap", True, "cli", "why not"),
        ("b.mcap", True, "cli", "why not"),
    ]
    assert [path.name for path in robot.marked.iterdir()] == []


def test_a_folder_in_a_request_goes_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = MarkerRobot(tmp_path / "recordings", *(f"{number}.mcap" for number in range(5)))
    monkeypatch.setattr(markers_module, "BATCH", 2)
    left = request(robot, ask="first", target=str(robot.folder), reason="")
    robot.settle()
    assert not left.with_name("1.request.rejected").exists()
    request(robot, ask="resync", target=str(robot.folder), reason="")
    robot.settle()
    assert len(robot.asked(5)) == 5


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "[1]", '{"ask": "dance", "target": "/a"}', '{"ask": "resync"}'],
)
def test_a_request_that_is_none_is_rejected(robot: MarkerRobot, text: str) -> None:
    left = robot.touch_by_name("1.request", text)
    robot.run_due_work()
    assert "no request of keystone-agent" in why(left)


@pytest.mark.parametrize("target", ["\ud800", "/a\0b", "\0"])
def test_a_request_for_what_can_not_be_a_name_is_rejected(robot: MarkerRobot, target: str) -> None:
    left = request(robot, ask="resync", target=target, reason="")
    robot.run_due_work()
    assert "no request of keystone-agent" in why(left)


def test_an_asset_id_that_a_command_left_is_bound(robot: MarkerRobot) -> None:
    request(robot, ask="asset", robot="arm-7", asset=PROFILE.asset_id)
    robot.run_due_work()
    assert json.loads((robot.marked.parent / "assets.json").read_text()) == {
        "arm-7": PROFILE.asset_id
    }


def test_an_asset_id_that_is_refused_says_why(robot: MarkerRobot) -> None:
    left = request(robot, ask="asset", robot="arm-7", asset="nobody")
    robot.run_due_work()
    assert "has no asset nobody" in why(left)


# The tests below cover markers that cannot be deleted.


def read_only(_marker: Marker) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("name", ["a.mcap.resync", ".resync"])
def test_a_marker_that_can_not_be_removed_is_served_once_and_said_once_also_across_restarts(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    monkeypatch.setattr(marker_file, "unlink", read_only)
    marker = robot.touch(name)
    for _ in range(3):
        robot.settle()
        robot.settle()
        robot.restart()
    assert marker.exists()
    assert robot.asked() == [("a.mcap", True, "marker", "")]
    (said,) = warnings(caplog)
    assert "Delete it, or leave it" in said
    monkeypatch.undo()
    robot.settle()
    assert not marker.exists()
    assert (robot.history.markers, robot.markers.report().kept) == ({}, [])


def test_it_is_served_again_when_it_is_touched_again(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker_file, "unlink", read_only)
    for moment in (1_700_000_000, 1_700_000_001):
        os.utime(robot.touch("a.mcap.resync"), (moment, moment))
        robot.settle()
    assert robot.history.counts()["completed"] == 3


def test_one_that_its_operator_removes_is_forgotten(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker_file, "unlink", read_only)
    marker = robot.touch("a.mcap.resync")
    robot.settle()
    assert robot.markers.report().kept == [marker]
    marker.unlink()
    robot.settle()
    assert (robot.history.markers, robot.markers.report().kept) == ({}, [])


def test_one_on_a_disk_that_is_away_is_remembered(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marker_file, "unlink", read_only)
    robot.touch("a.mcap.resync")
    robot.settle()
    robot.folder.rename(robot.folder.with_name("away"))
    robot.settle()
    robot.folder.with_name("away").rename(robot.folder)
    robot.settle()
    assert robot.asked() == [("a.mcap", True, "marker", "")]


def test_one_that_can_not_be_rejected_in_place_is_said_once_also_across_restarts(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(marker_file, "put", full)
    monkeypatch.setattr(marker_file, "unlink", read_only)
    marker = robot.touch("typo.mcap.resync")
    for _ in range(3):
        robot.settle()
        robot.restart()
    assert marker.exists()
    rejected, kept = warnings(caplog)
    assert rejected.startswith(f"marker {marker} was rejected: ")
    assert kept.startswith(f"could not write the reason why {marker} was rejected: ")


def test_a_marker_dropped_while_the_one_before_it_is_served_is_not_lost(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.gate.hold("test", "the test says so")
    unlink = marker_file.unlink

    def late(marker: Marker) -> None:
        # The operator touches the marker again at this moment.
        os.utime(marker.path, (1_700_000_009, 1_700_000_009))
        unlink(marker)

    marker = robot.touch("a.mcap.resync")
    monkeypatch.setattr(marker_file, "unlink", late)
    robot.run_due_work()
    monkeypatch.undo()
    assert marker.exists()
    robot.discover.sight(Sighting(marker))
    robot.run_due_work()
    assert not marker.exists()


# The tests below cover strange dates and mistakes in the agent.


def test_a_touch_of_any_date_is_served_once(wide: Path) -> None:
    robot = MarkerRobot(wide / "recordings", "a.mcap")
    for number, seconds in enumerate((2**62, -(2**62))):
        marker = dated(robot.touch("a.mcap.resync", noticed=False), seconds)
        robot.discover.sight(Sighting(marker))
        robot.settle()
        assert not marker.exists()
        assert len(robot.asked()) == number + 1


def test_a_mistake_over_one_marker_is_said_once_and_keeps_no_other_waiting(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = robot.touch_by_name("a.resync"), robot.touch("a.mcap.resync")
    seen = marker_file.marker_at

    def failing(path: Path) -> Marker | None:
        if path == bad:
            raise ZeroDivisionError("oops")
        return seen(path)

    monkeypatch.setattr(marker_file, "marker_at", failing)
    for _ in range(3):
        robot.run_due_work()
    assert not good.exists()
    assert [str(bad) in record.getMessage() for record in caplog.records if record.exc_info] == [
        True
    ]


def test_a_marker_behind_a_folder_that_was_closed_keeps_no_other_waiting(
    robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (robot.folder / "closed" / "below").mkdir(parents=True)
    behind = robot.touch("closed/below/a.mcap.resync")
    good = robot.touch("a.mcap.resync")

    def closed(call: Callable[..., Any]) -> Callable[..., Any]:
        def asked(path: Any, **named: Any) -> Any:
            if str(path).startswith(f"{robot.folder}/closed/"):
                raise PermissionError(errno.EACCES, "Permission denied")
            return call(path, **named)

        return asked

    monkeypatch.setattr(Path, "lstat", closed(Path.lstat))
    monkeypatch.setattr(os, "stat", closed(os.stat))
    robot.run_due_work()
    monkeypatch.undo()
    assert behind.exists()
    assert not good.exists()
    assert not caplog.records


# The tests below cover crashes.


class CountedWrites:
    """A counter of the writes to history and disk that handling makes.

    The power fails at the write with the number ``fails_at``.
    """

    def __init__(self, robot: MarkerRobot, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
        self.made = 0
        self._fails_at = fails_at
        robot.history.before = lambda _call: self.step()
        for name in ("unlink", "sync_folder", "put"):
            monkeypatch.setattr(marker_file, name, self._around(getattr(marker_file, name)))

    def step(self) -> None:
        self.made += 1
        if self.made == self._fails_at:
            raise PowerFailure

    def _around(self, call: Callable[..., None]) -> Callable[..., None]:
        def around(*arguments: Any, **named: Any) -> None:
            self.step()
            call(*arguments, **named)
            self.step()

        return around


def beside(robot: MarkerRobot) -> Path:
    return robot.touch("day/a.mcap.resync")


def in_folder(robot: MarkerRobot) -> Path:
    return robot.touch("day/.resync")


def by_episode(robot: MarkerRobot) -> Path:
    return robot.touch_by_name(f"{robot.log(1).episode_id}.resync")


def by_request(robot: MarkerRobot) -> Path:
    return request(robot, ask="resync", target=str(robot.folder / "day"), reason="")


@pytest.mark.parametrize(
    ("drop", "recordings"), [(beside, 1), (in_folder, 3), (by_episode, 1), (by_request, 3)]
)
def test_whenever_the_power_fails_a_marker_is_served_exactly_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drop: Callable[[MarkerRobot], Path],
    recordings: int,
) -> None:
    monkeypatch.setattr(markers_module, "BATCH", 2)
    for fails_at in range(1, 200):
        robot = MarkerRobot(tmp_path / str(fails_at), "day/a.mcap", "day/b.mcap", "day/c.mcap")
        ended = dict(robot.history.documents)
        robot.gate.hold("test", "the test says so")
        marker = drop(robot)
        with monkeypatch.context() as patch:
            steps = CountedWrites(robot, patch, fails_at)
            for _ in range(6):
                try:
                    robot.pass_time(4, steps=2)
                except PowerFailure:
                    robot.restart()
                    robot.gate.hold("test", "the test says so")
                if not marker.exists():
                    assert len(robot.asked(3)) == recordings, (
                        "a marker goes only when its outcome is durable"
                    )
        robot.settle()
        assert not marker.exists()
        assert len(robot.asked(3)) == recordings
        assert {id_: robot.log(id_) for id_ in ended} == ended
        assert robot.history.markers == {}
        if steps.made < fails_at:
            assert fails_at > 5
            return
    pytest.fail("it never ends")


def test_whenever_the_power_fails_a_rejected_marker_leaves_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fails_at in range(1, 50):
        robot = MarkerRobot(tmp_path / str(fails_at), "a.mcap")
        marker = robot.touch("typo.mcap.resync")
        with monkeypatch.context() as patch:
            steps = CountedWrites(robot, patch, fails_at)
            for _ in range(3):
                try:
                    robot.pass_time(4, steps=2)
                except PowerFailure:
                    robot.restart()
                assert marker.exists() or why(marker)
        robot.settle()
        assert "no such file" in why(marker)
        if steps.made < fails_at:
            assert fails_at > 3
            return
    pytest.fail("it never ends")


# The tests below cover very many markers.


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_storm_of_markers_costs_few_transactions_and_little_memory(
    robot: MarkerRobot,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    count: int,
) -> None:
    # The log records that pytest keeps must not count as memory of the agent.
    caplog.set_level(logging.CRITICAL, "agent")
    for number in range(count):
        (robot.marked / f"{robot.log(1).episode_id}.resync").touch()
        (robot.folder / f"a-{number}.mcap.resync").touch()
        (robot.folder / f"a-{number}.mcap").hardlink_to(
            robot.folder / "a.mcap"
        ) if number < 100 else None
    writes: list[str] = []
    robot.history.before = writes.append
    robot.gate.hold("test", "the test says so")
    # Writing without fsync makes the test faster.
    monkeypatch.setattr(marker_file, "put", lambda path, data, **_: path.write_bytes(data))
    tracemalloc.start()
    robot.settle()
    _, memory = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not list(robot.folder.glob("*.resync"))
    assert len(list(robot.folder.glob("*.rejected"))) == count - 100
    assert robot.asked() == [("a.mcap", True, "marker", "")]
    assert len(writes) <= 4 * (count / BATCH + 3)
    assert memory < 16 << 20
    assert robot.markers.report().waiting == []


# The tests below cover the folder for markers.


def test_the_folder_is_open_to_the_group_of_the_folder_above(tmp_path: Path) -> None:
    robot = MarkerRobot(tmp_path / "recordings")
    state = robot.marked.stat()
    assert state.st_mode & 0o7777 == 0o2770
    assert state.st_gid == robot.marked.parent.stat().st_gid


def test_without_the_folder_everything_else_goes_on(robot: MarkerRobot) -> None:
    robot.marked.rmdir()
    robot.touch("a.mcap.resync")
    robot.settle()
    assert robot.asked() == [("a.mcap", True, "marker", "")]


def test_reasons_in_the_folder_are_known_to_those_who_ask(robot: MarkerRobot) -> None:
    marker = robot.touch_by_name("ep-8.resync")
    robot.settle()
    assert robot.markers.report().rejected == [marker.with_name("ep-8.resync.rejected")]
