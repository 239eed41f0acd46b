"""The discovery of finished recordings in watched folders, on real files and a fake clock."""

from __future__ import annotations

import errno
import gc
import itertools
import logging
import math
import os
import shutil
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from agent.discovery import file_table, file_tracker, scanner, state_rules
from agent.discovery import walk as walk_module
from agent.discovery.discover import Discover
from agent.discovery.examine import Examiner
from agent.discovery.state_rules import WaitingRules
from agent.model.values import Damaged, Recording, Sighting
from tests.harness import recorders
from tests.harness.fakes.clock import FakeClock

FIVE_SCANS_SECONDS = 300


class Finder:
    """A Discover on real files, with a clock that the test moves."""

    def __init__(self, *roots: Path, **options: Any) -> None:
        self.clock = FakeClock()
        self.roots = roots
        values: dict[str, Any] = {
            "roots": roots,
            "include": ["*.mcap"],
            "exclude": [".*", "*.active", "*.tmp", "*.part"],
            "settle_seconds": 2.0,
            "rescan_seconds": 60.0,
            "sidecar": "ignore",
            "sidecar_wait_seconds": 5.0,
            "unfinished_minutes": 10.0,
            **options,
        }
        values["waits"] = WaitingRules(
            settle_seconds=values.pop("settle_seconds"),
            rescan_seconds=values.pop("rescan_seconds"),
            sidecar_wait_seconds=values.pop("sidecar_wait_seconds"),
            unfinished_seconds=values.pop("unfinished_minutes") * 60,
        )
        follow = values.get("follow_symlinks", False)
        unfinished = values.pop("send_unfinished", False)
        self.examiner = Examiner(
            roots, values["sidecar"], follow_symlinks=follow, send_unfinished=unfinished
        )
        self.discover = Discover(self.examiner, self.clock, **values)

    def step(self, seconds: float = 0.0) -> list[str]:
        """Let time pass, then do one step. Return the names of the files that the step gave."""
        self.clock.advance(seconds)
        return [item.path.name for item in self.discover.step()]

    def run(self, seconds: float) -> list[Recording | Damaged]:
        """Let time pass, and do each step at the time that Discover asks for."""
        found: list[Recording | Damaged] = []
        end = self.clock.monotonic() + seconds
        while (due := self.discover.next_step()) <= end:
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            found += self.discover.step()
        self.clock.advance(end - self.clock.monotonic())
        return found

    def names(self, seconds: float) -> list[str]:
        return [item.path.name for item in self.run(seconds)]

    def sight(self, path: Path) -> None:
        self.discover.sight(Sighting(path))

    def state(self, path: Path) -> str:
        state = self.discover.state(path)
        return state[0] if state else "unknown"


@pytest.fixture
def finder(tmp_path: Path) -> Finder:
    return Finder(tmp_path)


@contextmanager
def counted_stats() -> Iterator[Counter[str]]:
    """Count the calls of stat, open and pread.

    The calls are counted by the name of the function that makes them.
    """
    counts: Counter[str] = Counter()

    def profile(_frame: Any, event: str, argument: Any) -> None:
        if event == "c_call" and argument.__name__ in ("stat", "open", "pread"):
            counts[argument.__name__] += 1

    sys.setprofile(profile)
    try:
        yield counts
    finally:
        sys.setprofile(None)


# The tests below cover settling.


def test_a_complete_file_is_given_once_after_two_looks(finder: Finder, tmp_path: Path) -> None:
    recorders.write_mcap(tmp_path / "a.mcap")
    assert finder.step() == []
    assert finder.step(1.9) == []
    assert finder.step(0.1) == ["a.mcap"]
    assert finder.run(600) == []


def test_very_many_files_of_one_scan_are_given_by_time_then_path_whatever_folders_they_lie_in(
    finder: Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = recorders.write_mcap(tmp_path / "aside.tmp").read_bytes()
    paths = []
    for number in range(600):
        path = tmp_path / f"{number % 7}" / f"{number % 2}" / f"{number}.mcap"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        # The 600 files have only two different times.
        moment = 1_790_000_000 - number // 300
        os.utime(path, (moment, moment))
        paths.append((moment, path))
    ticks = itertools.count()
    # Time passes while the scan runs.
    with monkeypatch.context() as patch:
        patch.setattr(finder.clock, "monotonic", lambda: 1000 + next(ticks) / 1000)
        assert finder.step() == []
    assert [item.path for item in finder.run(5)] == [path for _, path in sorted(paths)]


def test_five_scans_ask_once_for_the_state_of_each_file_that_is_done_with(
    finder: Finder, tmp_path: Path
) -> None:
    for number in range(20):
        recorders.write_mcap(tmp_path / f"{number}.mcap", seed=number)
    finder.run(10)
    for _ in range(5):
        with counted_stats() as counts:
            finder.run(60)
        # The stat calls include those for the folder itself.
        assert 4 <= counts["stat"] <= 6
        # Only the folder is opened, no file.
        assert counts["open"] == 1


def test_a_scan_that_was_asked_for_asks_for_the_state_of_every_file(
    finder: Finder, tmp_path: Path
) -> None:
    paths = [recorders.write_mcap(tmp_path / f"{number}.mcap", seed=number) for number in range(20)]
    finder.run(10)
    for seed, path in enumerate(paths):
        recorders.write_mcap(path, seed=100 + seed)
    finder.discover.rescan()
    assert len(finder.run(3)) == 20


def test_what_may_be_mended_is_asked_for_by_each_scan(finder: Finder, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.mcap" for number in range(8)]
    for path in paths[:4]:
        recorders.unfinished(path)
    for path in paths[4:]:
        recorders.damaged(path)
    finder.run(1200)
    assert [finder.state(path) for path in paths] == [*["unfinished"] * 4, *["damaged"] * 4]
    for seed, path in enumerate(paths):
        recorders.write_mcap(path, seed=seed)
    assert len(finder.run(65)) == 8


def test_what_takes_the_place_of_a_file_is_noticed_by_the_next_scan(
    finder: Finder, tmp_path: Path
) -> None:
    paths = [recorders.write_mcap(tmp_path / f"{number}.mcap", seed=number) for number in range(4)]
    finder.run(10)
    for path in paths[:2]:
        path.unlink()
        path.mkdir()
    paths[2].unlink()
    paths[2].symlink_to(paths[3])
    finder.run(60)
    assert [finder.state(path) for path in paths] == ["unknown", "unknown", "unknown", "complete"]


def test_a_sidecar_that_comes_late_is_noticed_by_the_next_scan(tmp_path: Path) -> None:
    finder = Finder(tmp_path, sidecar="optional")
    paths = [recorders.write_mcap(tmp_path / f"{number}.mcap", seed=number) for number in range(4)]
    finder.run(10)
    for path in paths:
        recorders.write_sidecar(path)
    assert len(finder.run(62)) == 4


def test_a_report_can_only_be_another_one_where_changes_are_counted(
    finder: Finder, tmp_path: Path
) -> None:
    recorders.write_mcap(tmp_path / "a.mcap")
    finder.run(100)
    before = finder.discover.changes
    finder.run(100)
    assert finder.discover.changes == before
    changes: list[Callable[[], object]] = [
        lambda: recorders.write_mcap(tmp_path / "b.mcap"),
        (tmp_path / "a.mcap").unlink,
        (tmp_path / "c.bag").touch,
    ]
    for change in changes:
        change()
        finder.run(62)
        assert finder.discover.changes > before
        before = finder.discover.changes
    # None of these names is or will be a recording that Discover knows.
    for name in ("log.txt", "b.mcap.active", "d.mcap"):
        finder.sight(tmp_path / name)
    finder.step()
    assert finder.discover.changes == before


def test_a_folder_that_comes_by_a_hint_and_goes_unnoticed_counts_as_changes(
    finder: Finder, tmp_path: Path
) -> None:
    finder.run(10)
    folder = tmp_path / "day"
    folder.mkdir()
    recorders.write_mcap(folder / "a.mcap")
    finder.sight(folder)
    finder.run(10)
    before = finder.discover.changes
    shutil.rmtree(folder)
    finder.run(62)
    assert finder.discover.changes > before


def test_scans_that_take_long_are_made_more_rarely(
    finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, ticks = finder.clock.monotonic(), itertools.count()
    # Each scan takes one second of CPU time.
    monkeypatch.setattr(time, "thread_time", lambda: float(next(ticks)))
    finder.step()
    assert finder.discover.next_step() == start + 150
    # A scan on request does not wait for the longer interval.
    finder.discover.rescan()
    assert finder.discover.next_step() == start + 2


def test_the_finder_sleeps_until_something_is_due(finder: Finder, tmp_path: Path) -> None:
    start = finder.clock.monotonic()
    assert finder.discover.next_step() <= start
    finder.step()
    assert finder.discover.next_step() == start + 60
    finder.sight(recorders.write_mcap(tmp_path / "a.mcap"))
    assert finder.discover.next_step() == start
    finder.step()
    assert finder.discover.next_step() == start + 2


def test_a_growing_file_is_never_given_and_looked_at_ever_more_rarely(tmp_path: Path) -> None:
    finder = Finder(tmp_path, rescan_seconds=600.0)
    path = recorders.unfinished(tmp_path / "a.mcap")
    stats = 0
    for _ in range(600):
        with path.open("ab") as stream:
            stream.write(b"more")
        with counted_stats() as counts:
            assert finder.run(1) == []
        stats += counts["stat"]
    # The file is examined after 2, 4, 8 … seconds.
    assert stats < 20
    assert [held.path for held in finder.discover.report().recording] == [path]
    recorders.write_mcap(path)
    finder.sight(path)
    assert finder.names(2) == ["a.mcap"]


def test_a_complete_file_that_is_still_touched_is_not_given(finder: Finder, tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    for number in range(100):
        os.utime(path, ns=(1, 10**18 + number))
        assert finder.step(1) == []
    assert finder.names(130) == ["a.mcap"]


def test_the_wall_clock_plays_no_part_in_settling(finder: Finder, tmp_path: Path) -> None:
    recorders.write_mcap(tmp_path / "a.mcap")
    finder.step()
    finder.clock.set_now(0)
    assert finder.step(1.9) == []
    assert finder.step(0.2) == ["a.mcap"]


def test_a_finished_file_is_noticed_by_a_sighting_long_before_the_scan(
    finder: Finder, tmp_path: Path
) -> None:
    path = recorders.unfinished(tmp_path / "a.mcap")
    finder.run(30)
    assert finder.state(path) == "recording"
    recorders.write_mcap(path)
    finder.sight(path)
    assert finder.names(2.0) == ["a.mcap"]


def test_a_finished_file_is_found_by_scans_alone(finder: Finder, tmp_path: Path) -> None:
    finder.run(30)
    recorders.write_mcap(tmp_path / "a.mcap")
    assert finder.names(62) == ["a.mcap"]


def test_one_scan_s_files_come_by_age_then_by_path(finder: Finder, tmp_path: Path) -> None:
    for name, mtime in (("c", 1), ("b", 3), ("z", 2), ("a", 3)):
        os.utime(recorders.write_mcap(tmp_path / f"{name}.mcap", seed=ord(name)), ns=(mtime, mtime))
    assert finder.names(5) == ["c.mcap", "z.mcap", "a.mcap", "b.mcap"]


def test_very_many_files_come_in_order_over_several_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_tracker, "_CHECKS_PER_STEP", 3)
    finder = Finder(tmp_path)
    for number in range(10):
        mtime = 100 - number
        os.utime(
            recorders.write_mcap(tmp_path / f"{number}.mcap", size=100, seed=number),
            ns=(mtime, mtime),
        )
    finder.step()
    assert finder.step(2) == ["9.mcap", "8.mcap", "7.mcap"]
    assert finder.discover.next_step() <= finder.clock.monotonic()
    assert finder.names(0) == [f"{number}.mcap" for number in (6, 5, 4, 3, 2, 1, 0)]


def test_what_could_not_be_taken_is_given_again(finder: Finder, tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    assert finder.names(5) == ["a.mcap"]
    finder.discover.again(path)
    assert finder.step() == []
    assert finder.names(2) == ["a.mcap"]
    assert finder.run(100) == []


# The tests below cover files that change after they were given.


def test_new_bytes_in_the_same_place_are_given_again(finder: Finder, tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    before = finder.run(5)[0].fingerprint
    recorders.write_mcap(path, seed=1)
    after = finder.run(FIVE_SCANS_SECONDS + 2)[0].fingerprint
    assert before != after
    assert finder.discover.names(str(before)) == []
    assert finder.discover.names(str(after)) == [path]


def test_a_renamed_file_keeps_its_fingerprint_and_its_name_follows(
    finder: Finder, tmp_path: Path
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    before = finder.run(5)[0]
    moved = tmp_path / "deeper" / "b.mcap"
    moved.parent.mkdir()
    path.rename(moved)
    assert finder.discover.names(str(before.fingerprint)) == []
    finder.sight(path)
    finder.sight(moved)
    [after] = finder.run(3)
    assert after.fingerprint == before.fingerprint
    assert finder.discover.names(str(before.fingerprint)) == [moved]


def test_copies_and_hard_links_are_names_of_one_recording(finder: Finder, tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    shutil.copy(path, tmp_path / "copy.mcap")
    (tmp_path / "link.mcap").hardlink_to(path)
    found = finder.run(5)
    assert len({item.fingerprint for item in found}) == 1
    names = finder.discover.names(str(found[0].fingerprint))
    assert [name.name for name in names] == ["a.mcap", "copy.mcap", "link.mcap"]


def test_a_file_that_went_and_came_back_is_given_again(finder: Finder, tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    finder.run(5)
    path.rename(tmp_path / "a.tmp")
    finder.run(60)
    assert finder.state(path) == "unknown"
    (tmp_path / "a.tmp").rename(path)
    assert finder.names(65) == ["a.mcap"]


def test_a_deleted_folder_is_forgotten_with_all_in_it(finder: Finder, tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    path = recorders.write_mcap(deep / "a.mcap")
    finder.run(5)
    assert finder.state(path) == "complete"
    shutil.rmtree(tmp_path / "a")
    finder.sight(tmp_path / "a")
    finder.step()
    assert finder.state(path) == "unknown"


def test_a_new_folder_is_gone_through_when_it_is_sighted(finder: Finder, tmp_path: Path) -> None:
    finder.step()
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    recorders.write_mcap(deep / "a.mcap")
    finder.sight(tmp_path / "a")
    assert finder.names(2) == ["a.mcap"]


# The tests below cover watched folders.


def test_a_missing_root_is_waited_for_and_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = tmp_path / "disk"
    finder = Finder(root)
    finder.run(120)
    assert finder.discover.report().missing_roots == [root]
    assert [record.message for record in caplog.records] == [f"watched folder {root} is not there"]
    root.mkdir()
    recorders.write_mcap(root / "a.mcap")
    finder.sight(root)
    assert finder.names(5) == ["a.mcap"]
    assert finder.discover.report().missing_roots == []


def test_a_root_that_was_away_gives_its_recordings_again(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    recorders.write_mcap(root / "a.mcap")
    finder = Finder(root)
    assert finder.names(5) == ["a.mcap"]
    root.rename(tmp_path / "away")
    assert finder.run(60) == []
    (tmp_path / "away").rename(root)
    assert finder.names(65) == ["a.mcap"]


def test_a_replaced_root_gives_what_is_in_the_new_one(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    recorders.write_mcap(root / "a.mcap")
    finder = Finder(root)
    finder.run(5)
    root.rename(tmp_path / "old")
    root.mkdir()
    recorders.write_mcap(root / "b.mcap", seed=1)
    finder.sight(root)
    assert finder.names(5) == ["b.mcap"]
    assert finder.state(root / "a.mcap") == "unknown"


def test_overlapping_roots_are_one(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    link = tmp_path / "link"
    link.symlink_to(inner)
    recorders.write_mcap(inner / "a.mcap")
    finder = Finder(inner, tmp_path, link, tmp_path)
    [found] = finder.run(5)
    assert isinstance(found, Recording)
    assert (found.path, found.root) == (inner / "a.mcap", inner)
    assert len(finder.discover.names(str(found.fingerprint))) == 1


def test_a_root_inside_an_excluded_folder_of_another_is_its_own(tmp_path: Path) -> None:
    hidden = tmp_path / ".cache"
    hidden.mkdir()
    recorders.write_mcap(hidden / "a.mcap")
    assert Finder(tmp_path).names(5) == []
    assert Finder(tmp_path, hidden).names(5) == ["a.mcap"]


def test_hints_below_a_root_inside_an_excluded_folder_of_another_are_followed(
    tmp_path: Path,
) -> None:
    hidden = tmp_path / ".cache"
    hidden.mkdir()
    finder = Finder(tmp_path, hidden)
    finder.step()
    finder.sight(recorders.write_mcap(hidden / "a.mcap"))
    assert finder.names(3) == ["a.mcap"]


def test_a_hint_leads_through_no_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    (outside / "day").mkdir(parents=True)
    recorders.write_mcap(outside / "day" / "a.mcap")
    (root / "link").symlink_to(outside)
    finder = Finder(root)
    finder.step()
    for place in ("link/day", "link/day/a.mcap"):
        finder.sight(root / place)
    finder.step()
    assert finder.state(root / "link" / "day" / "a.mcap") == "unknown"


def test_an_answer_to_a_marker_file_is_no_recording_when_a_hint_names_it(tmp_path: Path) -> None:
    finder = Finder(tmp_path, include=["*"])
    finder.step()
    answer = tmp_path / "a.mcap.resync.rejected"
    answer.touch()
    finder.sight(answer)
    finder.step()
    assert finder.state(answer) == "unknown"


def test_a_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    recorders.write_mcap(tmp_path / "real" / "a.mcap")
    [found] = Finder(link).run(5)
    assert found.path == link / "a.mcap"


def test_sightings_that_ask_for_everything_are_not_answered_one_by_one(
    finder: Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[float] = []
    walk = walk_module.walk

    def counted(*arguments: Any) -> Any:
        scans.append(finder.clock.monotonic())
        return walk(*arguments)

    monkeypatch.setattr("agent.discovery.scanner.walk", counted)
    for _ in range(100):
        finder.sight(tmp_path)
        finder.step(0.1)
    # In 10 s there is one scan at the start, then one every settle_seconds.
    assert 4 <= len(scans) <= 6


def test_a_scan_asked_for_during_a_scan_is_not_lost(
    finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = walk_module.walk

    def asking(*arguments: Any) -> Any:
        finder.discover.rescan()
        return walk(*arguments)

    monkeypatch.setattr("agent.discovery.scanner.walk", asking)
    finder.step()
    assert finder.discover.next_step() <= finder.clock.monotonic()


def test_a_sighting_outside_of_what_is_watched_adds_nothing(finder: Finder, tmp_path: Path) -> None:
    (tmp_path / ".hidden").mkdir()
    hidden = recorders.write_mcap(tmp_path / ".hidden" / "a.mcap")
    finder.step()
    finder.sight(hidden)
    finder.sight(hidden.parent)
    finder.sight(Path("/nowhere/a.mcap"))
    assert finder.run(10) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_of_this_user_is_named(finder: Finder, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    finder.step()
    assert finder.discover.report().unreadable_folders == {closed: "Permission denied"}


def test_an_unreadable_folder_is_said_once_and_its_files_are_not_forgotten(
    finder: Finder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    path = recorders.write_mcap(closed / "a.mcap")
    recorders.write_mcap(tmp_path / "b.mcap", seed=1)
    open_ = os.open

    def failing(path: Any, *arguments: Any, **options: Any) -> int:
        if path == str(closed):
            raise PermissionError(13, "Permission denied")
        return open_(path, *arguments, **options)

    assert finder.names(5) == ["a.mcap", "b.mcap"]
    monkeypatch.setattr(os, "open", failing)
    finder.run(180)
    assert finder.discover.report().unreadable_folders == {closed: "Permission denied"}
    assert finder.state(path) == "complete"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_an_unreadable_file_keeps_nobody_waiting(
    finder: Finder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = recorders.write_mcap(tmp_path / "a.mcap")
    recorders.write_mcap(tmp_path / "b.mcap", seed=1)
    look = finder.examiner.look
    broken = True

    def failing(path: Path, **overdue: bool) -> Any:
        if path == bad and broken:
            raise OSError(5, "Input/output error")
        return look(path, **overdue)

    monkeypatch.setattr(finder.examiner, "look", failing)
    assert finder.names(180) == ["b.mcap"]
    [held] = finder.discover.report().waiting
    assert (held.path, held.state, held.reason) == (bad, "unreadable", "EIO")
    assert held.message == "Input/output error"
    assert len(caplog.records) == 1
    broken = False
    assert finder.names(60) == ["a.mcap"]


# The tests below cover links.


def test_links_are_skipped_counted_and_said_once(
    finder: Finder,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    outside = tmp_path_factory.mktemp("outside")
    target = recorders.write_mcap(outside / "a.mcap")
    (tmp_path / "link.mcap").symlink_to(target)
    (tmp_path / "folder").symlink_to(outside)
    (tmp_path / ".hidden").symlink_to(outside)
    finder.sight(tmp_path / "link.mcap")
    finder.sight(tmp_path / "folder")
    assert finder.run(180) == []
    assert finder.discover.report().links == 2
    assert len(caplog.records) == 1


def test_links_are_followed_where_that_is_configured_and_loops_end(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    recorders.write_mcap(outside / "a.mcap")
    (tmp_path / "folder").symlink_to(outside)
    (tmp_path / "again").symlink_to(outside)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "b.mcap").symlink_to(recorders.write_mcap(outside / "real", seed=1))
    finder = Finder(tmp_path, follow_symlinks=True)
    assert sorted(finder.names(5)) == ["a.mcap", "b.mcap"]


# The tests below cover sidecars.


def test_an_optional_sidecar_is_waited_for_alongside_settling(tmp_path: Path) -> None:
    finder = Finder(tmp_path, sidecar="optional")
    path = recorders.write_mcap(tmp_path / "a.mcap")
    finder.step()
    assert finder.step(2) == []
    [held] = finder.discover.report().waiting
    assert (held.state, held.reason) == ("waiting", "sidecar")
    assert held.message == "waits for its sidecar a.json"
    assert finder.step(2.9) == []
    assert finder.step(0.1) == ["a.mcap"]
    assert finder.state(path) == "complete"


def test_a_sidecar_that_comes_ends_the_wait_once_it_has_settled(tmp_path: Path) -> None:
    finder = Finder(tmp_path, sidecar="optional", sidecar_wait_seconds=30)
    path = recorders.write_mcap(tmp_path / "a.mcap")
    finder.run(10)
    sidecar = recorders.write_sidecar(path, {"half": "written"})
    finder.sight(sidecar)
    assert finder.run(1) == []
    [held] = finder.discover.report().waiting
    assert (held.state, held.reason, held.message) == ("settling", "settling", "settling")
    recorders.write_sidecar(path, {"episode_id": "e1"})
    finder.sight(sidecar)
    [found] = finder.run(2)
    assert isinstance(found, Recording)
    assert found.sidecar is not None
    assert found.sidecar.content == {"episode_id": "e1"}


def test_a_missing_required_sidecar_is_left_to_later_steps(tmp_path: Path) -> None:
    finder = Finder(tmp_path, sidecar="required")
    recorders.write_mcap(tmp_path / "a.mcap")
    assert finder.run(4.9) == []
    [found] = finder.run(0.2)
    assert isinstance(found, Recording)
    assert found.sidecar is None


def test_an_ignored_sidecar_is_neither_waited_for_nor_noticed(tmp_path: Path) -> None:
    finder = Finder(tmp_path, sidecar="ignore")
    path = recorders.write_mcap(tmp_path / "a.mcap")
    assert finder.names(2) == ["a.mcap"]
    finder.sight(recorders.write_sidecar(path))
    assert finder.run(120) == []


@pytest.mark.parametrize("by_sighting", [True, False])
def test_a_mended_sidecar_gives_the_recording_once_more(tmp_path: Path, by_sighting: bool) -> None:
    finder = Finder(tmp_path, sidecar="optional")
    path = recorders.write_mcap(tmp_path / "a.mcap")
    sidecar = recorders.write_sidecar(path, ["no object"])
    [first] = finder.run(5)
    assert isinstance(first, Recording)
    assert first.sidecar is not None
    assert first.sidecar.content is None
    recorders.write_sidecar(path, {"episode_id": "e1"})
    if by_sighting:
        finder.sight(sidecar)
    [second] = finder.run(2 if by_sighting else FIVE_SCANS_SECONDS + 2)
    assert isinstance(second, Recording)
    assert second.sidecar is not None
    assert second.sidecar.content == {"episode_id": "e1"}
    assert finder.run(120) == []


def test_a_sidecar_whose_rights_change_gives_the_recording_once_more(tmp_path: Path) -> None:
    finder = Finder(tmp_path, sidecar="optional")
    recorders.write_mcap(tmp_path / "a.mcap")
    sidecar = recorders.write_sidecar(tmp_path / "a.mcap")
    finder.step()
    assert finder.step(6) == ["a.mcap"]
    sidecar.chmod(0o640)
    finder.sight(sidecar)
    assert finder.step() == []
    assert finder.step(2) == ["a.mcap"]


def test_a_sidecar_taken_away_afterwards_gives_the_recording_once_more(tmp_path: Path) -> None:
    """The sidecar may be the reason why the recording failed for good."""
    finder = Finder(tmp_path, sidecar="optional")
    path = recorders.write_mcap(tmp_path / "a.mcap")
    sidecar = recorders.write_sidecar(path)
    assert finder.names(5) == ["a.mcap"]
    sidecar.unlink()
    [found] = finder.run(62)
    assert isinstance(found, Recording)
    assert found.sidecar is None
    assert finder.run(120) == []


def test_a_file_that_was_missed_and_comes_back_unchanged_is_given_again(tmp_path: Path) -> None:
    """The part of the agent that missed the file has given it up as gone."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    finder = Finder(folder)
    path = recorders.write_mcap(folder / "a.mcap")
    [found] = finder.run(2)
    name = str(found.fingerprint)
    assert finder.discover.names(name) == [path]
    path.rename(tmp_path / "elsewhere")
    assert finder.discover.names(name) == []
    (tmp_path / "elsewhere").rename(path)
    assert finder.names(62) == ["a.mcap"]


# The tests below cover the age limit.


def test_what_is_older_than_wanted_at_first_sight_is_skipped_and_listed(tmp_path: Path) -> None:
    old, new = (
        recorders.write_mcap(tmp_path / "old.mcap"),
        recorders.write_mcap(tmp_path / "new.mcap", seed=1),
    )
    os.utime(old, (999, 999))
    os.utime(new, (1001, 1001))
    limit = 1000.0
    finder = Finder(tmp_path, newer_than=lambda: limit)
    finder.step()
    # Time passes, but a file that was young enough when it was found stays accepted.
    limit = 2000.0
    assert finder.names(120) == ["new.mcap"]
    assert finder.discover.report().skipped == [old]
    assert finder.state(old) == "skipped"


def test_a_skipped_file_that_is_written_anew_is_judged_anew(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    os.utime(path, (999, 999))
    finder = Finder(tmp_path, newer_than=1000.0)
    assert finder.run(120) == []
    os.utime(path, (1001, 1001))
    assert finder.names(FIVE_SCANS_SECONDS + 2) == ["a.mcap"]


def test_what_was_young_enough_at_first_sight_is_not_too_old_when_it_changes(
    tmp_path: Path,
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    os.utime(path, (1001, 1001))
    limit = 1000.0
    finder = Finder(tmp_path, newer_than=lambda: limit)
    finder.step()
    limit = 2000.0
    os.utime(path, (1500, 1500))
    assert finder.names(120) == ["a.mcap"]


def test_nothing_is_too_old_while_the_time_is_not_known(tmp_path: Path) -> None:
    recorders.write_mcap(tmp_path / "a.mcap")
    assert Finder(tmp_path, newer_than=lambda: None).names(5) == ["a.mcap"]


# The tests below cover recordings without an end.


def test_a_file_without_end_and_writer_becomes_unfinished(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finder = Finder(tmp_path)
    path = recorders.unfinished(tmp_path / "a.mcap")
    finder.run(599)
    [held] = finder.discover.report().recording
    assert (held.path, held.quiet_seconds) == (path, 599)
    finder.run(2)
    assert finder.discover.report().recording == []
    [unfinished] = finder.discover.report().unfinished
    assert (unfinished.path, unfinished.reason) == (path, "no_end")
    finder.run(600)
    assert len(caplog.records) == 1


def test_an_empty_file_is_still_recording(finder: Finder, tmp_path: Path) -> None:
    (tmp_path / "a.mcap").touch()
    finder.run(10)
    assert finder.state(tmp_path / "a.mcap") == "recording"


def test_a_file_with_a_writer_is_recording_however_long_it_is_quiet(
    finder: Finder, tmp_path: Path
) -> None:
    path = recorders.unfinished(tmp_path / "a.mcap")
    with path.open("ab"):
        finder.run(3600)
        assert finder.state(path) == "recording"
    finder.run(61)
    assert finder.state(path) == "unfinished"


def test_a_complete_file_with_a_writer_is_given_once_the_writer_has_closed_it(
    finder: Finder, tmp_path: Path
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    with path.open("r+b"):
        assert finder.run(300) == []
        assert finder.state(path) == "recording"
        [held] = finder.discover.report().recording
        assert held.reason == "writer"
        assert "open for writing" in held.message
    finder.sight(path)
    assert finder.names(1) == ["a.mcap"]


def test_a_writer_that_closes_without_a_notification_is_noticed_by_the_next_scan(
    finder: Finder, tmp_path: Path
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    with path.open("r+b"):
        finder.run(90)
    assert finder.names(60) == ["a.mcap"]


def test_a_writer_is_waited_for_only_so_long_after_the_last_change(
    finder: Finder, tmp_path: Path
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    with path.open("r+b") as writer:
        assert finder.run(500) == []
        writer.write(path.read_bytes()[:8])
        writer.flush()
        os.utime(path)
        finder.sight(path)
        assert finder.run(590) == []
        assert finder.names(15) == ["a.mcap"]


def test_an_unfinished_file_is_given_once_as_it_is_where_that_is_wanted(tmp_path: Path) -> None:
    path = recorders.unfinished(tmp_path / "a.mcap")
    (tmp_path / "empty.mcap").touch()
    finder = Finder(tmp_path, send_unfinished=True)
    assert finder.run(599) == []
    (found,) = finder.run(10)
    assert isinstance(found, Recording)
    assert (found.path, found.own_tags, found.tail.message_count) == (
        path,
        {"mcap_complete": "false"},
        None,
    )
    assert finder.run(10_000) == []


def test_an_unfinished_file_that_waits_for_its_sidecar_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recorders.unfinished(tmp_path / "a.mcap")
    finder = Finder(tmp_path, send_unfinished=True, sidecar="optional", sidecar_wait_seconds=1200.0)
    assert finder.run(1199) == []
    assert finder.state(path) == "waiting"
    assert finder.names(2) == ["a.mcap"]
    assert [record.event for record in caplog.records] == ["unfinished"]  # type: ignore[attr-defined]


def test_a_file_from_before_this_boot_is_unfinished_at_once(tmp_path: Path) -> None:
    path = recorders.unfinished(tmp_path / "a.mcap")
    finder = Finder(tmp_path, boot_time=path.stat().st_mtime + 1)
    finder.run(3)
    assert finder.state(path) == "unfinished"


def test_where_writers_can_t_be_seen_only_the_boot_says_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_rules, "has_writer", lambda _: None)
    path = recorders.unfinished(tmp_path / "a.mcap")
    finder = Finder(tmp_path)
    finder.run(1200)
    assert finder.state(path) == "recording"
    [held] = finder.discover.report().recording
    assert held.reason == "writer_unknown"
    assert "can't be seen" in held.message
    rebooted = Finder(tmp_path, boot_time=path.stat().st_mtime + 1)
    rebooted.run(3)
    assert rebooted.state(path) == "unfinished"


def test_an_unfinished_file_that_gets_its_end_is_given(finder: Finder, tmp_path: Path) -> None:
    path = recorders.unfinished(tmp_path / "a.mcap")
    finder.run(700)
    recorders.write_mcap(path)
    assert finder.names(62) == ["a.mcap"]


def test_a_damaged_file_is_given_once_and_keeps_nobody_waiting(
    finder: Finder, tmp_path: Path
) -> None:
    bad = recorders.damaged(tmp_path / "a.mcap")
    recorders.write_mcap(tmp_path / "b.mcap", seed=1)
    found = finder.run(600)
    assert [type(item) for item in found] == [Damaged, Recording]
    assert finder.state(bad) == "damaged"
    assert finder.discover.report().counts["damaged"] == 1


# The tests below cover real recorders.


def test_axon_s_recording_is_given_when_its_last_steps_are_done(tmp_path: Path) -> None:
    finder = Finder(tmp_path, sidecar="optional")
    path = tmp_path / "a.mcap"
    steps = recorders.axon_steps(path)
    assert next(steps) == "footer"
    assert next(steps) == "metadata"
    assert finder.run(100) == []
    assert finder.state(path) == "waiting"
    assert next(steps) == "sidecar"
    assert next(steps) == "done"
    finder.sight(tmp_path / "a.mcap.done")
    [found] = finder.run(3)
    assert isinstance(found, Recording)
    assert found.sidecar is not None


def test_axon_s_recording_is_given_after_a_while_without_its_last_steps(tmp_path: Path) -> None:
    finder = Finder(tmp_path, sidecar="optional")
    steps = recorders.axon_steps(tmp_path / "a.mcap")
    assert [next(steps), next(steps)] == ["footer", "metadata"]
    assert finder.run(599) == []
    assert finder.names(2) == ["a.mcap"]


def test_each_split_of_a_bag_is_given_when_its_own_end_is_there(
    finder: Finder, tmp_path: Path
) -> None:
    steps = recorders.rosbag2_steps(tmp_path / "bag", splits=2)
    assert next(steps) == "bag_0.mcap"
    assert finder.names(5) == ["bag_0.mcap"]
    assert next(steps) == "open"
    assert next(steps) == "metadata.yaml"
    assert finder.run(120) == []
    assert finder.state(tmp_path / "bag" / "bag_1.mcap") == "recording"
    assert next(steps) == "bag_1.mcap"
    assert finder.names(65) == ["bag_1.mcap"]


def test_a_compressed_split_is_given_a_minute_after_the_split_is_gone(tmp_path: Path) -> None:
    finder = Finder(tmp_path, include=["*.mcap", "*.mcap.zstd"], sidecar="optional")
    steps = recorders.compression_steps(tmp_path / "a.mcap")
    assert [next(steps), next(steps)] == ["closed", "compressing"]
    assert finder.run(120) == []
    assert next(steps) == "compressed"
    assert finder.run(120) == []
    assert next(steps) == "deleted"
    finder.sight(tmp_path / "a.mcap")
    [found] = finder.run(60)
    assert isinstance(found, Recording)
    assert (found.path.name, found.own_tags) == ("a.mcap.zstd", {"compression": "zstd"})


def test_compressed_files_settle_for_a_minute(tmp_path: Path) -> None:
    finder = Finder(tmp_path, include=["*.mcap.zstd"])
    list(recorders.compression_steps(tmp_path / "a.mcap"))
    assert finder.run(59.9) == []
    assert finder.names(0.2) == ["a.mcap.zstd"]


def test_ignored_recordings_are_counted_by_suffix(finder: Finder, tmp_path: Path) -> None:
    for name in (
        "a.db3",
        "b.db3",
        "c.bag",
        "d.mcap.zstd",
        "e.mcap.active",
        "f.mcap.resync",
        "g.mcap.done",
        "h.txt",
    ):
        (tmp_path / name).touch()
    finder.run(130)
    assert finder.discover.report().ignored == {
        ".db3": 2,
        ".bag": 1,
        ".mcap.zstd": 1,
        ".mcap.active": 1,
    }


@pytest.mark.parametrize(
    "name", [".a.mcap", "a.mcap.tmp", "a.mcap.part", ".dir/a.mcap", "dir.active/a.mcap", "a.txt"]
)
def test_what_the_rules_leave_out_is_not_given(finder: Finder, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    recorders.write_mcap(tmp_path / name)
    assert finder.run(5) == []


def test_a_folder_or_pipe_of_a_recording_s_name_is_no_recording(
    finder: Finder, tmp_path: Path
) -> None:
    (tmp_path / "a.mcap").mkdir()
    os.mkfifo(tmp_path / "b.mcap")
    recorders.write_mcap(tmp_path / "a.mcap" / "c.mcap")
    finder.sight(tmp_path / "b.mcap")
    assert finder.names(5) == ["c.mcap"]


def test_a_file_that_vanishes_between_two_looks_is_forgotten(
    finder: Finder, tmp_path: Path
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    finder.step()
    path.unlink()
    assert finder.step(2) == []
    assert finder.state(path) == "unknown"


# The tests below cover strange dates and mistakes in the agent.


def test_files_of_any_date_are_given_by_their_dates(wide: Path) -> None:
    dates = [-(2**62), -10_000_000_000, -1, 0, 1_790_000_000, 10_413_792_000, 2**62]
    for seed, seconds in enumerate(dates):
        recorders.dated(recorders.write_mcap(wide / f"{seconds}.mcap", seed=seed), seconds)
    finder = Finder(wide)
    assert finder.names(10) == [f"{seconds}.mcap" for seconds in dates]
    assert [path.name for path in finder.discover.below(wide)] == sorted(
        f"{seconds}.mcap" for seconds in dates
    )


def test_very_many_files_of_any_date_are_given_by_their_dates(wide: Path) -> None:
    content = recorders.write_mcap(wide / "aside.tmp").read_bytes()
    dates = [-(2**62), *range(1_790_000_000, 1_790_001_200), 2**62]
    for seconds in dates:
        path = wide / f"{seconds}.mcap"
        path.write_bytes(content)
        recorders.dated(path, seconds)
    assert Finder(wide).names(10) == [f"{seconds}.mcap" for seconds in dates]


def test_by_its_date_a_file_of_the_far_past_is_too_old_and_one_of_the_far_future_is_not(
    wide: Path,
) -> None:
    recorders.dated(recorders.write_mcap(wide / "past.mcap"), -(2**62))
    recorders.dated(recorders.write_mcap(wide / "future.mcap", seed=1), 2**62)
    finder = Finder(wide, newer_than=0.0)
    assert finder.names(10) == ["future.mcap"]
    assert finder.state(wide / "past.mcap") == "skipped"


class FailingFunction:
    """A function of the discovery that fails for one path. It imitates a mistake in the agent."""

    def __init__(self, part: Callable[..., Any], path: Path, argument: int) -> None:
        self.error: Exception | None = ZeroDivisionError("oops")
        self._part, self._path, self._argument = part, path, argument

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        given = arguments[self._argument]
        if self.error and (
            given == self._path.stat()
            if isinstance(given, os.stat_result)
            else given == str(self._path)
        ):
            raise self.error
        return self._part(*arguments, **named)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, str]]:
    """Return the paths and errors that the log names."""
    told = [
        (getattr(record, "path", ""), record.exc_info)
        for record in caplog.records
        if record.levelname == "ERROR"
    ]
    return [(path, repr(about[1]) if about else "") for path, about in told]


OOPS = "ZeroDivisionError('oops')"


def test_a_mistake_over_one_file_is_said_once_and_keeps_no_other_from_being_found(
    finder: Finder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = recorders.write_mcap(tmp_path / "b.mcap", seed=1)
    recorders.write_mcap(tmp_path / "a.mcap", seed=2)
    recorders.write_mcap(tmp_path / "c.mcap", seed=3)
    failing_function = FailingFunction(file_table.stamp_of, bad, 0)
    monkeypatch.setattr(file_tracker, "stamp_of", failing_function)
    assert finder.names(FIVE_SCANS_SECONDS) == ["a.mcap", "c.mcap"]
    assert said(caplog) == [(str(bad), OOPS)]
    failing_function.error = ValueError("another one")
    finder.run(FIVE_SCANS_SECONDS)
    assert said(caplog) == [(str(bad), OOPS), (str(bad), "ValueError('another one')")]
    failing_function.error = None
    assert finder.names(65) == ["b.mcap"]


def test_a_mistake_over_one_file_s_second_look_is_said_once(
    finder: Finder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = recorders.write_mcap(tmp_path / "b.mcap", seed=1)
    recorders.write_mcap(tmp_path / "a.mcap", seed=2)
    look = finder.examiner.look

    def failing(path: Path, **overdue: bool) -> Any:
        if path == bad:
            raise ZeroDivisionError("oops")
        return look(path, **overdue)

    with monkeypatch.context() as patch:
        patch.setattr(finder.examiner, "look", failing)
        assert finder.names(FIVE_SCANS_SECONDS) == ["a.mcap"]
    assert said(caplog) == [(str(bad), OOPS)]
    assert finder.names(65) == ["b.mcap"]


def test_a_mistake_over_one_folder_is_said_once_and_its_files_are_not_forgotten(
    finder: Finder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for number, folder in enumerate(("a", "bad", "bad/below", "c")):
        (tmp_path / folder).mkdir()
        recorders.write_mcap(tmp_path / folder / f"{number}.mcap", seed=number)
    assert len(finder.names(5)) == 4
    failing_function = FailingFunction(walk_module._listed, tmp_path / "bad", 0)
    monkeypatch.setattr(walk_module, "_listed", failing_function)
    recorders.write_mcap(tmp_path / "a" / "new.mcap", seed=4)
    recorders.write_mcap(tmp_path / "c" / "newer.mcap", seed=5)
    assert finder.names(FIVE_SCANS_SECONDS) == ["new.mcap", "newer.mcap"]
    assert said(caplog) == [(str(tmp_path / "bad"), OOPS)]
    assert finder.discover.report().unreadable_folders == {
        tmp_path / "bad": "a mistake in the agent; see the log"
    }
    assert finder.state(tmp_path / "bad" / "below" / "2.mcap") == "complete"
    failing_function.error = None
    recorders.write_mcap(tmp_path / "bad" / "newest.mcap", seed=6)
    assert finder.names(65) == ["newest.mcap"]
    assert not finder.discover.report().unreadable_folders


def test_a_mistake_over_one_watched_folder_keeps_no_other_from_being_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    roots = [tmp_path / "a", tmp_path / "b"]
    for number, root in enumerate(roots):
        root.mkdir()
        recorders.write_mcap(root / f"{number}.mcap", seed=number)
    monkeypatch.setattr(scanner, "walk", FailingFunction(walk_module.walk, roots[0], 0))
    assert Finder(*roots).names(FIVE_SCANS_SECONDS) == ["1.mcap"]
    assert said(caplog) == [(str(roots[0]), OOPS)]


def test_a_mistake_over_one_hint_loses_no_other_and_the_next_scan_looks_there(
    finder: Finder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    finder.step()
    paths = [
        recorders.write_mcap(tmp_path / f"{name}.mcap", seed=seed)
        for seed, name in enumerate("abc")
    ]
    marker = tmp_path / "a.mcap.resync"
    marker.touch()
    with monkeypatch.context() as patch:
        patch.setattr(file_tracker, "stamp_of", FailingFunction(file_table.stamp_of, paths[1], 0))
        for path in (*paths, marker):
            finder.sight(path)
        assert finder.names(5) == ["a.mcap", "c.mcap"]
    assert finder.discover.markers() == [marker]
    assert said(caplog) == [(str(paths[1]), OOPS)]
    assert finder.names(60) == ["b.mcap"]


def test_the_touch_files_of_a_folder_are_handed_over_whatever_happens_beside_them(
    finder: Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "a.mcap.resync"
    marker.touch()
    recorders.write_mcap(tmp_path / "a.mcap")
    monkeypatch.setattr(finder.discover._tracker, "settle_batch", lambda *_: 1 / 0)
    finder.run(65)
    assert finder.discover.markers() == [marker]


def test_after_a_scan_that_failed_the_next_one_is_due_and_asks_for_as_much(
    finder: Finder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    paths = [recorders.write_mcap(tmp_path / f"{number}.mcap", seed=number) for number in range(20)]
    finder.run(10)
    for seed, path in enumerate(paths):
        recorders.write_mcap(path, seed=100 + seed)
    with monkeypatch.context() as patch:
        patch.setattr(scanner, "tops", lambda *_: 1 / 0)
        ticket = finder.discover.next_full_scan()
        finder.discover.rescan()
        assert finder.names(FIVE_SCANS_SECONDS) == []
        assert math.isfinite(finder.discover.next_step())
        assert said(caplog) == [(str(tmp_path), "ZeroDivisionError('division by zero')")]
        assert (finder.discover.scans, ticket.begun, ticket.done) == (1, True, False)
    assert len(finder.run(65)) == 20
    assert ticket.done


def test_a_look_that_could_not_be_scheduled_is_made_after_the_next_scan(
    finder: Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorders.write_mcap(tmp_path / "a.mcap")

    def fail(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(finder.discover._tracker._queue, "push", fail)
        patch.setattr(finder.discover._tracker._queue, "push_all", fail)
        assert finder.names(30) == []
    assert finder.names(65) == ["a.mcap"]


def test_of_very_many_mistakes_the_first_are_named_and_the_rest_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    many(tmp_path, 1100)
    finder = Finder(tmp_path)
    monkeypatch.setattr(file_tracker, "stamp_of", lambda _: 1 / 0)
    finder.run(FIVE_SCANS_SECONDS)
    assert len(said(caplog)) == 1001
    assert len({path for path, _ in said(caplog)}) == 1001


# The tests below cover the cost of scans.


def many(folder: Path, count: int) -> None:
    content = recorders.write_mcap(folder / "template", size=100, crc=False).read_bytes()
    (folder / "template").unlink()
    for number in range(count):
        part = folder / str(number % 10)
        part.mkdir(exist_ok=True)
        (part / f"{number:06}.mcap").write_bytes(content[:-1] + content[-1:])


def test_what_is_known_costs_one_stat_in_five_scans(tmp_path: Path) -> None:
    many(tmp_path, 10_000)
    finder = Finder(tmp_path)
    assert len(finder.run(10)) == 10_000
    # The pause before the next scan depends on how long the first one took.
    pause = finder.discover.next_step() - finder.clock.monotonic()
    with counted_stats() as counts:
        assert finder.step(pause) == []
    assert 2000 <= counts["stat"] < 2100
    # Only the folders are opened.
    assert (counts["open"], counts["pread"]) == (11, 0)


def test_a_sighting_costs_no_scan(tmp_path: Path) -> None:
    many(tmp_path, 1000)
    finder = Finder(tmp_path)
    finder.run(10)
    finder.sight(tmp_path / "0" / "000000.mcap")
    with counted_stats() as counts:
        finder.step()
    assert counts["stat"] < 10


def test_a_known_file_takes_little_memory(tmp_path: Path) -> None:
    many(tmp_path, 2000)
    finder = Finder(tmp_path)
    tracemalloc.start()
    try:
        finder.run(10)
        gc.collect()
        # Threads of other tests may still be ending, and their memory must not count.
        ours = tracemalloc.Filter(inclusive=True, filename_pattern="*/agent/*")
        held = sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)
    finally:
        tracemalloc.stop()
    # The memory includes what the examiner remembers, which has its own limit.
    assert held < 2000 * 600


def test_the_names_of_one_recording_are_told_together(finder: Finder, tmp_path: Path) -> None:
    one = recorders.write_mcap(tmp_path / "one.mcap", seed=1)
    shutil.copyfile(one, tmp_path / "copy.mcap")
    recorders.write_mcap(tmp_path / "two.mcap", seed=2)
    finder.run(10)
    assert finder.discover.report().copies == [[tmp_path / "copy.mcap", one]]


# The tests below cover marker files.


def seen_markers(finder: Finder) -> list[str]:
    return sorted(path.name for path in finder.discover.markers())


def test_touch_files_are_seen_in_scans_though_their_names_are_excluded_and_handed_over_once(
    finder: Finder,
) -> None:
    root = finder.roots[0]
    (root / "day").mkdir()
    for name in ("a.mcap.resync", "b.mcap.first", ".resync", "day/.resync", ".hidden.mcap.resync"):
        (root / name).touch()
    finder.run(0)
    assert seen_markers(finder) == [
        ".hidden.mcap.resync",
        ".resync",
        ".resync",
        "a.mcap.resync",
        "b.mcap.first",
    ]
    assert seen_markers(finder) == []


def test_touch_files_are_seen_by_hints_without_a_scan(finder: Finder) -> None:
    finder.run(0)
    marker = finder.roots[0] / ".resync"
    marker.touch()
    finder.sight(marker)
    finder.step()
    assert list(finder.discover.markers()) == [marker]


@pytest.mark.parametrize("hinted", [False, True])
def test_folders_that_are_excluded_stay_excluded_with_their_touch_files(
    finder: Finder, hinted: bool
) -> None:
    if hinted:
        finder.run(0)
    marker = finder.roots[0] / ".trash" / "a.mcap.resync"
    marker.parent.mkdir()
    marker.touch()
    if hinted:
        finder.sight(marker)
        finder.step()
    else:
        finder.run(0)
    assert seen_markers(finder) == []


@pytest.mark.parametrize("hinted", [False, True])
def test_files_that_only_end_like_touch_files_are_none(finder: Finder, hinted: bool) -> None:
    if hinted:
        finder.run(0)
    for name in ("notes.first", "unsynced.resync"):
        (finder.roots[0] / name).touch()
        if hinted:
            finder.sight(finder.roots[0] / name)
    finder.run(0)
    assert seen_markers(finder) == []
    assert finder.discover.report().ignored == {}


def test_reasons_of_rejected_touch_files_are_told(finder: Finder) -> None:
    reason = finder.roots[0] / "a.mcap.resync.rejected"
    reason.touch()
    finder.run(0)
    assert (list(finder.discover.report().rejected), seen_markers(finder)) == ([reason], [])


def test_what_changed_behind_our_back_has_to_settle_anew(finder: Finder) -> None:
    path = recorders.write_mcap(finder.roots[0] / "a.mcap")
    finder.run(10)
    assert finder.discover.stands(path) == ("complete", "")
    recorders.write_mcap(path, seed=1)
    state, _ = finder.discover.stands(path) or ("", "")
    assert (state, finder.state(path)) == ("settling", "complete")
    assert [str(item.path) for item in finder.run(3)] == [str(path)]
    assert finder.discover.stands(path) == ("complete", "")
    assert finder.discover.stands(path.with_name("b.mcap")) is None


def test_a_folder_is_unsettled_while_what_lay_there_waits_to_be_examined(tmp_path: Path) -> None:
    finder = Finder(tmp_path, sidecar="optional")
    recorders.write_mcap(tmp_path / "a.mcap")
    finder.step()
    now = finder.clock.monotonic()
    seen = [finder.discover.unsettled(tmp_path, now)]
    for _ in range(7):
        finder.step(1)
        seen.append(finder.discover.unsettled(tmp_path, now))
    assert seen == [True] * 5 + [False] * 3, "settling, then waiting for its sidecar"
    recorders.write_mcap(tmp_path / "b.mcap", seed=1)
    finder.discover.rescan()
    finder.step()
    assert not finder.discover.unsettled(tmp_path, now), "it came later"
    assert finder.discover.unsettled(tmp_path, finder.clock.monotonic())
    assert not finder.discover.unsettled(tmp_path / "other", finder.clock.monotonic())


def test_a_file_that_settles_again_keeps_no_reason_of_its_state_before(finder: Finder) -> None:
    path = recorders.unfinished(finder.roots[0] / "a.mcap")
    finder.run(5)
    assert [held.reason for held in finder.discover.report().recording] == ["recording"]
    finder.discover.again(path)
    [held] = finder.discover.report().waiting
    assert (held.state, held.reason, held.message) == ("settling", "settling", "settling")


def test_no_report_has_the_state_of_a_file_without_its_reason(
    finder: Finder, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorders.unfinished(finder.roots[0] / "a.mcap")
    set_state = file_table.FileRow.set_state
    lock = finder.discover._lock
    states: list[tuple[str, bool]] = []

    def is_free() -> bool:
        """Return whether another thread could make a report now."""
        if not lock.acquire(blocking=False):
            return False
        lock.release()
        return True

    def set_and_note_state(
        file: file_table.FileRow, state: file_table.State, *reasons: str
    ) -> None:
        with ThreadPoolExecutor() as executor:
            states.append((state, executor.submit(is_free).result()))
        set_state(file, state, *reasons)

    monkeypatch.setattr(file_table.FileRow, "set_state", set_and_note_state)
    finder.run(5)
    assert states == [("settling", False), ("recording", False)]
    monkeypatch.setattr(finder.examiner, "look", Mock(side_effect=OSError(errno.EIO, "EIO")))
    finder.run(600)
    assert states[-1] == ("unreadable", False)


def test_how_a_file_stands_is_never_told_of_another_one(
    finder: Finder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    assert finder.names(5) == ["a.mcap"]

    def swap_then_fail(*_: object, **__: object) -> None:
        finder.discover._tracker.table.forget(str(path))
        finder.discover._tracker.table.add(str(tmp_path), "b.mcap", 1, 0, 0.0).why = "another one"
        raise FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", swap_then_fail)
        assert finder.discover.stands(path) == ("complete", "")


@pytest.mark.parametrize(
    "name", ["lost+found", "$RECYCLE.BIN", "#recycle", ".Trash", ".Trash-1000", "@eaDir"]
)
def test_a_folder_of_the_system_is_never_searched(tmp_path: Path, name: str) -> None:
    finder = Finder(tmp_path, exclude=[])
    (tmp_path / name / "1000").mkdir(parents=True)
    path = recorders.write_mcap(tmp_path / name / "1000" / "a.mcap")
    recorders.write_mcap(tmp_path / "b.mcap", seed=1)
    finder.sight(path)
    assert finder.names(120) == ["b.mcap"]


def test_a_dead_compressor_is_waited_for_only_for_a_while(tmp_path: Path) -> None:
    finder = Finder(tmp_path, include=["*.mcap", "*.mcap.zstd"], sidecar="ignore")
    plain = recorders.write_mcap(tmp_path / "a.mcap")
    compressed = plain.with_name("a.mcap.zstd")
    compressed.write_bytes(b"half a frame")
    os.utime(compressed, (0, 0))
    assert finder.names(500) == []
    assert finder.names(200) == ["a.mcap"]
    assert finder.names(200) == []
