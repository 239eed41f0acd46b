"""The table of table files, whose rows are used again for new files."""

from __future__ import annotations

import math

from agent.discovery.file_table import FileTable


def added(table: FileTable, folder: str, name: str, mark: int = 0) -> None:
    """Add a file. With a mark the file was examined, without one it is still settling."""
    file = table.add(folder, name, stamp=1, sidecar=0, since=5.0)
    if mark:
        file.state, file.mark = "complete", mark


def test_a_new_file_is_settling_whatever_stood_in_its_row() -> None:
    table = FileTable()
    old = table.add("/a", "x.mcap", 1, 2, 3.0)
    old.state, old.why, old.mark, old.due = "damaged", "cut off", 7, 9.0
    table.forget("/a/x.mcap")
    new = table.add("/b", "y.mcap", 4, 5, 6.0)
    assert (new.stamp, new.sidecar, new.since, new.due, new.mark) == (4, 5, 6.0, math.inf, 0)
    assert (new.state, new.why) == ("settling", "")


def test_a_row_is_used_again_so_that_memory_is_that_of_the_most_files_at_once() -> None:
    table = FileTable()
    for number in range(1000):
        added(table, f"/{number}", "a.mcap", mark=number + 1)
        table.forget(f"/{number}")
    assert [*table.files()] == []
    assert len(table._marks) == 1


def test_what_is_forgotten_is_gone_even_for_who_still_writes_to_it() -> None:
    table = FileTable()
    held = table.add("/a", "x.mcap", 1, 0, 0.0)
    table.forget("/a")
    held.state, held.mark = "complete", 7
    assert not table.marks()(7)
    assert table.copies() == []
    assert table.find("/a", "x.mcap") is None


def test_a_folder_keeps_the_names_it_is_told_and_others_keep_theirs() -> None:
    table = FileTable()
    for folder in ("/a", "/a/b", "/ab"):
        added(table, folder, "x.mcap", mark=1)
        added(table, folder, "y.mcap", mark=2)
    table.keep("/a", {"y.mcap"})
    table.keep_folders({"/a", "/ab"}, unreadable={})
    assert [(folder, name) for folder, name, _ in table.files()] == [
        ("/a", "y.mcap"),
        ("/ab", "x.mcap"),
        ("/ab", "y.mcap"),
    ]
    assert [path for path, _ in table.below("/a")] == ["/a/y.mcap"]


def test_copies_are_the_complete_files_of_one_mark() -> None:
    table = FileTable()
    for name, mark in (("b.mcap", 3), ("a.mcap", 3), ("c.mcap", 4), ("d.mcap", 0)):
        added(table, "/r", name, mark)
    assert table.copies() == [["/r/a.mcap", "/r/b.mcap"]]


def test_a_scan_has_to_do_with_what_changed_and_with_what_is_not_settled() -> None:
    table = FileTable()
    added(table, "/r", "done.mcap", mark=1)
    added(table, "/r", "new.mcap")
    is_settled = table.settled("/r")
    assert is_settled("done.mcap", 1, 0)
    assert not is_settled("done.mcap", 2, 0)
    assert not is_settled("done.mcap", 1, 9)
    assert not is_settled("new.mcap", 1, 0)
    assert not is_settled("unknown.mcap", 1, 0)
    assert not table.settled("/elsewhere")("done.mcap", 1, 0)
