"""Each failure is named by `status`, with its remedy."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.cli.status_lines import read_state_folder, status_lines, text_lines
from agent.cli.units import rate_text, size_text, span_text
from agent.model.sync_log import Fault, Marker, Orphan
from agent.observe.history_summary import summarize_history
from tests.harness.console import QUEUED, Console
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.history import MemoryHistory

FULL = {
    "cause": "hold",
    "code": "disk_full",
    "reason": "no room",
    "hint": "make room",
    "since": QUEUED,
}
KEPT = {
    "code": "x",
    "message": "nothing shows that",
    "count": 1,
    "paths": ["/data/k.mcap"],
    "hint": "compare it",
}
HELD = {
    "path": "/data/a.mcap",
    "state": "unfinished",
    "since": QUEUED,
    "reason": "no_end",
    "message": "no end",
}


def told(agent: dict[str, Any] | None = None, **more: Any) -> list[str]:
    document = {"gate": None, "uploads": [], "files": {}, **(agent or {})}
    return list(
        text_lines(
            {
                "agent": document,
                **summarize_history(MemoryHistory(FakeClock())),
                "rejected_markers": [],
                "full_disk": None,
                **more,
            }
        )
    )


@pytest.mark.parametrize(
    ("lines", "named", "remedy"),
    [
        (told({"gate": {**FULL, "next_probe": None}}), "no room", "make room"),
        (
            told({"profiles": {"message": "no such file", "hint": "drop one"}}),
            "no such file",
            "drop one",
        ),
        (
            told(
                {"watcher_up": False, "unwatched_folders": [{"path": "/data", "message": "full"}]}
            ),
            "/data",
            "max_user_watches",
        ),
        (
            told({"watcher_up": False, "unwatched_folders": []}),
            "down: it is being rebuilt",
            "max_user_watches",
        ),
        (told({"waiting_markers": ["/data/x/.resync"]}), "/data/x/.resync waits", "nothing to do"),
        (told({"files": {"missing": ["/data"]}}), "missing   /data", "watch.roots"),
        (
            told({"unreadable_folders": [{"path": "/data/x", "message": "not permitted"}]}),
            "/data/x",
            "right to read",
        ),
        (told({"held_files": [HELD]}), "/data/a.mcap", "mcap recover"),
        (told({"files": {"skipped": ["/data/a.mcap"]}}), "/data/a.mcap", "newer_than"),
        (
            told({"settings": {"unknown_keys": ["watch.a", "new.b"]}}),
            "ignores watch.a, new.b",
            "remove these keys",
        ),
        (told(damaged_lines=2), "2 damaged lines", "*.damaged"),
        (told(orphaned_uploads=3), "3 orphaned uploads", "removed while the cloud answers"),
        (
            told(rejected_markers=["/s/markers/e.resync.rejected"]),
            "e.resync.rejected",
            "reason is in the file",
        ),
        (told({"not_deleted": [KEPT]}), "/data/k.mcap", "compare it"),
        (told(stuck_markers=["/data/a.mcap.resync"]), "/data/a.mcap.resync", "remove it"),
    ],
)
def test_what_goes_wrong_is_named_with_its_remedy(
    lines: list[str], named: str, remedy: str
) -> None:
    at = next(number for number, line in enumerate(lines) if named in line)
    following = "\n".join(lines[at + 1 : at + 2])
    assert re.match(r" {10}→ .*", following)
    assert remedy in following


def test_files_that_retention_leaves_are_counted_and_the_first_are_named() -> None:
    kinds = [
        {**KEPT, "count": 1, "paths": ["/data/a.mcap"]},
        {**KEPT, "count": 30, "message": "it differs", "paths": ["/data/b.mcap", "/data/c.mcap"]},
    ]
    lines = [line for line in told({"not_deleted": kinds}) if line.startswith("kept")]
    assert lines == [
        "kept      1 uploaded file is not deleted by retention:",
        "kept      30 uploaded files are not deleted by retention:",
    ]
    shown = "\n".join(told({"not_deleted": kinds}))
    assert (
        "it differs\n          /data/b.mcap\n          /data/c.mcap\n"
        "          28 more\n          → compare it" in shown
    )


def test_an_agent_that_is_well_has_no_advice_to_give() -> None:
    assert [line for line in told({"watcher_up": True, "last_error": None}) if "→" in line] == []


def test_markers_that_could_not_be_served_are_found_in_the_state_folder(tmp_path: Path) -> None:
    console = Console(tmp_path)
    markers = console.state / "markers"
    markers.mkdir()
    (markers / "ep.resync.rejected").write_text("no such episode")
    (markers / "pause").touch()
    assert console.json("status")["rejected_markers"] == [str(markers / "ep.resync.rejected")]
    assert "ep.resync.rejected was rejected" in console.run("status").stdout


@pytest.mark.parametrize(
    ("bytes_left", "files_left", "lacks"), [(0, 100, "bytes"), (10**12, 0, "files")]
)
def test_a_full_disk_is_told_with_its_path_and_what_it_lacks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bytes_left: int,
    files_left: int,
    lacks: str,
) -> None:
    disk = SimpleNamespace(f_bavail=bytes_left, f_frsize=1, f_files=100, f_favail=files_left)
    monkeypatch.setattr(os, "statvfs", lambda _path: disk)
    answer = read_state_folder(tmp_path)
    message = f"the disk of {tmp_path} has no room for more {lacks}"
    assert answer["full_disk"] == {"path": str(tmp_path), "lacks": lacks, "message": message}
    # This key of version 0.1 stays until 0.3.
    assert answer["disk_full"] == message
    assert f"disk      {message}" in told(full_disk=answer["full_disk"])


def test_a_disk_with_room_is_not_told(tmp_path: Path) -> None:
    answer = read_state_folder(tmp_path)
    assert (answer["full_disk"], answer["disk_full"]) == (None, "")


def test_the_history_tells_what_is_owed_and_what_could_not_be_removed() -> None:
    history = MemoryHistory(FakeClock())
    history.add_orphan(Orphan(0, "a", "l", "u", "m", "k", "why", QUEUED))
    history.mark_served(Marker("/data/a.mcap.resync", 1, 2))
    history.mark_served(Marker("/data/.resync", 3, 4, through="/data/b.mcap"))
    answer = summarize_history(history)
    assert (answer["orphaned_uploads"], answer["stuck_markers"]) == (1, ["/data/a.mcap.resync"])


def test_a_recording_that_failed_for_good_is_named_with_its_remedy(tmp_path: Path) -> None:
    console = Console(tmp_path)
    fault = Fault(
        "final",
        "damaged",
        "the summary's CRC is wrong",
        "mend the file (`mcap recover`) or delete it",
    )
    for number in range(7):
        console.remember(f"/{number}.mcap", status="failed", error=fault)
    answer = console.json("status")
    assert [item["path"] for item in answer["failed"]] == [
        f"/{number}.mcap" for number in (6, 5, 4, 3, 2)
    ]
    assert answer["failed"][0]["error"] == asdict(fault)
    shown = console.run("status").stdout
    assert shown.count("→ mend the file") == 5
    assert "keystone-agent history --status failed" in shown


def test_the_first_thing_said_is_whether_the_agent_runs() -> None:
    stopped = {
        "agent": None,
        **summarize_history(MemoryHistory(FakeClock())),
        "rejected_markers": [],
        "full_disk": None,
    }
    assert str(next(status_lines(stopped))) == "agent     stopped"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3.4e9, "3.4 GB"),
        (2e16, "20000.0 TB"),
    ],
)
def test_sizes_are_read_in_decimal_units(count: float, text: str) -> None:
    assert size_text(count) == text
    assert rate_text(count) == f"{text}/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (3605, "1 h"),
        (3e5, "3 d 11 h"),
    ],
)
def test_spans_are_told_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert span_text(seconds) == text
