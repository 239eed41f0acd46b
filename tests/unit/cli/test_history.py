"""`history`: which documents are chosen, and how little is read for them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.history import TinyHistory
from agent.model.sync_log import DocumentSession, Fault, Status
from tests.contracts.history import document
from tests.harness.console import Console
from tests.harness.recorders import write_mcap

MARCH, MAY = "2026-03-01T10:00:00.000Z", "2026-05-01T10:00:00.000Z"


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


def test_no_more_documents_are_made_ready_than_are_shown(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        console.remember(f"/{number}.mcap")
    made: list[int] = []

    def counted(history: TinyHistory, status: Status | None) -> Iterator[dict[str, Any]]:
        for row in shown(history, status):
            made.append(row["id"])
            yield row

    shown = TinyHistory.shown
    monkeypatch.setattr(TinyHistory, "shown", counted)
    rows = console.json("history", "--limit", "2", "--offset", "1")
    assert [row["id"] for row in rows] == [9, 8]
    assert made == [10, 9, 8]


def test_many_documents_are_one_list_with_a_line_for_each(console: Console) -> None:
    with console._writer() as history, history.transaction():
        for number in range(1100):
            history.add(document(f"ü{number}"))
    told = console.run("history", "--json", "--limit", "2000")
    assert [row["path"] for row in json.loads(told.stdout)] == [
        f"/data/ü{number}.mcap" for number in range(1100)
    ][::-1]
    assert len(told.stdout.splitlines()) == 1102
    assert "ü" in told.stdout


def test_a_summary_judges_an_episode_by_its_newest_document(console: Console) -> None:
    console.remember(
        "/a.mcap",
        episode="a",
        status="completed",
        queued_at=MARCH,
        completed_at=MARCH,
        session=DocumentSession(object_key="k"),
    )
    console.remember("/a.mcap", episode="a", status="failed", queued_at=MAY, attempt_count=5)
    console.remember(
        "/b.mcap",
        episode="b",
        status="completed",
        queued_at=MARCH,
        completed_at=MARCH,
        session=DocumentSession(object_key="l"),
    )
    completed = console.json("history", "--summary", "--status", "completed")
    assert [row["episode_id"] for row in completed] == ["b"]
    (failed,) = console.json("history", "--summary", "--status", "failed")
    assert failed == {
        "episode_id": "a",
        "status": "failed",
        "synced": True,
        "synced_at": MARCH,
        "object_key": "k",
        "attempts": 5,
        "documents": 2,
    }
    assert console.json("history", "--summary", "--since", "2026-04-01") == [failed]


def test_an_episode_that_nobody_knows_is_said_on_standard_error(console: Console) -> None:
    told = console.run("history", "nosuch", "--json")
    assert (told.exit_code, json.loads(told.stdout), told.stderr) == (0, [], "no documents match\n")


@pytest.mark.parametrize("text", ["999999999d", "soon", "0000-01-01", ""])
def test_a_time_that_is_none_is_wrong_usage(text: str, console: Console) -> None:
    told = console.run("history", "--since", text)
    assert told.exit_code == 2
    assert "--since" in told.stderr


@pytest.mark.parametrize(("text", "found"), [("2026-04-01", 1), ("yesterday", 0), ("100000d", 2)])
def test_a_time_chooses_by_when_a_document_was_queued(
    text: str, found: int, console: Console
) -> None:
    console.remember("/a.mcap", queued_at=MARCH)
    console.remember("/b.mcap", queued_at=MAY)
    assert len(console.json("history", "--since", text)) == found


def test_a_path_finds_its_bytes_under_the_name_they_were_queued_from(console: Console) -> None:
    path = write_mcap(console.root / "a.mcap")
    log = console.remember(path)
    moved = path.rename(console.root / "b.mcap")
    (row,) = console.json("history", moved)
    assert row["id"] == log.id


def test_an_error_is_said_once(console: Console) -> None:
    console.remember(
        "/a.mcap", error=Fault("offline", "refused", "CreateLogicalUpload: refused", "")
    )
    assert console.run("history").stdout.count("refused") == 1
