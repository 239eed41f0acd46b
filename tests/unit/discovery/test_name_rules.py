"""The rules for names: files, folders and links between a watched folder and a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.discovery.name_rules import NameFilter, foreign

EXCLUDE = (".*", "*.active")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.mcap", "recording"),
        ("a.MCAP", "other"),
        (".a.mcap", "excluded"),
        ("a.mcap.active", "other"),
        ("a.mcap.resync", "marker"),
        (".resync", "marker"),
        ("notes.resync", "other"),
        ("old.db3.first", "marker"),
        ("a.mcap.resync.rejected", "rejected"),
        ("a.txt", "other"),
    ],
)
def test_a_name_says_what_a_file_may_be(name: str, kind: str) -> None:
    names = NameFilter(["*.mcap"], EXCLUDE)
    assert names.kind(name) == kind
    assert names.wanted(name) == (kind == "recording")


def test_marker_files_stay_marker_files_where_every_name_is_included() -> None:
    names = NameFilter(["*"], EXCLUDE)
    assert [names.kind(name) for name in ("a.resync", "a.first.rejected", "a", ".a")] == [
        "marker",
        "rejected",
        "recording",
        "excluded",
    ]


@pytest.mark.parametrize(
    ("path", "exclusion"),
    [
        ("/d", None),
        ("/d/a.mcap", None),
        ("/d/.x/y/a.mcap", (".x", ".*")),
        ("/d/y.active/.a", ("y.active", "*.active")),
        ("/d/y/.a.active", (".a.active", ".*")),
    ],
)
def test_the_first_excluded_name_is_given_with_its_pattern(
    path: str, exclusion: tuple[str, str] | None
) -> None:
    names = NameFilter(["*"], EXCLUDE)
    assert names.exclusion("/d", path) == exclusion
    assert names.reaches("/d", path) == (exclusion is None)
    assert names.exclusion("/d/.x", "/d/.x/a") is None
    assert not names.reaches("/e", path)


def test_the_first_link_below_a_watched_folder_stops_a_walk(tmp_path: Path) -> None:
    (tmp_path / "disk" / "day").mkdir(parents=True)
    (tmp_path / "disk" / "day" / "inner").symlink_to("/")
    root = tmp_path / "root"
    root.symlink_to(tmp_path / "disk")
    names = NameFilter(["*"], ())
    assert names.first_link(str(root), str(root / "day")) == ""
    assert names.first_link(str(root), str(root / "day/inner/x")) == f"{root}/day/inner"
    follow = NameFilter(["*"], (), follow_symlinks=True)
    assert follow.first_link(str(root), str(root / "day/inner/x")) == ""


def test_names_that_may_be_meant_as_recordings_are_counted_by_suffix() -> None:
    names = ("a.db3", "a.bag", "a.mcap.tmp", "a.mcap", "a.mcap.done", "a.mcap.resync", "a.txt")
    assert [foreign(name) for name in names] == [".db3", ".bag", ".mcap.tmp", "", "", "", ""]
