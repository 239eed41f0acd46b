"""Opening files below a watched folder. Links, pipes and swapped folders never lead outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.files.below_root import open_regular_file, opened_folder, root_of
from agent.model.errors import RecordingError


def read(path: Path, root: Path, *, follow_symlinks: bool = False) -> bytes:
    with opened_folder(path.parent, root, follow_symlinks=follow_symlinks) as folder:
        descriptor = open_regular_file(path, folder, follow_symlinks=follow_symlinks)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A watched folder with a file two folders deep.

    A private folder beside it has the same layout.
    """
    for name in ("root", "private"):
        (tmp_path / name / "a" / "b").mkdir(parents=True)
        (tmp_path / name / "a" / "b" / "x.mcap").write_text(name)
    return tmp_path / "root"


def test_a_file_is_opened_through_the_folders_above_it(root: Path) -> None:
    assert read(root / "a" / "b" / "x.mcap", root) == b"root"
    assert read(root / "a" / "b" / "x.mcap", root / "a" / "b") == b"root"


def test_the_root_may_be_a_link_because_the_configuration_names_it(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(root)
    assert read(tmp_path / "link" / "a" / "b" / "x.mcap", tmp_path / "link") == b"root"


@pytest.mark.parametrize("folder", ["a", "a/b"])
def test_a_folder_that_is_a_link_is_refused_unless_links_are_followed(
    root: Path, tmp_path: Path, folder: str
) -> None:
    (root / folder).rename(tmp_path / "away")
    (root / folder).symlink_to(tmp_path / "private" / folder)
    with pytest.raises(RecordingError, match="symbolic link") as caught:
        read(root / "a" / "b" / "x.mcap", root)
    assert (caught.value.code, "follow_symlinks" in caught.value.hint) == ("not_in_root", True)
    assert read(root / "a" / "b" / "x.mcap", root, follow_symlinks=True) == b"private"


def test_a_folder_that_is_swapped_once_it_is_open_changes_nothing(
    root: Path, tmp_path: Path
) -> None:
    path = root / "a" / "b" / "x.mcap"
    with opened_folder(path.parent, root, follow_symlinks=False) as folder:
        (root / "a").rename(tmp_path / "away")
        (root / "a").symlink_to(tmp_path / "private" / "a")
        descriptor = open_regular_file(path, folder, follow_symlinks=False)
    with os.fdopen(descriptor, "rb") as file:
        assert file.read() == b"root"


def test_a_path_that_goes_up_again_is_refused(root: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        read(root / "a" / ".." / ".." / "private" / "a" / "b" / "x.mcap", root)
    assert caught.value.code == "not_in_root"


def test_what_is_no_regular_file_is_not_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "link.mcap").symlink_to(root / "a" / "b" / "x.mcap")
    os.mkfifo(root / "pipe.mcap")
    opened: list[object] = []
    with opened_folder(root, root, follow_symlinks=False) as folder:
        monkeypatch.setattr(os, "open", lambda *arguments, **_: opened.append(arguments))
        for name in ("link.mcap", "pipe.mcap", "a"):
            with pytest.raises(RecordingError) as caught:
                open_regular_file(root / name, folder, follow_symlinks=False)
            assert caught.value.code == "not_regular"
    assert opened == []


def test_a_missing_file_and_a_missing_folder_are_not_found(root: Path) -> None:
    for path in (root / "a" / "y.mcap", root / "c" / "x.mcap"):
        with pytest.raises(FileNotFoundError):
            read(path, root)


def test_a_file_in_the_place_of_a_folder_is_no_link(root: Path) -> None:
    with pytest.raises(NotADirectoryError):
        read(root / "a" / "b" / "x.mcap" / "y.mcap", root)


def test_the_root_of_a_file_is_the_innermost_one(root: Path) -> None:
    assert root_of(root / "a" / "x.mcap", [root, root / "a", root / "a" / "b"]) == root / "a"
    assert root_of(root.with_name("rootless") / "x.mcap", [root]) is None


def test_a_root_lies_below_no_root_but_one_above_it(root: Path) -> None:
    assert root_of(root, [root]) is None
    assert root_of(root, [root, root.parent]) == root.parent
