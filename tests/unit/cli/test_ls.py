"""`ls` and `scan`: the state of each file, read only from the disk and the history."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.control import ControlServer
from agent.model.sync_log import Fault
from agent.model.values import utc_text
from tests.harness.console import QUEUED, Console
from tests.harness.fakes.operator import FakeOperator
from tests.harness.recorders import damaged, dated, unfinished, write_mcap

OFFLINE = Fault("offline", "refused", "CreateLogicalUpload: refused", "check the robot's network")


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path, "sidecar_wait_seconds = 60")


def rows(console: Console, *arguments: str | Path) -> dict[str, dict[str, Any]]:
    told = [json.loads(line) for line in console.run(*arguments, "--json").stdout.splitlines()]
    return {os.path.relpath(row["path"], console.root): row for row in told}


def states(console: Console, *arguments: str | Path) -> dict[str, str]:
    return {name: row["state"] for name, row in rows(console, "ls", *arguments).items()}


def recording(console: Console, name: str, *, seed: int = 0, age: float = 3600) -> Path:
    path = write_mcap(console.root / name, seed=seed)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def queued(console: Console, path: Path, **fields: Any) -> None:
    mtime = utc_text(path.stat().st_mtime_ns / 1e9)
    console.remember(path, **{"mtime": mtime, **fields})


@pytest.mark.parametrize("zone", ["UTC", "XYZ-14", "XYZ+12"])
def test_files_of_any_date_are_listed_and_explained(
    wide: Path, zone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        console = Console(wide, 'sidecar = "ignore"', 'newer_than = "2020-01-01"')
        dates = {
            "far.mcap": 2**62,
            "2300.mcap": 10_413_792_000,
            "1653.mcap": -10_000_000_000,
            "before.db3": -(2**62),
        }
        for seed, (name, seconds) in enumerate(dates.items()):
            dated(write_mcap(console.root / name, seed=seed), seconds)
        found = {
            name: (row["state"], row["mtime"][:10]) for name, row in rows(console, "ls").items()
        }
        assert found == {
            "1653.mcap": ("skipped", "1653-02-10"),
            "2300.mcap": ("new", "2300-01-01"),
            "before.db3": ("ignored", "0001-01-01"),
            "far.mcap": ("new", "9999-12-31"),
        }
        assert len(console.run("ls").stdout.splitlines()) == 4
        assert list(rows(console, "ls", "--since", "2299-01-01")) == ["2300.mcap", "far.mcap"]
        for name in dates:
            assert console.run("why", console.root / name).stdout
        assert console.run("scan").exit_code == 0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_every_state_has_its_word(console: Console) -> None:
    done = {"status": "completed", "completed_at": QUEUED}
    queued(console, recording(console, "synced.mcap", seed=1), **done)
    queued(console, recording(console, "queued.mcap", seed=2))
    queued(console, recording(console, "again.mcap", seed=3), **done)
    queued(console, console.root / "again.mcap", resync=True)
    queued(console, recording(console, "failed.mcap", seed=4), status="failed", error=OFFLINE)
    recording(console, "found.mcap", seed=5)
    recording(console, "fresh.mcap", seed=6, age=0)
    unfinished(console.root / "open.mcap")
    os.utime(unfinished(console.root / "left.mcap", seed=7), (0, 0))
    os.utime(damaged(console.root / "broken.mcap"), (0, 0))
    (console.root / "x.mcap.tmp").touch()
    recording(console, ".hidden.mcap", seed=8)
    (console.root / "old.db3").touch()
    (console.root / "notes.txt").touch()
    (console.root / ".trash").mkdir()
    (console.root / "link.mcap").symlink_to("found.mcap")
    found = rows(console, "ls")
    assert {name: row["state"] for name, row in found.items()} == {
        "synced.mcap": "synced",
        "queued.mcap": "queued",
        "again.mcap": "queued",
        "failed.mcap": "failed",
        "found.mcap": "new",
        "fresh.mcap": "settling",
        "open.mcap": "recording",
        "left.mcap": "unfinished",
        "broken.mcap": "damaged",
        "x.mcap.tmp": "ignored",
        ".hidden.mcap": "excluded",
        "old.db3": "ignored",
        ".trash": "excluded",
        "link.mcap": "ignored",
    }
    assert found["failed.mcap"]["why"] == OFFLINE.message
    assert (found["synced.mcap"]["at"], found["again.mcap"]["synced_at"]) == (QUEUED, QUEUED)


def test_a_moved_recording_is_known_by_its_bytes_and_a_replaced_one_is_new(
    console: Console,
) -> None:
    path = recording(console, "a.mcap", seed=1)
    queued(console, path, status="completed", completed_at=QUEUED)
    path.rename(console.root / "b.mcap")
    recording(console, "a.mcap", seed=2, age=7200)
    assert states(console) == {"a.mcap": "new", "b.mcap": "synced"}


def test_a_folder_and_a_time_narrow_it_down(console: Console) -> None:
    (console.root / "x").mkdir()
    recording(console, "a.mcap", seed=1)
    recording(console, "x/b.mcap", seed=2)
    recording(console, "x/c.mcap", seed=3, age=90_000)
    assert list(states(console)) == ["a.mcap", "x/b.mcap", "x/c.mcap"]
    assert list(states(console, console.root / "x")) == ["x/b.mcap", "x/c.mcap"]
    assert list(states(console, console.root / "x" / "c.mcap")) == ["x/c.mcap"]
    assert list(states(console, "--since", "yesterday")) == ["a.mcap", "x/b.mcap"]
    assert console.run("ls", console.root / "nosuch").exit_code == 2


def test_a_folder_with_several_names_is_listed_once_and_loops_of_links_end(
    console: Console,
) -> None:
    console.configure("follow_symlinks = true")
    (console.root / "day").mkdir()
    recording(console, "day/a.mcap", seed=1)
    (console.root / "loop").symlink_to(console.root)
    (console.root / "same").symlink_to(console.root / "day")
    told = console.run("ls", "--json").stdout.splitlines()
    assert [json.loads(line)["path"] for line in told] == [f"{console.root}/day/a.mcap"]


def test_what_is_being_sent_is_told_from_what_waits(console: Console) -> None:
    queued(console, recording(console, "a.mcap", seed=1), status="in_progress")
    queued(console, recording(console, "b.mcap", seed=2), status="in_progress")
    with console.running(uploads=[{"id": 1}]):
        assert states(console) == {"a.mcap": "uploading", "b.mcap": "queued"}
    assert states(console) == {"a.mcap": "queued", "b.mcap": "queued"}


def test_a_line_for_people_has_state_size_time_path_and_reason(console: Console) -> None:
    queued(console, recording(console, "a.mcap"), status="failed", error=OFFLINE)
    (line,) = console.run("ls").stdout.splitlines()
    assert line.startswith("failed ")
    assert line.endswith(f"  {console.root}/a.mcap  ({OFFLINE.message})")
    assert " kB " in line


def test_a_watched_folder_that_is_not_there_is_named(console: Console) -> None:
    shutil.rmtree(console.root)
    assert states(console) == {".": "missing"}


def test_a_dry_run_lists_what_would_go_with_its_bytes(console: Console) -> None:
    path = recording(console, "a.mcap", seed=1)
    queued(console, recording(console, "b.mcap", seed=2), status="completed", completed_at=QUEUED)
    queued(console, recording(console, "c.mcap", seed=3), status="failed", error=OFFLINE)
    queued(
        console,
        recording(console, "d.mcap", seed=4),
        status="failed",
        error=OFFLINE,
        next_retry_at=QUEUED,
    )
    unfinished(console.root / "open.mcap")
    assert {name: row["size"] for name, row in rows(console, "scan", "--dry-run").items()} == {
        "a.mcap": path.stat().st_size,
        "d.mcap": path.stat().st_size,
    }
    assert (
        console.run("scan", "--dry-run").stdout.splitlines()[-1] == "2 recordings to send, 132.4 kB"
    )


@pytest.fixture
def operator(console: Console) -> Iterator[FakeOperator]:
    operator = FakeOperator()
    server = ControlServer(console.state, operator)
    server.start()
    yield operator
    server.stop(1)


def test_a_scan_asks_the_running_agent_to_look(console: Console, operator: FakeOperator) -> None:
    assert console.run("scan", "--dry-run").stdout == "0 recordings to send, 0 B\n"
    assert operator.asked_for == []
    assert console.run("scan").stdout.splitlines()[-1] == "the agent scans all watched folders now"
    assert operator.asked_for == ["rescan"]


def test_a_scan_without_an_agent_only_lists(console: Console) -> None:
    told = console.run("scan")
    assert told.exit_code == 0
    assert (
        told.stdout.splitlines()[-1]
        == "no agent is running: it scans all watched folders when it starts"
    )
