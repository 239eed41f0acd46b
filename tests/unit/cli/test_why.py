"""`why`: the command uses the same rules as the agent, and looks into the history first."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli.file_rules import HISTORY_EXPIRED
from agent.model.sync_log import DocumentSession, Fault
from tests.harness.console import QUEUED, Console
from tests.harness.recorders import axon_steps, damaged, unfinished, write_mcap

OFFLINE = Fault("offline", "refused", "CreateLogicalUpload: refused", "check the robot's network")


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path, "sidecar_wait_seconds = 60", "unfinished_minutes = 10")


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Set the time zone to five hours behind UTC."""
    monkeypatch.setenv("TZ", "EST5")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def age(path: Path, seconds: float) -> None:
    """Set the times of the file to ``seconds`` ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


SESSION = DocumentSession(bucket="b", object_key="k")


def last(rules: list[dict[str, Any]]) -> tuple[str, bool, str]:
    return rules[-1]["rule"], rules[-1]["ok"], rules[-1]["says"]


def test_a_recording_in_the_bucket_waits_for_no_sidecar(console: Console) -> None:
    path = write_mcap(console.root / "a.mcap")
    console.remember(path, status="completed", session=SESSION, completed_at=QUEUED)
    rules = console.why(path)
    assert last(rules) == ("uploaded", True, "b/k")
    assert all(rule["ok"] for rule in rules)


def test_what_was_uploaded_and_forgotten_waits_for_nothing(console: Console) -> None:
    path = write_mcap(console.root / "a.mcap")
    assert console.run("scan", "--dry-run", "--json").stdout.count("\n") == 1
    log = console.remember(path, status="completed", completed_at=QUEUED)
    with console._writer() as history:
        history.expire([log.fingerprint])
    assert last(console.why(path)) == ("uploaded", True, HISTORY_EXPIRED)
    assert console.json("ls")["state"] == "synced"
    assert console.run("scan", "--dry-run", "--json").stdout == ""


def test_a_recording_of_axon_in_the_bucket_waits_for_nothing(console: Console) -> None:
    path = console.root / "a.mcap"
    steps = axon_steps(path)
    next(steps)
    next(steps)
    age(path, 10)
    assert last(console.why(path))[:2] == ("complete", False)
    console.remember(path, status="completed", session=SESSION, completed_at=QUEUED)
    assert last(console.why(path)) == ("uploaded", True, "b/k")


def test_without_a_document_a_sidecar_is_awaited_until_its_time_is_over(console: Console) -> None:
    path = write_mcap(console.root / "a.mcap")
    assert last(console.why(path)) == ("queued", False, "it was changed just now")
    age(path, 10)
    rule, ok, says = last(console.why(path))
    assert (rule, ok) == ("complete", False)
    assert "sidecar" in says
    age(path, 61)
    assert last(console.why(path)) == ("queued", False, "it is not queued yet")


def test_settings_that_came_later_hide_nothing_that_is_in_the_bucket(console: Console) -> None:
    path = write_mcap(console.root / "a.mcap")
    age(path, 3600)
    console.configure('newer_than = "1m"')
    assert last(console.why(path))[:2] == ("age", False)
    console.remember(path, status="completed", session=SESSION, completed_at=QUEUED)
    assert last(console.why(path)) == ("uploaded", True, "b/k")


def test_a_required_sidecar_has_to_be_written(console: Console) -> None:
    path = write_mcap(console.root / "a.mcap")
    age(path, 10)
    assert "uploaded without a sidecar" in console.why(path)[-1]["remedy"]
    console.configure("sidecar_wait_seconds = 60", 'sidecar = "required"')
    assert "write its sidecar" in console.why(path)[-1]["remedy"]


def test_a_marker_file_is_no_recording_whatever_include_says(console: Console) -> None:
    console.configure('include = ["*"]')
    marker = console.root / "a.mcap.resync"
    marker.touch()
    rule, ok, says = last(console.why(marker))
    assert (rule, ok) == ("include", False)
    assert "marker file" in says
    assert console.run("ls").stdout == ""


def test_a_file_without_an_end_is_still_being_recorded(console: Console) -> None:
    path = unfinished(console.root / "a.mcap")
    rule, ok, says = last(console.why(path))
    assert (rule, ok) == ("complete", False)
    assert "still being recorded" in says


def test_a_file_without_an_end_and_writer_is_unfinished_after_a_while(console: Console) -> None:
    path = unfinished(console.root / "a.mcap")
    age(path, 601)
    assert "unfinished" in last(console.why(path))[2]
    with path.open("ab"):
        assert "a program has it open for writing" in last(console.why(path))[2]
    console.configure('unfinished = "upload"')
    assert last(console.why(path))[:2] == ("queued", False)


def test_a_file_from_before_the_boot_is_unfinished_at_once(console: Console) -> None:
    console.configure("unfinished_minutes = 500000")
    path = unfinished(console.root / "a.mcap")
    age(path, time.clock_gettime(time.CLOCK_BOOTTIME) + 60)
    assert "unfinished" in last(console.why(path))[2]


def test_what_is_ok_needs_no_remedy(console: Console) -> None:
    path = damaged(console.root / "a.mcap")
    age(path, 10)
    *passed, failed = console.why(path)
    assert [rule["remedy"] for rule in passed] == [""] * len(passed)
    assert len(passed) >= 4
    assert "mcap recover" in failed["remedy"]
    assert "→" not in "".join(console.run("why", path).stdout.splitlines()[:-1])


def test_a_way_with_dots_is_no_hidden_file(console: Console) -> None:
    path = write_mcap(console.root / "a.mcap")
    (console.root / "x").mkdir()
    rules = console.why(console.root / "x" / ".." / path.name)
    assert all(rule["ok"] for rule in rules[:3])
    hidden = write_mcap(console.root / ".a.mcap")
    assert last(console.why(hidden)) == ("exclude", False, ".a.mcap matches .*")


def test_a_file_elsewhere_needs_its_folder_watched(console: Console, tmp_path: Path) -> None:
    path = write_mcap(tmp_path / "a.mcap")
    assert console.why(path)[-1]["remedy"] == "add its folder to watch.roots"


def test_a_folder_is_named_as_such(console: Console) -> None:
    assert last(console.why(console.root)) == ("file", False, "it is a folder")


def test_a_file_that_is_gone_leads_to_the_history(console: Console) -> None:
    rule, ok, says = last(console.why(console.root / "gone.mcap"))
    assert (rule, ok, says) == ("file", False, "it is not there")


def test_a_watched_folder_behind_a_link_is_found_by_its_own_name(
    console: Console, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    console.root.rmdir()
    console.root.symlink_to(tmp_path / "disk")
    path = write_mcap(tmp_path / "disk" / "a.mcap")
    assert console.why(path)[0]["ok"]


def test_a_link_below_a_watched_folder_is_named(console: Console, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (console.root / "day").symlink_to(tmp_path / "disk")
    write_mcap(tmp_path / "disk" / "a.mcap")
    assert (
        last(console.why(console.root / "day" / "a.mcap"))[2]
        == f"{console.root}/day is a symbolic link"
    )


@pytest.mark.usefixtures("zone")
def test_people_see_local_time_and_programs_utc(console: Console) -> None:
    path = write_mcap(console.root / "a.mcap")
    console.remember(path, status="failed", error=OFFLINE, next_retry_at=QUEUED)
    assert console.why(path)[-1]["at"] == QUEUED
    shown = console.run("why", path).stdout
    assert "next try at 2026-05-01 05:00:00" in shown
    assert "10:00:00" not in shown


def test_a_queued_recording_waits_for_the_agent_the_gate_or_its_turn(console: Console) -> None:
    path, other = (
        write_mcap(console.root / "a.mcap", seed=1),
        write_mcap(console.root / "b.mcap", seed=2),
    )
    console.remember(other)
    console.remember(path, error=OFFLINE)
    assert console.why(path)[-1]["remedy"] == "start the agent"
    assert "CreateLogicalUpload" in console.why(path)[-1]["says"]
    gate = {
        "reason": "no network",
        "hint": "plug it in",
        "since": QUEUED,
        "next_probe": QUEUED,
        "cause": "cloud",
    }
    with console.running(gate=gate):
        closed = console.why(path)[-1]
    assert (closed["rule"], closed["says"], closed["at"]) == (
        "gate",
        "no network; next try",
        QUEUED,
    )
    with console.running():
        assert last(console.why(path))[2].startswith("it is queued behind 1")


def test_a_recording_in_a_recycle_bin_is_excluded_with_the_reason(console: Console) -> None:
    (console.root / "#recycle").mkdir()
    path = write_mcap(console.root / "#recycle" / "a.mcap")
    rule, ok, says = last(console.why(path))
    assert (rule, ok) == ("exclude", False)
    assert "#recycle" in says
