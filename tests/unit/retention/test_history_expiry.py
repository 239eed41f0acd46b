"""Which documents expire from the history, and which never do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from agent.model.sync_log import Fault, Orphan, Status, SyncLog
from agent.model.values import Answer, Damaged, Recording
from agent.retention import history_expiry
from tests.contracts.history import document
from tests.harness.recorders import damaged, write_mcap
from tests.harness.robot import Robot

DAY = 86400.0
KEEP = 3


class ExpiringRobot(Robot):
    """A robot whose documents expire after three days.

    A second folder with a note keeps the watched folder from being empty.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, history={"keep_days": KEEP})
        (self.folder / "notes").mkdir()

    def restart(self, **changes: Mapping[str, Any]) -> None:
        super().restart(**changes)
        self.expiry = self.app.engine.history_expiry

    def days(self, number: int) -> None:
        """Let days pass. The agent scans several times on each of them."""
        for _ in range(number):
            self.pass_time(DAY, steps=2)
            for _ in range(3):
                self.pass_time(5, steps=5)
                self.expiry.expire()

    def uploaded(self, name: str = "a.mcap", *, seed: int = 0) -> Path:
        path = write_mcap(self.folder / name, seed=seed)
        self.settle()
        assert self.newest(path).synced
        return path

    def add(self, name: str, **fields: Any) -> SyncLog:
        """Add a document of a recording that is not on the disk."""
        return self.history.add(
            document(name, **{"path": str(self.folder / f"{name}.mcap"), **fields})
        )

    def end(self, log: SyncLog) -> None:
        self.history.move(log.id, "claimed")
        self.history.move(log.id, "done")

    def newest(self, path: Path) -> SyncLog:
        return self.history.at_path(path)[0]

    def ask(self, path: Path) -> Answer:
        found = self.examiner.look(path, sidecar_overdue=True)
        assert isinstance(found, Recording)
        return self.intake.ask(found, trigger="marker", ask="resync")


@pytest.fixture
def robot(tmp_path: Path) -> ExpiringRobot:
    return ExpiringRobot(tmp_path / "data")


def test_what_has_been_gone_for_keep_days_is_forgotten_and_not_a_day_earlier(
    robot: ExpiringRobot,
) -> None:
    path = robot.uploaded()
    mark = robot.newest(path).fingerprint
    path.unlink()
    robot.days(1 + KEEP - 1)
    assert robot.newest(path).synced
    robot.days(1)
    assert not robot.history.documents
    assert robot.history.synced(mark)


def test_what_was_uploaded_and_forgotten_is_not_sent_again_when_its_disk_is_put_in_again(
    robot: ExpiringRobot,
) -> None:
    path = robot.uploaded()
    content, sent = path.read_bytes(), len(robot.store.calls)
    path.unlink()
    robot.days(1 + KEEP)
    robot.restart()
    path.write_bytes(content)
    robot.days(2)
    assert not robot.history.documents
    assert len(robot.store.calls) == sent
    # A request sends the recording again even so.
    assert robot.ask(path).status == "accepted"
    robot.days(1)
    assert (robot.newest(path).id, robot.newest(path).resync, robot.newest(path).status) == (
        2,
        True,
        "completed",
    )


def test_what_failed_for_good_is_forgotten_whole_and_is_new_when_it_comes_again(
    robot: ExpiringRobot,
) -> None:
    path = write_mcap(robot.folder / "a.mcap")
    robot.profiles.profiles.clear()
    robot.settle()
    log = robot.newest(path)
    robot.history.move(log.id, "asked")
    robot.history.move(log.id, "claimed")
    robot.history.move(log.id, "gave_up", error=Fault("final", "tag_conflict", "no", ""))
    broken = damaged(robot.folder / "b.mcap")
    robot.settle()
    content = path.read_bytes()
    path.unlink()
    robot.days(1 + KEEP)
    assert [log.path for log in robot.history.documents.values()] == [str(broken)]
    assert not robot.history.synced(log.fingerprint)
    path.write_bytes(content)
    robot.settle()
    assert robot.newest(path).id > log.id


def test_a_recording_on_the_disk_is_never_forgotten_wherever_it_lies(robot: ExpiringRobot) -> None:
    first, second = robot.uploaded("a.mcap", seed=1), robot.uploaded("b.mcap", seed=2)
    second.rename(robot.folder / "notes" / "c.mcap")
    robot.days(4 * KEEP)
    robot.restart()
    robot.days(4 * KEEP)
    assert [log.path for log in robot.history.newest_first()] == [str(second), str(first)]
    assert not robot.history.absences().since


def test_a_file_that_was_not_examined_may_be_any_recording_of_its_size(
    robot: ExpiringRobot,
) -> None:
    path = robot.uploaded()
    (robot.folder / "notes" / "b.mcap").write_bytes(path.read_bytes())
    path.unlink()
    robot.restart()
    # All recordings are now skipped because of their age.
    robot.discover._tracker._newer_than = lambda: robot.clock.now() + DAY
    robot.days(2 * KEEP)
    assert robot.newest(path).synced
    (robot.folder / "notes" / "b.mcap").write_bytes(b"of another size")
    robot.settle()
    robot.days(1 + KEEP)
    assert not robot.history.at_path(path)


def test_before_the_first_scan_no_day_is_counted(robot: ExpiringRobot) -> None:
    robot.uploaded().unlink()
    robot.restart()
    for _ in range(2 * KEEP):
        robot.clock.advance(DAY)
        robot.expiry.expire()
    assert robot.history.absences().day == 0
    assert robot.history.documents


def test_a_recording_that_comes_back_begins_anew(robot: ExpiringRobot) -> None:
    path = robot.uploaded()
    content = path.read_bytes()
    for _ in range(3):
        path.unlink()
        robot.days(KEEP)
        path.write_bytes(content)
        robot.days(1)
    assert robot.newest(path).id == 1


@pytest.mark.parametrize("away", ["empty", "missing"])
def test_days_on_which_the_watched_folder_is_away_do_not_count(
    robot: ExpiringRobot, away: str
) -> None:
    path = robot.uploaded()
    path.unlink()
    robot.days(2)
    aside = robot.folder.with_name("aside")
    robot.folder.rename(aside)
    if away == "empty":
        robot.folder.mkdir()
    robot.days(5 * KEEP)
    assert robot.newest(path).synced
    if away == "empty":
        robot.folder.rmdir()
    aside.rename(robot.folder)
    robot.days(1 + KEEP - 2 - 1)
    assert robot.newest(path).synced
    robot.days(1)
    assert not robot.history.documents


def test_what_is_below_no_watched_folder_any_more_is_not_forgotten(
    robot: ExpiringRobot, tmp_path: Path
) -> None:
    log = robot.add("x", path=str(tmp_path / "old" / "x.mcap"))
    robot.end(log)
    robot.days(4 * KEEP)
    assert robot.history.get(log.id).synced


def test_a_clock_that_jumps_ten_years_forgets_nothing(robot: ExpiringRobot) -> None:
    robot.uploaded().unlink()
    robot.days(1)
    for years in (10, -10, 10, -3, 20):
        robot.clock.set_now(robot.clock.now() + years * 365 * DAY)
        robot.pass_time(60)
        robot.expiry.expire()
    assert robot.history.absences().day == 1
    assert robot.history.documents


def test_restarts_and_a_date_that_stands_still_count_no_day(robot: ExpiringRobot) -> None:
    robot.uploaded().unlink()
    for _ in range(4 * KEEP):
        robot.settle()
        robot.expiry.expire()
        robot.restart()
    assert robot.history.absences().day == 1
    assert (
        robot.history.absences().date
        == datetime.fromtimestamp(robot.clock.now(), timezone.utc).date().isoformat()
    )


def test_days_go_on_across_restarts(robot: ExpiringRobot) -> None:
    path = robot.uploaded()
    path.unlink()
    for _ in range(KEEP):
        robot.days(1)
        robot.restart()
    assert robot.newest(path).synced
    robot.days(1)
    assert not robot.history.documents


def test_before_the_agent_was_built_no_day_is_counted(robot: ExpiringRobot) -> None:
    robot.uploaded().unlink()
    robot.clock.set_now(0)
    robot.days(4 * KEEP)
    assert robot.history.absences().day == 0
    assert robot.history.documents


def test_what_may_still_happen_and_what_is_owed_is_never_forgotten(robot: ExpiringRobot) -> None:
    old = robot.add("a")
    robot.end(old)
    waiting = robot.add("a", resync=True)
    robot.history.add_orphan(
        Orphan(
            0,
            "asset",
            "logical",
            "upload",
            "multipart",
            "key",
            "gave_up",
            "2026-09-21T14:30:00.000Z",
        )
    )
    # Without a device profile nothing can be sent and no orphan can be aborted.
    robot.profiles.profiles.clear()
    for _ in range(4 * KEEP):
        robot.clock.advance(DAY)
        robot.discover_due()
        robot.expiry.expire()
    assert robot.history.absences().day == 4 * KEEP
    assert sorted(robot.history.documents) == [old.id, waiting.id]
    assert len(robot.history.orphans()) == 1


def test_what_is_asked_for_again_while_the_agent_looks_is_not_forgotten(
    robot: ExpiringRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = robot.add("a")
    robot.end(old)
    robot.days(KEEP)
    listing: Callable[[], Iterator[SyncLog]] = robot.history.newest_first

    def listed(status: Status | None = None) -> Iterator[SyncLog]:
        del status
        yield from list(listing())
        robot.end(robot.add("a", resync=True))

    with monkeypatch.context() as patch:
        patch.setattr(robot.history, "newest_first", listed)
        robot.clock.advance(DAY)
        robot.expiry.expire()
    assert sorted(robot.history.documents) == [1, 2]
    robot.days(KEEP)
    assert sorted(robot.history.documents) == [1, 2]
    robot.days(1)
    assert not robot.history.documents


def test_the_oldest_go_first_and_only_so_many_in_a_day(
    robot: ExpiringRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history_expiry, "_MOST", 4)
    monkeypatch.setattr(history_expiry, "_BATCH", 3)
    for number in range(10):
        robot.end(robot.add(str(number)))
    robot.days(KEEP)
    left = []
    for _ in range(3):
        robot.days(1)
        left.append(sorted(robot.history.documents))
    assert left == [[5, 6, 7, 8, 9, 10], [9, 10], []]
    assert all(robot.history.synced(f"1000-{number}") for number in range(10))
    robot.days(1)
    assert not robot.history.absences().since


def test_a_full_disk_lets_the_day_pass_uncounted(
    robot: ExpiringRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot.end(robot.add("a"))
    robot.days(KEEP)
    robot.history.full = True
    robot.days(2)
    # The reserve was complete when it was checked, and was used up before the write.
    monkeypatch.setattr(robot.history, "room", lambda: True)
    robot.days(2)
    assert robot.history.absences().day == KEEP
    assert robot.history.documents
    robot.history.full = False
    robot.days(1)
    assert not robot.history.documents


def test_stopped_it_forgets_nothing_more(robot: ExpiringRobot) -> None:
    robot.end(robot.add("a"))
    robot.days(KEEP)
    assert robot.expiry.stop(1)
    robot.days(2)
    assert robot.history.documents


def test_a_damaged_file_is_known_as_long_as_it_lies_there(robot: ExpiringRobot) -> None:
    broken = damaged(robot.folder / "a.mcap")
    assert isinstance(robot.examiner.look(broken), Damaged)
    robot.days(2 * KEEP)
    assert [log.id for log in robot.history.newest_first()] == [1]
