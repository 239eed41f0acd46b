"""An upload reads the file that was examined.

Another file that has taken its name since is refused.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.discovery.examine import Examiner
from agent.model.errors import RecordingError
from agent.model.values import Recording
from agent.upload.source_file import SourceFile
from tests.harness.recorders import write_mcap


@pytest.fixture
def found(tmp_path: Path) -> Recording:
    path = tmp_path / "bag" / "a.mcap"
    path.parent.mkdir()
    recording = Examiner([tmp_path], "ignore").look(write_mcap(path))
    assert isinstance(recording, Recording)
    return recording


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path) -> None:
    path.rename(path.with_name("target"))
    path.symlink_to(path.with_name("target"))


def copy(path: Path) -> None:
    content = path.read_bytes()
    path.rename(path.with_name("old"))
    path.write_bytes(content)


def linked_folder(path: Path) -> None:
    private = path.parent.with_name("private")
    path.parent.rename(private)
    path.parent.symlink_to(private)


@pytest.mark.parametrize(
    ("swap", "code"),
    [
        (pipe, "not_regular"),
        (link, "not_regular"),
        (copy, "replaced"),
        (linked_folder, "not_in_root"),
    ],
)
def test_what_took_the_name_after_the_examination_is_refused_at_once(
    found: Recording, swap: Callable[[Path], None], code: str
) -> None:
    swap(found.path)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only the number counts
    with pytest.raises(RecordingError) as caught:
        SourceFile(found)
    assert caught.value.code == code
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - only the number counts


def test_links_are_followed_where_that_is_configured(tmp_path: Path, found: Recording) -> None:
    link(found.path)
    again = Examiner([tmp_path], "ignore", follow_symlinks=True).look(found.path)
    assert isinstance(again, Recording)
    source = SourceFile(again, follow_symlinks=True)
    source.check()
    source.close()


def test_a_link_that_takes_the_name_during_the_upload_is_another_file(found: Recording) -> None:
    source = SourceFile(found)
    link(found.path)
    with pytest.raises(RecordingError) as caught:
        source.check()
    source.close()
    assert caught.value.code == "replaced"


def test_a_writer_of_the_open_file_is_seen(found: Recording) -> None:
    source = SourceFile(found)
    seen = [source.is_open_for_writing]
    with found.path.open("ab"):
        seen.append(source.is_open_for_writing)
    assert seen == [False, True]
    # The check itself blocks no writer, so this open does not wait.
    os.close(os.open(found.path, os.O_WRONLY | os.O_NONBLOCK))
    source.close()
