"""Hostile markers, disks that refuse, and the real history. All tests use real files."""

from __future__ import annotations

import errno
import json
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.history import TinyHistory
from agent.model.values import Sighting
from agent.operations import marker_file
from agent.operations import markers as markers_module
from agent.operations.marker_file import MarkerRejectedError
from agent.operations.requests import BATCH
from tests.harness.fakes.clock import FakeClock
from tests.harness.power_failure import PowerFailure
from tests.harness.recorders import write_mcap, write_sidecar
from tests.harness.robot import Robot

# The user and group id of the user "nobody".
_NOBODY = 65534


class RealHistory(TinyHistory):
    """The history in its real files."""

    def __init__(self, folder: Path, clock: FakeClock) -> None:
        super().__init__(folder, clock, reserve=1 << 20)
        self._folder, self._fake = folder, clock
        self.full = False

    def reopened(self) -> RealHistory:
        """Close the history and return it as the next start reads it from the files."""
        self.close()
        return RealHistory(self._folder, self._fake)


class RealHistoryRobot(Robot):
    """A robot with the real history, whose recordings are uploaded."""

    history: Any

    def __init__(self, folder: Path, *names: str) -> None:
        self.journal = folder.parent / f"{folder.name}-history"
        super().__init__(folder)
        for seed, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_mcap(folder / name, size=1000, seed=seed)
        self.settle()
        assert self.history.counts()["completed"] == len(names)
        self.gate.hold("test", "the test says so")

    def restart(self, **changes: Mapping[str, Any]) -> None:
        if not isinstance(self.history, RealHistory):
            self.history = RealHistory(self.journal, self.clock)
        super().restart(**changes)

    def again(self) -> None:
        """Start the robot again, while the gate is held."""
        self.restart()
        self.gate.hold("test", "the test says so")

    def touch(self, path: Path, text: str | bytes = b"") -> Path:
        """Drop a marker and report it to discovery."""
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        self.discover.sight(Sighting(path))
        return path

    def asked(self) -> list[tuple[str, bool, str]]:
        """Return the requested recordings, the oldest first.

        Each is given by its file, whether it is a resync, and why.
        """
        logs = [log for log in self.history.newest_first() if log.trigger in ("marker", "cli")]
        return [(Path(log.path).name, log.resync, log.reason) for log in reversed(logs)]


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[RealHistoryRobot]:
    robot = RealHistoryRobot(tmp_path / "recordings", "a.mcap")
    yield robot
    robot.history.close()


def why(marker: Path) -> str:
    """Return the reason that replaced a rejected marker."""
    assert not marker.exists()
    return marker.with_name(f"{marker.name}.rejected").read_text("utf-8")


# The tests below cover requests of strangers.


@pytest.mark.parametrize(
    "asked",
    [
        {"ask": "resync", "target": ["/a"]},
        {"ask": "resync", "target": 7},
        {"ask": ["resync"], "target": "a"},
        {"ask": "asset", "robot": 1, "asset": "asset-1"},
        {"ask": "asset", "robot": "arm", "asset": {"a": 1}},
        {"ask": "asset", "asset": "asset-1"},
        {"ask": "pause"},
    ],
)
def test_a_request_with_other_things_than_text_is_rejected_and_binds_nothing(
    robot: RealHistoryRobot, asked: dict[str, Any]
) -> None:
    left = robot.touch(robot.marked / "1.request", json.dumps(asked))
    robot.settle()
    assert "no request of keystone-agent" in why(left)
    assert not (robot.marked.parent / "assets.json").exists()


@pytest.mark.parametrize(
    "text", ["[" * 60_000, '{"ask": "resync", "target": "' + "a" * 100_000 + '"}', b"\xff\xfe{}"]
)
def test_a_request_too_deep_too_large_or_no_text_is_rejected(
    robot: RealHistoryRobot, text: str | bytes
) -> None:
    left = robot.touch(robot.marked / "1.request", text)
    robot.settle()
    assert "no request of keystone-agent" in why(left)


@pytest.mark.parametrize("target", ["/" + "a/" * 3000, "/" + "b" * 300])
def test_a_request_for_a_path_that_no_disk_has_is_rejected(
    robot: RealHistoryRobot, target: str
) -> None:
    left = robot.touch(robot.marked / "1.request", json.dumps({"ask": "resync", "target": target}))
    robot.settle()
    assert why(left)


def test_a_request_s_reason_is_one_line_of_text(robot: RealHistoryRobot) -> None:
    asked = {
        "ask": "resync",
        "target": str(robot.folder / "a.mcap"),
        "reason": "dark\x1b[2J\n\ud800 shelf" + "x" * 2000,
    }
    robot.touch(robot.marked / "1.request", json.dumps(asked))
    robot.settle()
    ((_, _, reason),) = robot.asked()
    assert reason == ("dark [2J   shelf" + "x" * 2000)[:1000]


def test_a_request_can_not_reach_outside_of_the_watched_folders(robot: RealHistoryRobot) -> None:
    write_mcap(robot.folder.parent / "secret.mcap", seed=9)
    target = str(robot.folder / ".." / "secret.mcap")
    left = robot.touch(robot.marked / "1.request", json.dumps({"ask": "resync", "target": target}))
    robot.settle()
    assert why(left)
    assert robot.asked() == []


# The tests below cover markers that are no regular files.


@pytest.mark.parametrize("kind", ["folder", "pipe", "link", "loop"])
@pytest.mark.parametrize("name", ["ep.resync", "1.request", "rescan", ".resync"])
def test_what_is_no_file_among_the_markers_is_left_alone_and_costs_no_scan(
    robot: RealHistoryRobot, kind: str, name: str
) -> None:
    path = robot.marked / name
    target = robot.touch(robot.folder.parent / "target", "mine")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(target if kind == "link" else path)
    robot.settle()
    scans = robot.discover.scans
    robot.pass_time(40, steps=40)
    assert robot.discover.scans == scans
    assert os.path.lexists(path)
    assert target.read_text() == "mine"
    assert robot.asked() == []


def test_a_reason_goes_through_no_link_and_replaces_the_one_before(robot: RealHistoryRobot) -> None:
    target = robot.folder.parent / "target"
    target.write_text("mine")
    marker = robot.folder / "typo.mcap.resync"
    for name in (f"{marker.name}.rejected", f".{marker.name}.rejected.new"):
        (robot.folder / name).symlink_to(target)
    for _ in range(2):
        robot.touch(marker)
        robot.settle()
        assert "no such file" in why(marker)
        marker.with_name(f"{marker.name}.rejected").write_text("an older one")
    assert target.read_text() == "mine"
    assert not marker.with_name(f".{marker.name}.rejected.new").exists()


def test_a_name_that_is_no_utf_8_is_served_and_remembered(
    robot: RealHistoryRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_mcap(robot.folder / os.fsdecode(b"\xff\xfe.mcap"), size=1000, seed=7)
    robot.gate.release("test")
    robot.settle()
    with monkeypatch.context() as patch:
        patch.setattr(marker_file, "unlink", read_only)
        marker = robot.touch(path.with_name(path.name + ".resync"))
        robot.settle()
        robot.again()
        robot.settle()
    assert robot.asked() == [(path.name, True, "")]
    robot.settle()
    assert not marker.exists()
    robot.touch(path.with_name("\udcff.mcap.resync"))
    robot.settle()
    assert (robot.folder / "\udcff.mcap.resync.rejected").exists()


def test_a_marker_that_has_become_a_link_or_a_pipe_meanwhile_is_not_followed_nor_waited_for(
    tmp_path: Path,
) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "a.mcap.resync").symlink_to("secret")
    with pytest.raises(MarkerRejectedError, match="can't be read"):
        marker_file.reason_in(tmp_path / "a.mcap.resync")
    os.mkfifo(tmp_path / "b.mcap.resync")
    assert marker_file.reason_in(tmp_path / "b.mcap.resync") == ""


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder of a user without privileges.

    The test runs as this user, because root may read and write everything.
    """
    place = Path(tempfile.mkdtemp(prefix="markers-"))
    root = os.geteuid() == 0
    if root:
        os.chown(place, _NOBODY, _NOBODY)
        os.seteuid(_NOBODY)
    try:
        yield place
    finally:
        if root:
            os.seteuid(0)
        for folder in (place, *place.rglob("*/")):
            folder.chmod(0o755)
        shutil.rmtree(place)


def test_a_marker_that_this_user_may_not_read_is_rejected(unprivileged: Path) -> None:
    robot = RealHistoryRobot(unprivileged / "recordings", "a.mcap")
    marker = robot.touch(robot.folder / "a.mcap.resync", "why")
    marker.chmod(0)
    robot.settle()
    assert "can't be read: Permission denied" in why(marker)
    robot.touch(marker).chmod(0)
    robot.settle()
    assert robot.asked() == [("a.mcap", True, "")], "there is nothing in it that had to be read"
    robot.history.close()


def test_a_marker_in_a_folder_of_others_is_served_once_and_said_once(
    unprivileged: Path, caplog: pytest.LogCaptureFixture
) -> None:
    robot = RealHistoryRobot(unprivileged / "recordings", "day/a.mcap")
    marker = robot.touch(robot.folder / "day" / "a.mcap.resync", "why")
    in_vain = robot.touch(robot.folder / "day" / "typo.mcap.resync")
    marker.parent.chmod(0o555)
    for _ in range(3):
        robot.settle()
        robot.again()
    assert robot.asked() == [("a.mcap", True, "why")]
    assert len(said(caplog)) == 3, said(caplog)
    assert robot.markers.report().waiting == []
    marker.parent.chmod(0o755)
    robot.settle()
    assert not marker.exists()
    assert "no such file" in why(in_vain)
    assert (robot.history.known_markers(), len(said(caplog))) == ([], 3)
    assert robot.asked() == [("a.mcap", True, "why")]
    robot.history.close()


def test_a_request_for_a_folder_that_this_user_may_not_enter_is_rejected(
    unprivileged: Path,
) -> None:
    robot = RealHistoryRobot(unprivileged / "recordings")
    closed = unprivileged / "closed"
    closed.mkdir(mode=0)
    left = robot.touch(
        robot.marked / "1.request", json.dumps({"ask": "resync", "target": str(closed / "day")})
    )
    robot.settle()
    closed.chmod(0o755)
    assert why(left)
    robot.history.close()


def test_a_marker_that_can_not_be_read_is_rejected(
    robot: RealHistoryRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = robot.folder / "a.mcap.resync"
    marker.write_text("why")
    refuse(monkeypatch, "open", marker, errno.EACCES)
    robot.settle()
    assert "can't be read: Permission denied" in why(marker)


def test_a_reason_is_waited_for_while_somebody_writes_it(robot: RealHistoryRobot) -> None:
    path = robot.folder / "a.mcap.resync"
    with path.open("w") as marker:
        robot.discover.sight(Sighting(path))
        robot.pass_time(8)
        assert path.exists()
        assert robot.markers.report().waiting == [path]
        marker.write("too dark")
    robot.settle()
    assert robot.asked() == [("a.mcap", True, "too dark")]
    assert not path.exists()


def test_nobody_can_hold_up_a_marker_by_writing_it(robot: RealHistoryRobot) -> None:
    path = robot.folder / "a.mcap.resync"
    with path.open("w"):
        robot.settle()
        assert robot.asked() == [("a.mcap", True, "")]
        assert not path.exists()


# The tests below cover folders in which nothing can be deleted.


def read_only(*_: object, **__: object) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, path: Path, error: int) -> None:
    """Make a function of ``os`` fail for this path."""
    real = getattr(os, call)

    def refused(target: Any, *arguments: Any, **named: Any) -> Any:
        if os.fspath(target) == str(path):
            raise OSError(error, os.strerror(error))
        return real(target, *arguments, **named)

    monkeypatch.setattr(os, call, refused)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_reason_that_could_not_be_left_is_left_when_that_can_be_done(
    robot: RealHistoryRobot, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(marker_file, "put", read_only)
        marker = robot.touch(robot.folder / "typo.mcap.resync")
        for _ in range(2):
            robot.settle()
            robot.again()
        assert marker.exists()
        assert len(said(caplog)) == 2, "that it is rejected, and that the reason can't be left"
    robot.settle()
    assert "no such file" in why(marker)
    assert (len(said(caplog)), robot.history.known_markers()) == (2, [])


def test_a_marker_that_could_not_be_rejected_is_served_when_its_recording_has_come(
    robot: RealHistoryRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(marker_file, "put", read_only)
        marker = robot.touch(robot.folder / "b.mcap.resync")
        robot.settle()
        write_mcap(robot.folder / "b.mcap", size=1000, seed=4)
        robot.gate.release("test")
        robot.settle()
    assert not marker.exists()
    assert [Path(log.path).name for log in robot.history.newest_first("completed")] == [
        "b.mcap",
        "a.mcap",
    ]


def test_a_name_too_long_for_its_reason_is_said_once(
    robot: RealHistoryRobot, caplog: pytest.LogCaptureFixture
) -> None:
    marker = robot.touch(robot.folder / ("x" * 243 + ".mcap.resync"))
    robot.settle()
    robot.again()
    robot.settle()
    assert marker.exists()
    assert len(said(caplog)) == 2
    assert robot.markers.report().kept == [marker]


def test_a_thousand_markers_that_can_not_be_removed_cost_few_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "agent")
    robot = Robot(tmp_path / "recordings")
    path = write_mcap(robot.folder / "a.mcap", size=1000)
    for number in range(1000):
        (robot.folder / f"{number}.mcap").hardlink_to(path)
        (robot.folder / f"{number}.mcap.resync").touch()
    robot.gate.hold("test", "the test says so")
    robot.pass_time(10, steps=5)
    robot.run_due_work()
    assert not list(robot.folder.glob("*.resync"))
    monkeypatch.setattr(marker_file, "unlink", read_only)
    for number in range(1000):
        robot.discover.sight(Sighting(robot.folder / f"{number}.mcap.resync"))
        (robot.folder / f"{number}.mcap.resync").touch()
    writes: list[str] = []
    robot.history.before = writes.append
    robot.run_due_work()
    robot.pass_time(120)
    assert len(robot.history.markers) == 1000
    assert len(writes) < 2 * 1000 / BATCH + 40, "two for a batch, and an empty one a look"


# The tests below use the real history.


def beside(robot: RealHistoryRobot) -> Path:
    return robot.touch(robot.folder / "day" / "a.mcap.resync", "why")


def in_folder(robot: RealHistoryRobot) -> Path:
    return robot.touch(robot.folder / "day" / ".resync", "why")


def by_episode(robot: RealHistoryRobot) -> Path:
    return robot.touch(robot.marked / "ep-a.resync", "why")


def by_request(robot: RealHistoryRobot) -> Path:
    asked = {"ask": "resync", "target": str(robot.folder / "day"), "reason": "why"}
    return robot.touch(robot.marked / "1.request", json.dumps(asked))


def upload_two(robot: RealHistoryRobot) -> None:
    """Let the robot upload two recordings, and close its gate then."""
    (robot.folder / "day").mkdir()
    for seed, name in enumerate(("a", "b")):
        write_sidecar(
            write_mcap(robot.folder / "day" / f"{name}.mcap", size=1000, seed=seed),
            {"episode_id": f"ep-{name}"},
        )
    robot.gate.release("test")
    robot.settle()
    robot.gate.hold("test", "the test says so")


def in_vain(robot: RealHistoryRobot) -> Path:
    return robot.touch(robot.folder / "day" / "typo.mcap.resync", "why")


@pytest.mark.parametrize(
    ("drop", "names"),
    [
        (beside, ["a"]),
        (in_folder, ["a", "b"]),
        (by_episode, ["a"]),
        (by_request, ["a", "b"]),
        (in_vain, []),
    ],
)
def test_whenever_the_power_fails_the_real_history_knows_what_is_served(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    drop: Callable[[RealHistoryRobot], Path],
    names: list[str],
) -> None:
    monkeypatch.setattr(markers_module, "BATCH", 1)
    for fails_at in range(1, 100):
        robot = RealHistoryRobot(tmp_path / str(fails_at))
        upload_two(robot)
        before = list(robot.history.newest_first("completed"))
        marker = drop(robot)
        reason = marker.with_name(f"{marker.name}.rejected")
        expected = [(f"{name}.mcap", True, "why") for name in names]
        steps = failing(monkeypatch, fails_at)
        for _ in range(6):
            try:
                robot.pass_time(4, steps=2)
            except PowerFailure:
                robot.again()
            if not marker.exists():
                assert robot.asked() == expected, "it went before what it asks for was durable"
                assert names or reason.exists()
        monkeypatch.undo()
        monkeypatch.setattr(markers_module, "BATCH", 1)
        robot.again()
        robot.settle()
        assert not marker.exists()
        assert robot.asked() == expected
        assert robot.history.known_markers() == []
        assert list(robot.history.newest_first("completed")) == before
        robot.history.close()
        if steps[0] < fails_at:
            assert steps[0] >= 4
            return
    pytest.fail("it never ends")


def failing(monkeypatch: pytest.MonkeyPatch, fails_at: int) -> list[int]:
    """Make the power fail before one of the calls that make writes durable.

    Return the number of these calls, as a list of one item.
    """
    made = [0]

    def before(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any, **named: Any) -> Any:
            made[0] += 1
            if made[0] == fails_at:
                raise PowerFailure
            return call(*arguments, **named)

        return step

    # pathlib of Python 3.10 keeps its own references to the functions of os.
    accessor = getattr(pathlib, "_NormalAccessor", None)
    for name in ("fsync", "fdatasync", "unlink", "replace"):
        step = before(getattr(os, name))
        monkeypatch.setattr(os, name, step)
        if hasattr(accessor, name):
            monkeypatch.setattr(accessor, name, staticmethod(step))
    return made


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_markers_are_served_on_the_real_history_in_seconds(
    robot: RealHistoryRobot,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    count: int,
) -> None:
    caplog.set_level(logging.CRITICAL, "agent")
    for number in range(count):
        write_mcap(robot.folder / f"{number}.mcap", size=64, seed=number + 10)
    # This test does not measure how found recordings are written.
    with robot.history.transaction():
        while robot.history.counts()["pending"] < count:
            robot.clock.advance(1)
            robot.discover.rescan()
            robot.discover_due()
    for number in range(count):
        robot.touch(robot.folder / f"{number}.mcap.first")
    robot.discover.step()
    synced: list[int] = []
    fdatasync = os.fdatasync

    def counted(descriptor: int) -> None:
        synced.append(descriptor)
        fdatasync(descriptor)

    monkeypatch.setattr(os, "fdatasync", counted)
    began = time.monotonic()
    robot.markers.handle_due()
    seconds = time.monotonic() - began
    sys.stderr.write(f"{count} markers served in {seconds:.1f} s and {len(synced)} writes\n")
    assert not list(robot.folder.glob("*.first"))
    assert len({log.ahead for log in robot.history.open()}) == count, "each has a place of its own"
    assert len(synced) <= 2 * (count / BATCH + 1)
    assert seconds < 60
