"""Requests by path, folder or episode become recordings, documents and answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.model.errors import CloudError
from agent.model.values import Answer, Ask
from agent.operations import requests as requests_module
from agent.operations.requests import Requests
from tests.harness.recorders import damaged, write_mcap, write_sidecar
from tests.harness.robot import UploadedRobot


class RequestRobot(UploadedRobot):
    """A robot that answers the requests of commands."""

    def ask(self, target: Path | str, ask: Ask = "resync") -> Sequence[Answer]:
        """Ask as a command does."""
        return self.requests.ask(str(target), ask=ask, trigger="cli", reason="why not")

    def one(self, target: Path | str, ask: Ask = "resync") -> tuple[str, str]:
        """Ask, and return the status and the message of the only answer."""
        (answer,) = self.ask(target, ask)
        assert answer.target == str(target)
        return answer.status, answer.message


@pytest.fixture
def robot(tmp_path: Path) -> RequestRobot:
    return RequestRobot(tmp_path / "recordings", "a.mcap", "day/b.mcap")


def test_a_path_is_asked_for(robot: RequestRobot) -> None:
    assert robot.one(robot.folder / "a.mcap") == ("accepted", "queued")
    assert robot.one(robot.folder / "a.mcap")[0] == "already_queued"
    log = robot.log(3)
    assert (log.resync, log.trigger, log.reason) == (True, "cli", "why not")


def test_a_folder_answers_for_each_recording_in_it_and_below_by_path(robot: RequestRobot) -> None:
    answers = robot.ask(robot.folder)
    assert [(Path(answer.target).name, answer.status) for answer in answers] == [
        ("a.mcap", "accepted"),
        ("b.mcap", "accepted"),
    ]


def test_a_folder_goes_in_transactions_of_a_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = RequestRobot(tmp_path / "recordings", *(f"{number}.mcap" for number in range(7)))
    monkeypatch.setattr(requests_module, "BATCH", 3)
    writes: list[str] = []
    robot.history.before = writes.append
    assert len(robot.ask(robot.folder)) == 7
    assert len(writes) == 3


def test_an_episode_is_asked_for_by_its_id(robot: RequestRobot) -> None:
    write_sidecar(write_mcap(robot.folder / "c.mcap", seed=9), {"episode_id": "ep-7"})
    robot.settle()
    assert robot.one("ep-7") == ("accepted", "queued")
    assert robot.log(4).episode_id == "ep-7"


def test_both_recordings_of_one_episode_are_asked_for(robot: RequestRobot) -> None:
    for seed, name in enumerate(("c.mcap", "d.mcap"), start=9):
        write_sidecar(write_mcap(robot.folder / name, seed=seed), {"episode_id": "ep-7"})
    robot.settle()
    assert [answer.status for answer in robot.ask("ep-7")] == ["accepted", "accepted"]
    assert sorted(Path(log.path).name for log in robot.history.open()) == ["c.mcap", "d.mcap"]


def test_a_path_wins_over_an_episode_of_the_same_text(robot: RequestRobot) -> None:
    path = robot.folder / "a.mcap"
    write_sidecar(write_mcap(robot.folder / "c.mcap", seed=9), {"episode_id": str(path)})
    robot.settle()
    robot.ask(path)
    assert [Path(log.path).name for log in robot.history.open()] == ["a.mcap"]


@pytest.mark.parametrize(
    ("make", "status", "says"),
    [
        (lambda root: root / "none.mcap", "not_found", "no such file"),
        (
            lambda root: write_mcap(root.parent / "elsewhere.mcap"),
            "rejected",
            "none of the watched folders",
        ),
        (lambda root: write_mcap(root / ".hidden.mcap", seed=8), "rejected", "watch.exclude"),
        (
            lambda root: root.parent / "recordings-state",
            "not_found",
            "no finished recording in this folder",
        ),
        (lambda _root: "nobody", "not_found", "no episode of this name"),
    ],
)
def test_what_can_not_be_sent_says_why(
    robot: RequestRobot, make: Callable[[Path], Path | str], status: str, says: str
) -> None:
    target = make(robot.folder)
    robot.settle()
    answer, message = robot.one(target)
    assert (answer, says in message) == (status, True), message


def test_a_link_is_no_recording(robot: RequestRobot) -> None:
    (robot.folder / "link.mcap").symlink_to(robot.folder / "a.mcap")
    robot.settle()
    assert robot.one(robot.folder / "link.mcap")[0] == "rejected"


def test_what_still_settles_is_rejected_with_the_reason(robot: RequestRobot) -> None:
    # The file has other bytes now, and discovery has not seen them yet.
    write_mcap(robot.folder / "a.mcap", size=2000, seed=77)
    status, message = robot.one(robot.folder / "a.mcap")
    assert (status, "settling" in message) == ("rejected", True)


def test_what_is_still_being_recorded_is_rejected_with_the_reason(robot: RequestRobot) -> None:
    content = write_mcap(robot.folder / "aside.tmp", seed=5).read_bytes()
    (robot.folder / "c.mcap").write_bytes(content[:-100])
    robot.settle()
    status, message = robot.one(robot.folder / "c.mcap")
    assert (status, "no end" in message) == ("rejected", True)


def test_an_episode_whose_file_is_gone_says_that(robot: RequestRobot) -> None:
    (robot.folder / "a.mcap").unlink()
    status, message = robot.one(robot.log(1).episode_id)
    assert (status, "no longer on this robot" in message) == ("rejected", True)


def test_an_episode_whose_file_was_moved_is_found(robot: RequestRobot) -> None:
    (robot.folder / "a.mcap").rename(robot.folder / "z.mcap")
    robot.settle()
    assert robot.one(robot.log(1).episode_id)[0] == "accepted"
    assert robot.log(3).path == str(robot.folder / "z.mcap")


def test_an_episode_that_is_queued_needs_no_file(robot: RequestRobot) -> None:
    robot.ask(robot.folder / "a.mcap")
    (robot.folder / "a.mcap").unlink()
    assert robot.one(robot.log(1).episode_id)[0] == "already_queued"


def test_a_recording_skipped_by_age_is_sent_when_somebody_asks(robot: RequestRobot) -> None:
    path = write_mcap(robot.folder / "old.mcap", seed=9)
    robot.discover._tracker._newer_than = lambda: path.stat().st_mtime + 1
    robot.settle()
    assert robot.discover.state(path) == ("skipped", "")
    assert robot.one(path) == ("accepted", "queued")
    assert robot.log(3).resync is False


# The tests below cover requests for all failed recordings.


def failed(robot: RequestRobot, code: str, name: str, seed: int) -> Path:
    """Record a file whose upload fails for good, and return its path."""
    path = write_mcap(robot.folder / name, size=1000, seed=seed)
    robot.gateway.fail("CreateLogicalUpload", error=CloudError("CreateLogicalUpload", code))
    robot.settle()
    robot.gateway.mend()
    log = robot.log(robot.history.last_id)
    assert (log.status, log.open, log.path) == ("failed", False, str(path))
    return path


def again(robot: Requests, code: str = "") -> list[tuple[str, str]]:
    return [
        (Path(answer.target).name, answer.status)
        for answer in robot.failed(code, trigger="cli", reason="mended")
    ]


def test_all_that_failed_for_good_is_tried_again_once(robot: RequestRobot) -> None:
    failed(robot, "INVALID_ARGUMENT", "c.mcap", 9)
    assert again(robot.requests, "other") == []
    assert again(robot.requests, "INVALID_ARGUMENT") == [("c.mcap", "accepted")]
    log = robot.log(4)
    assert (log.resync, log.reason, log.status) == (False, "mended", "pending")
    assert again(robot.requests) == []


def test_what_waits_after_a_failure_goes_at_once(robot: RequestRobot) -> None:
    write_mcap(robot.folder / "c.mcap", size=1000, seed=9)
    robot.assets["robot"] = ""
    robot.settle()
    log = robot.log(3)
    assert (log.status, log.open) == ("failed", True)
    robot.assets.clear()
    assert again(robot.requests) == [("c.mcap", "accepted")]
    robot.run()
    assert robot.log(3).status == "completed"


def test_a_damaged_one_says_that_it_is_damaged(robot: RequestRobot) -> None:
    damaged(robot.folder / "c.mcap")
    robot.settle()
    (answer,) = robot.requests.failed("", trigger="cli")
    assert (answer.status, "damaged" in answer.message) == ("rejected", True)


@pytest.mark.parametrize("ask", ["resync", "first"])
def test_a_damaged_file_is_sent_as_it_is_when_a_person_asks(robot: RequestRobot, ask: Ask) -> None:
    path = damaged(robot.folder / "c.mcap")
    robot.settle()
    assert robot.log(3).status == "failed"
    assert robot.one(path, ask)[0] == "accepted"
    robot.restart()
    robot.settle()
    log = robot.log(4)
    assert (log.status, log.raw_tags["mcap_complete"]) == ("completed", "false")
    assert robot.stored(log) == path.read_bytes()
    assert robot.history.last_id == 4


def test_a_damaged_file_is_sent_by_its_episode_and_by_its_error(robot: RequestRobot) -> None:
    damaged(robot.folder / "c.mcap")
    damaged(robot.folder / "d.mcap", seed=5)
    robot.settle()
    assert robot.one(robot.log(3).episode_id)[0] == "accepted"
    assert again(robot.requests, "damaged") == [("d.mcap", "accepted")]
    robot.settle()
    assert [robot.log(id_).status for id_ in (5, 6)] == ["completed", "completed"]


def test_a_folder_sends_no_damaged_file(robot: RequestRobot) -> None:
    damaged(robot.folder / "day" / "c.mcap")
    robot.settle()
    answers = robot.ask(robot.folder / "day")
    assert [Path(answer.target).name for answer in answers] == ["b.mcap"]


def test_a_person_does_not_wait_for_a_compressor(robot: RequestRobot) -> None:
    plain = write_mcap(robot.folder / "c.mcap", seed=9)
    plain.with_name("c.mcap.zstd").write_bytes(b"half a frame")
    robot.settle()
    assert robot.one(plain)[0] == "accepted"
    robot.run()
    log = next(robot.history.newest_first())
    assert (log.path, log.status) == (str(plain), "completed")
