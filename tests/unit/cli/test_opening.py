"""The files that commands open: only regular files, and none behind a link."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.harness.console import QUEUED, Console
from tests.harness.recorders import write_mcap

_IN_OPEN = 0x20
DONE = {"status": "completed", "completed_at": QUEUED}
# The fingerprint of a file without bytes. A device has the size 0, too.
EMPTY = "0-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class OpenDetector:
    """A detector of opened files, which uses the kernel's inotify(7) with IN_OPEN."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)

    def watch(self, path: Path) -> None:
        assert self._libc.inotify_add_watch(self._descriptor, os.fsencode(path), _IN_OPEN) >= 0

    def seen(self) -> bool:
        """Return whether one of the files was opened since the last call."""
        try:
            return bool(os.read(self._descriptor, 65536))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
def opens() -> Iterator[OpenDetector]:
    opens = OpenDetector()
    yield opens
    opens.close()


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


@pytest.fixture
def private(tmp_path: Path, console: Console) -> Path:
    """A file outside of the watched folders.

    The history knows its bytes, so output shows it when a command reads the file.
    """
    (tmp_path / "private").mkdir()
    path = write_mcap(tmp_path / "private" / "a.mcap")
    console.remember(path, episode="secret", **DONE)
    return path


@pytest.fixture
def terminal() -> Iterator[Path]:
    """A terminal device that only this test uses."""
    main, device = os.openpty()
    yield Path(os.ttyname(device))
    os.close(device)
    os.close(main)


@pytest.fixture(
    params=[
        "pipe",
        "link to a pipe",
        "link to a device",
        "link to a file",
        "file in a linked folder",
    ]
)
def strange(
    request: pytest.FixtureRequest,
    console: Console,
    private: Path,
    terminal: Path,
    opens: OpenDetector,
) -> Path:
    """A path in a watched folder that must not be opened. ``opens`` watches its target."""
    path = console.root / "strange.mcap"
    target = private
    if request.param == "pipe":
        target = path
        os.mkfifo(path)
    elif request.param == "link to a pipe":
        target = private.with_name("pipe")
        os.mkfifo(target)
        path.symlink_to(target)
    elif request.param == "link to a device":
        target = terminal
        path.symlink_to(target)
    elif request.param == "link to a file":
        path.symlink_to(target)
    else:
        (console.root / "day").symlink_to(private.parent)
        path = console.root / "day" / private.name
    opens.watch(target)
    return path


def test_a_file_that_is_opened_is_noticed_by_these_tests(
    console: Console, private: Path, opens: OpenDetector
) -> None:
    opens.watch(private)
    (document,) = console.json("history", private)
    assert document["episode_id"] == "secret"
    assert opens.seen()


def test_why_opens_nothing_strange(console: Console, strange: Path, opens: OpenDetector) -> None:
    assert not console.why(strange)[-1]["ok"]
    assert not opens.seen()


def test_history_opens_nothing_strange(
    console: Console, strange: Path, opens: OpenDetector
) -> None:
    assert console.json("history", strange) == []
    assert console.json("history", strange, "--summary") == []
    assert not opens.seen()


def test_ls_opens_nothing_strange(console: Console, strange: Path, opens: OpenDetector) -> None:
    for arguments in ([], [console.root], [strange]):
        listed = console.run("ls", *arguments, "--json").stdout
        assert "secret" not in listed
    assert '"state": "ignored"' in listed
    assert not opens.seen()


def test_scan_opens_nothing_strange(console: Console, strange: Path, opens: OpenDetector) -> None:
    assert strange.name not in console.run("scan", "--dry-run").stdout
    assert not opens.seen()


@pytest.mark.parametrize("command", ["resync", "first"])
def test_what_is_asked_for_is_not_opened_by_the_command(
    console: Console, strange: Path, opens: OpenDetector, command: str
) -> None:
    console.run(command, strange)
    assert not opens.seen()


def test_a_link_to_a_device_is_not_taken_for_an_empty_file(console: Console) -> None:
    console.remember("/empty.mcap", fingerprint=EMPTY, **DONE)
    path = console.root / "device.mcap"
    path.symlink_to("/dev/zero")
    assert console.json("history", path) == []
    assert not console.why(path)[-1]["ok"]


def test_outside_of_the_watched_folders_a_file_is_known_by_its_bytes_and_a_link_is_not_followed(
    console: Console, private: Path, tmp_path: Path, opens: OpenDetector
) -> None:
    moved = private.rename(tmp_path / "moved.mcap")
    link = tmp_path / "link.mcap"
    link.symlink_to(moved)
    opens.watch(moved)
    assert console.json("history", link) == []
    assert console.why(link)[-1]["rule"] == "root"
    assert not opens.seen()
    assert [document["episode_id"] for document in console.json("history", moved)] == ["secret"]


@pytest.mark.parametrize("below", ["", "deeper"])
def test_ls_does_not_enter_a_folder_behind_a_link(
    console: Console, private: Path, tmp_path: Path, opens: OpenDetector, below: str
) -> None:
    (private.parent / "deeper").mkdir()
    write_mcap(private.parent / "deeper" / "b.mcap")
    for link in (console.root / "day", tmp_path / "elsewhere"):
        link.symlink_to(private.parent)
        opens.watch(private.parent)
        opens.watch(private.parent / "deeper")
        inside = link / below if link.parent == console.root else link
        (row,) = console.run("ls", inside, "--json").stdout.splitlines()
        assert "a symbolic link leads there" in row
    assert not opens.seen()


def test_a_watched_folder_is_listed_by_each_of_its_names(console: Console, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    console.root.rename(disk)
    console.root.symlink_to(disk)
    (disk / "day").mkdir()
    path = write_mcap(disk / "day" / "a.mcap")
    console.remember(path, episode="run", **DONE)
    (tmp_path / "data").symlink_to(tmp_path)
    for folder in (console.root, console.root / "day", disk, tmp_path / "data"):
        assert '"episode_id": "run"' in console.run("ls", folder, "--json").stdout
    assert '"episode_id": "run"' in console.run("ls", "--json").stdout


def test_links_are_followed_to_regular_files_where_the_settings_say_so(
    console: Console, private: Path, terminal: Path, tmp_path: Path, opens: OpenDetector
) -> None:
    console.configure("follow_symlinks = true")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for name, target in (("pipe", pipe), ("device", terminal)):
        (console.root / f"{name}.mcap").symlink_to(target)
        opens.watch(target)
    (console.root / "a.mcap").symlink_to(private)
    (console.root / "day").symlink_to(private.parent)
    listed = console.run("ls", "--json").stdout
    assert listed.count('"episode_id": "secret"') == 2
    for name in ("a.mcap", "day/a.mcap"):
        assert console.why(console.root / name)[-1]["rule"] == "uploaded"
    for name in ("pipe.mcap", "device.mcap"):
        assert not console.why(console.root / name)[-1]["ok"]
    assert not opens.seen()


def test_a_folder_that_becomes_a_link_while_it_is_listed_is_not_entered(
    console: Console, private: Path, monkeypatch: pytest.MonkeyPatch, opens: OpenDetector
) -> None:
    (console.root / "day").mkdir()
    opens.watch(private)
    scandir = os.scandir

    def swapped(folder: int) -> object:
        with scandir(folder) as found:
            listing = list(found)
        (console.root / "day").rmdir()
        (console.root / "day").symlink_to(private.parent)
        monkeypatch.undo()
        return nullcontext(listing)

    monkeypatch.setattr(os, "scandir", swapped)
    listed = console.run("ls", "--json").stdout
    assert "a symbolic link leads there" in listed
    assert "secret" not in listed
    assert not opens.seen()
