"""The watch on folders, which reports new and finished files."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from watchdog.events import FileClosedEvent, FileSystemEvent
from watchdog.observers.inotify import InotifyObserver
from watchdog.observers.polling import PollingObserver

from agent.adapters import watch as watch_module
from agent.adapters.watch import FolderWatcher
from agent.model.values import Sighting
from tests.harness import recorders

# On Python 3.10 the agent has watchdog 6. Its reader is no thread, and it does not report an
# overflow of the queue. Scans find what such an overflow lost.
needs_watchdog_7 = pytest.mark.skipif(
    version("watchdog") < "7", reason="watchdog 6 has no such thing"
)
# Only a failing test waits this long.
TIMEOUT_SECONDS = 10.0


class Watched:
    """A FolderWatcher on real folders, and what it reported."""

    def __init__(self, *roots: Path, polling: Any = "never") -> None:
        self.queue: queue.Queue[Sighting] = queue.Queue()
        self.watch = FolderWatcher(roots, self.queue.put, exclude=[".*", "*.tmp"], polling=polling)

    def wait_for(self, path: Path) -> set[Path]:
        """Wait until ``path`` is sighted. Return all that was sighted until then."""
        seen: set[Path] = set()
        while path not in seen:
            seen.add(self.queue.get(timeout=TIMEOUT_SECONDS).path)
        return seen

    def drain(self, root: Path) -> set[Path]:
        """Return all that was sighted so far.

        A new file marks the end, because it is sighted after everything else.
        """
        last = root / "last"
        last.touch()
        seen = self.wait_for(last)
        last.unlink()
        return seen - {last}


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Callable[..., Watched]]:
    started: list[Watched] = []

    def start(*roots: Path, polling: Any = "never") -> Watched:
        watched = Watched(*(roots or (tmp_path,)), polling=polling)
        started.append(watched)
        watched.watch.start()
        return watched

    yield start
    for each in started:
        each.watch.stop()


Start = Callable[..., Watched]


def until(condition: Callable[[], bool]) -> None:
    """Wait for work of another thread that gives no other sign of its end."""
    pause = threading.Event()
    end = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < end
        pause.wait(0.01)


def test_the_root_is_sighted_first_of_all(watched: Start, tmp_path: Path) -> None:
    assert watched().queue.get(timeout=TIMEOUT_SECONDS) == Sighting(tmp_path)


def test_a_closed_file_is_sighted(watched: Start, tmp_path: Path) -> None:
    seen = watched()
    recorders.write_mcap(tmp_path / "a.mcap")
    seen.wait_for(tmp_path / "a.mcap")


def test_a_file_moved_in_is_sighted(watched: Start, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    seen = watched(root)
    recorders.write_mcap(tmp_path / "a.mcap").rename(root / "a.mcap")
    seen.wait_for(root / "a.mcap")


def test_a_rename_sights_both_names_and_a_hard_link_its_own(watched: Start, tmp_path: Path) -> None:
    recorders.write_mcap(tmp_path / "a.mcap")
    seen = watched()
    (tmp_path / "a.mcap").rename(tmp_path / "b.mcap")
    assert tmp_path / "a.mcap" in seen.wait_for(tmp_path / "b.mcap")
    (tmp_path / "c.mcap").hardlink_to(tmp_path / "b.mcap")
    seen.wait_for(tmp_path / "c.mcap")


def test_a_deleted_file_is_sighted(watched: Start, tmp_path: Path) -> None:
    recorders.write_mcap(tmp_path / "a.mcap")
    seen = watched()
    (tmp_path / "a.mcap").unlink()
    seen.wait_for(tmp_path / "a.mcap")


def test_a_new_folder_is_sighted_and_watched(watched: Start, tmp_path: Path) -> None:
    seen = watched()
    (tmp_path / "a" / "b").mkdir(parents=True)
    seen.wait_for(tmp_path / "a")
    until(lambda: _is_watched(seen, tmp_path / "a" / "b"))
    recorders.write_mcap(tmp_path / "a" / "b" / "a.mcap")
    seen.wait_for(tmp_path / "a" / "b" / "a.mcap")


def _is_watched(seen: Watched, folder: Path) -> bool:
    probe = folder / "probe"
    probe.touch()
    probe.unlink()
    try:
        return seen.queue.get(timeout=0.1).path == probe
    except queue.Empty:
        return False


def test_excluded_names_are_not_sighted(watched: Start, tmp_path: Path) -> None:
    seen = watched()
    (tmp_path / "a.tmp").touch()
    (tmp_path / ".hidden").mkdir()
    assert seen.drain(tmp_path) == {tmp_path}


def test_touch_files_are_sighted_though_their_names_are_excluded_but_not_in_excluded_folders(
    watched: Start, tmp_path: Path
) -> None:
    (tmp_path / ".trash").mkdir()
    seen = watched()
    markers = [
        tmp_path / name
        for name in ("a.mcap.resync", "a.mcap.first", ".resync", ".hidden.mcap.resync")
    ]
    for marker in (tmp_path / ".trash" / "a.mcap.resync", *markers):
        marker.touch()
    sighted = seen.drain(tmp_path)
    assert sighted >= set(markers)
    assert tmp_path / ".trash" / "a.mcap.resync" not in sighted
    # This marker exists already, and touch(1) opens it.
    with markers[2].open("ab") as opened:
        os.utime(opened.fileno())
    seen.wait_for(markers[2])


def test_writing_wakes_nobody(watched: Start, tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with path.open("wb") as stream:
        seen = watched()
        seen.drain(tmp_path)
        for _ in range(1000):
            stream.write(bytes(4096))
            stream.flush()
        # Only the deletion of this file may be sighted.
        assert seen.drain(tmp_path) <= {tmp_path / "last"}
    seen.wait_for(path)


def test_a_recorder_at_full_speed_costs_nothing(watched: Start, tmp_path: Path) -> None:
    """This thread writes a file. The test measures the CPU time of all other threads."""
    seen = watched()
    seen.drain(tmp_path)
    before = time.process_time() - time.thread_time()
    with (tmp_path / "a.mcap").open("wb", 0) as stream:
        for _ in range(2000):
            stream.write(bytes(65536))
    seen.wait_for(tmp_path / "a.mcap")
    assert time.process_time() - time.thread_time() - before < 0.1


def test_a_root_behind_a_link_is_sighted_by_its_own_name(watched: Start, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    seen = watched(link)
    recorders.write_mcap(tmp_path / "real" / "a.mcap")
    seen.wait_for(link / "a.mcap")


def test_overlapping_roots_are_watched_once(watched: Start, tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    hidden = tmp_path / ".hidden"
    inner.mkdir()
    hidden.mkdir()
    seen = watched(inner, tmp_path, tmp_path, hidden)
    assert seen.watch._watched_roots.keys() == {tmp_path, hidden}


def test_a_root_that_appears_is_watched_and_sighted(watched: Start, tmp_path: Path) -> None:
    root = tmp_path / "disk"
    seen = watched(root)
    assert seen.watch.alive
    assert seen.queue.empty()
    root.mkdir()
    seen.watch.supervise()
    seen.wait_for(root)
    recorders.write_mcap(root / "a.mcap")
    seen.wait_for(root / "a.mcap")


@pytest.mark.parametrize("way", ["renamed", "deleted"])
def test_a_replaced_root_is_watched_anew(
    watched: Start, tmp_path: Path, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    root = tmp_path / "disk"
    root.mkdir()
    seen = watched(root)
    seen.wait_for(root)
    if way == "renamed":
        root.rename(tmp_path / "old")
    else:
        root.rmdir()
    root.mkdir()

    def rebuilt() -> bool:
        """A new folder may have the inode of the old one. Then the old watch must end first."""
        seen.watch.supervise()
        return [record.__dict__["event"] for record in caplog.records] == [
            "watch_started",
            "watch_rebuilt",
        ]

    until(rebuilt)
    seen.wait_for(root)
    recorders.write_mcap(root / "a.mcap")
    seen.wait_for(root / "a.mcap")


def test_a_link_that_leads_elsewhere_is_watched_anew(watched: Start, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "one")
    seen = watched(link)
    seen.wait_for(link)
    link.unlink()
    link.symlink_to(tmp_path / "two")
    seen.watch.supervise()
    recorders.write_mcap(tmp_path / "two" / "a.mcap")
    seen.wait_for(link / "a.mcap")


def test_a_root_that_goes_is_said_and_waited_for(
    watched: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    seen = watched(root)
    root.rmdir()
    seen.watch.supervise()
    seen.watch.supervise()
    assert [record.__dict__["event"] for record in caplog.records] == ["watch_lost"]
    assert seen.watch.alive


@pytest.mark.parametrize(
    "victim", ["observer", "emitter", pytest.param("reader", marks=needs_watchdog_7)]
)
def test_a_thread_that_died_is_replaced(watched: Start, tmp_path: Path, victim: str) -> None:
    seen = watched()
    seen.wait_for(tmp_path)
    observer = inotify_of(seen, tmp_path)
    [emitter] = observer.emitters
    thread: Any = {"observer": observer, "emitter": emitter}.get(victim) or observer._inotify_fd
    thread.stop()
    thread.join(TIMEOUT_SECONDS)
    died = not seen.watch.alive
    seen.watch.supervise()
    assert died
    assert seen.watch.alive
    seen.wait_for(tmp_path)
    recorders.write_mcap(tmp_path / "a.mcap")
    seen.wait_for(tmp_path / "a.mcap")


def inotify_of(seen: Watched, root: Path) -> InotifyObserver:
    observer = seen.watch._watched_roots[root].observer
    assert isinstance(observer, InotifyObserver)
    return observer


def test_what_is_well_is_left_alone(watched: Start, tmp_path: Path) -> None:
    seen = watched()
    before = seen.watch._watched_roots[tmp_path]
    seen.wait_for(tmp_path)
    seen.watch.supervise()
    assert seen.watch._watched_roots[tmp_path] is before
    assert seen.queue.empty()


@needs_watchdog_7
def test_an_overflow_has_every_root_scanned(watched: Start, tmp_path: Path) -> None:
    """More events arrive than the kernel keeps, while watchdog's reader is blocked."""
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        root.mkdir()
    seen = watched(*roots)
    for root in roots:
        seen.wait_for(root)
    observer = inotify_of(seen, roots[0])
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with observer._inotify_fd._lock:
        names = [roots[0] / "a", roots[0] / "b"]
        names[0].touch()
        for number in range(limit):
            os.rename(names[number % 2], names[1 - number % 2])  # noqa: PTH104 - each makes two events
    left = set(roots)
    while left:
        left.discard(seen.queue.get(timeout=TIMEOUT_SECONDS).path)


def test_an_exception_in_the_handler_does_not_end_the_watching(
    watched: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    seen = watched()
    put = FolderWatcher.seen

    def failing(self: FolderWatcher, root: Path, relative: Path) -> None:
        if relative.name == "bad":
            raise RuntimeError("as nobody expected")
        put(self, root, relative)

    monkeypatch.setattr(FolderWatcher, "seen", failing)
    (tmp_path / "bad").touch()
    recorders.write_mcap(tmp_path / "a.mcap")
    seen.wait_for(tmp_path / "a.mcap")
    assert {record.__dict__["event"] for record in caplog.records} == {"watch_event_lost"}
    assert seen.watch.alive


def test_a_name_that_is_no_text_is_sighted_all_the_same(watched: Start, tmp_path: Path) -> None:
    seen = watched()
    path = tmp_path / os.fsdecode(b"\xff.mcap")
    path.touch()
    seen.wait_for(path)


def test_a_root_that_can_t_be_watched_is_said_once_and_tried_again(
    watched: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    schedule = InotifyObserver.schedule

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(InotifyObserver, "schedule", refuse)
    threads = threading.active_count()
    seen = watched()
    seen.watch.supervise()
    assert not seen.watch.alive
    assert threading.active_count() == threads
    assert [record.__dict__["event"] for record in caplog.records] == ["watch_failed"]
    assert list(seen.watch.failures.values()) == ["inotify watch limit reached"]
    monkeypatch.setattr(InotifyObserver, "schedule", schedule)
    seen.watch.supervise()
    assert seen.watch.alive


def test_stopping_ends_every_thread_and_stays_stopped(tmp_path: Path) -> None:
    threads = threading.active_count()
    seen = Watched(tmp_path)
    seen.watch.start()
    seen.watch.stop()
    seen.watch.supervise()
    assert threading.active_count() == threads
    assert seen.watch._overflow not in logging.getLogger("watchdog.observers.inotify_c").handlers


def test_polling_sights_new_and_changed_files(
    watched: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "_POLL_SECONDS", 0.05)
    seen = watched(polling="always")
    assert isinstance(seen.watch._watched_roots[tmp_path].observer, PollingObserver)
    path = recorders.unfinished(tmp_path / "a.mcap")
    seen.wait_for(path)
    recorders.write_mcap(path)
    seen.wait_for(path)


@pytest.mark.parametrize(
    ("polling", "kind", "polled"),
    [
        ("auto", "ext4", False),
        ("auto", "nfs4", True),
        ("auto", "cifs", True),
        ("auto", "overlay", True),
        ("auto", "fuse.sshfs", True),
        ("never", "nfs", False),
        ("always", "ext4", True),
    ],
)
def test_the_filesystem_decides_between_polling_and_events(  # noqa: PLR0917 - a table of cases and two fixtures
    watched: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    polling: str,
    kind: str,
    polled: bool,
) -> None:
    monkeypatch.setattr(watch_module, "_filesystem", lambda _: kind)
    observer = watched(polling=polling).watch._watched_roots[tmp_path].observer
    assert isinstance(observer, PollingObserver) is polled


def test_the_filesystem_is_that_of_the_innermost_and_last_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        "30 22 0:31 / /data rw - xfs /dev/sdb1 rw\n"
        "31 30 0:32 / /data rw - nfs4 server:/data rw\n"
        "32 22 0:33 / /my\\040disk rw master:2 - vfat /dev/sdc1 rw\n"
    )
    for path, kind in (
        ("/data/recordings", "nfs4"),
        ("/data", "nfs4"),
        ("/database", "ext4"),
        ("/my disk/a", "vfat"),
    ):
        assert watch_module._filesystem(path, mounts) == kind
    assert watch_module._filesystem("/", tmp_path / "none") == ""


def test_the_handler_takes_bytes_as_paths(tmp_path: Path) -> None:
    seen = Watched(tmp_path)
    handler = watch_module._EventHandler(seen.watch, tmp_path, str(tmp_path))
    event: FileSystemEvent = FileClosedEvent(os.fsencode(tmp_path / "a.mcap"))
    handler.dispatch(event)
    assert seen.queue.get_nowait() == Sighting(tmp_path / "a.mcap")
