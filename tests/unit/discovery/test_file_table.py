"""What is remembered of many files, in rows that are used again."""

from __future__ import annotations

import math

from agent.discovery.file_table import FileTable


def added(known: FileTable, folder: str, name: str, mark: int = 0) -> None:
    """A file that was examined, or is settling where it has no mark."""
    file = known.add(folder, name, stamp=1, sidecar=0, since=5.0)
    if mark:
        file.state, file.mark = "complete", mark


def test_a_new_file_is_settling_whatever_stood_in_its_row() -> None:
    known = FileTable()
    old = known.add("/a", "x.mcap", 1, 2, 3.0)
    old.state, old.why, old.mark, old.due = "damaged", "cut off", 7, 9.0
    known.forget("/a/x.mcap")
    new = known.add("/b", "y.mcap", 4, 5, 6.0)
    assert (new.stamp, new.sidecar, new.since, new.due, new.mark) == (4, 5, 6.0, math.inf, 0)
    assert (new.state, new.why) == ("settling", "")


def test_a_row_is_used_again_so_that_memory_is_that_of_the_most_files_at_once() -> None:
    known = FileTable()
    for number in range(1000):
        added(known, f"/{number}", "a.mcap", mark=number + 1)
        known.forget(f"/{number}")
    assert [*known.files()] == []
    assert len(known._marks) == 1


def test_what_is_forgotten_is_gone_even_for_who_still_writes_to_it() -> None:
    known = FileTable()
    held = known.add("/a", "x.mcap", 1, 0, 0.0)
    known.forget("/a")
    held.state, held.mark = "complete", 7
    assert not known.marks()(7)
    assert known.copies() == []
    assert known.find("/a", "x.mcap") is None


def test_a_folder_keeps_the_names_it_is_told_and_others_keep_theirs() -> None:
    known = FileTable()
    for folder in ("/a", "/a/b", "/ab"):
        added(known, folder, "x.mcap", mark=1)
        added(known, folder, "y.mcap", mark=2)
    known.keep("/a", {"y.mcap"})
    known.keep_folders({"/a", "/ab"}, unreadable={})
    assert [(folder, name) for folder, name, _ in known.files()] == [
        ("/a", "y.mcap"),
        ("/ab", "x.mcap"),
        ("/ab", "y.mcap"),
    ]
    assert [path for path, _ in known.below("/a")] == ["/a/y.mcap"]


def test_copies_are_the_complete_files_of_one_mark() -> None:
    known = FileTable()
    for name, mark in (("b.mcap", 3), ("a.mcap", 3), ("c.mcap", 4), ("d.mcap", 0)):
        added(known, "/r", name, mark)
    assert known.copies() == [["/r/a.mcap", "/r/b.mcap"]]


def test_a_scan_has_to_do_with_what_changed_and_with_what_is_not_settled() -> None:
    known = FileTable()
    added(known, "/r", "done.mcap", mark=1)
    added(known, "/r", "new.mcap")
    is_settled = known.settled("/r")
    assert is_settled("done.mcap", 1, 0)
    assert not is_settled("done.mcap", 2, 0)
    assert not is_settled("done.mcap", 1, 9)
    assert not is_settled("new.mcap", 1, 0)
    assert not is_settled("unknown.mcap", 1, 0)
    assert not known.settled("/elsewhere")("done.mcap", 1, 0)
