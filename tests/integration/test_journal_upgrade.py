"""Tests of a history that an older agent wrote.

The history is copied first and then taken over, whatever happens between the two.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from agent.model.errors import AgentError, HistoryFullError
from agent.model.sync_log import Marker
from tests.harness.full_disk import tmpfs
from tests.harness.history_on_disk import files_no_longer_than, opened
from tests.harness.journal_upgrade_steps import (
    OLD,
    STEPS,
    all_of,
    content,
    failing_at,
    old_history,
    sound,
    upgraded,
)
from tests.harness.paths import REPOSITORY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return old_history(tmp_path / "history")


def test_an_old_history_is_taken_over_whole_and_a_copy_of_how_it_was_is_kept(folder: Path) -> None:
    with opened(folder, read_only=True) as history:
        before = all_of(history)
    assert [log["status"] for log in before["documents"]] == [
        "pending",
        "completed",
        "pending",
        "in_progress",
        "failed",
        "failed",
        "completed",
    ]
    assert len(before["orphans"]) == 1
    assert before["marker"] == Marker("/data/a.mcap.resync", 7, 1)
    with opened(folder) as history:
        assert all_of(history) == before
        assert history.move(5, "claimed").status == "in_progress"
    assert upgraded(folder)
    assert content(folder / "journal").startswith(OLD)
    copy = folder / "journal.format-1"
    assert copy.read_bytes() == OLD
    assert copy.stat().st_mode & 0o777 == 0o640
    back = folder.parent / "back"
    back.mkdir()
    copy.rename(back / "journal")
    with opened(back, read_only=True) as history:
        assert all_of(history) == before


def test_the_copy_is_made_once_and_stays(folder: Path) -> None:
    with opened(folder):
        pass
    made = (folder / "journal.format-1").stat()
    for _ in range(2):
        with opened(folder) as history:
            history._storage.compact()
    kept = (folder / "journal.format-1").stat()
    assert (kept.st_ino, kept.st_mtime_ns) == (made.st_ino, made.st_mtime_ns)
    assert sorted(file.name for file in folder.iterdir()) == ["journal", "journal.format-1", "lock"]


def test_one_flipped_bit_makes_no_old_history_of_a_new_one(folder: Path) -> None:
    with opened(folder):
        (folder / "journal.format-1").unlink()
    raw = bytearray((folder / "journal").read_bytes())
    raw[raw.rindex(b'{"format"') + 10] ^= 1
    (folder / "journal").write_bytes(raw)
    with opened(folder) as history:
        assert history.damage() == 1
        assert len(list(history.newest_first())) == 7
    assert not (folder / "journal.format-1").exists()


def test_an_older_copy_gives_way_to_the_one_of_this_upgrade(folder: Path) -> None:
    (folder / "journal.format-1").write_bytes(OLD[:100])
    with opened(folder):
        pass
    assert (folder / "journal.format-1").read_bytes() == OLD


def test_a_reader_reads_an_old_history_and_changes_nothing(folder: Path) -> None:
    with opened(folder, read_only=True) as history:
        assert len(list(history.newest_first())) == 7
        assert history.counts() == {"pending": 2, "in_progress": 1, "completed": 2, "failed": 2}
    assert [file.name for file in folder.iterdir()] == ["journal"]
    assert (folder / "journal").read_bytes() == OLD


def test_without_room_for_the_copy_nothing_is_changed_and_the_bytes_needed_are_told(
    tmp_path: Path,
) -> None:
    with tmpfs(tmp_path / "disk") as full:
        folder = old_history(tmp_path / "disk" / "history")
        with (
            full(),
            pytest.raises(HistoryFullError, match=f"needs {len(OLD)} bytes") as refused,
            opened(folder),
        ):
            pass
        assert "start the agent again" in refused.value.hint
        assert (folder / "journal").read_bytes() == OLD
        assert sorted(file.name for file in folder.iterdir()) == ["journal", "lock"]
        with opened(folder):
            assert upgraded(folder)


def test_where_files_may_not_grow_it_is_refused_too(folder: Path) -> None:
    with files_no_longer_than(len(OLD) - 1), pytest.raises(HistoryFullError), opened(folder):
        pass
    assert (folder / "journal").read_bytes() == OLD
    assert not list(folder.glob("*.format-*"))


def test_a_copy_that_is_not_read_as_it_was_written_is_not_relied_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_badly(descriptor: int, data: bytes, offset: int) -> int:
        return pwrite(descriptor, data.replace(b"robot", b"rabot"), offset)

    pwrite = os.pwrite
    with monkeypatch.context() as bad_disk:
        bad_disk.setattr(os, "pwrite", write_badly)
        with pytest.raises(AgentError, match="can't be opened"), opened(folder):
            pass
    assert (folder / "journal").read_bytes() == OLD
    assert sorted(file.name for file in folder.iterdir()) == ["journal", "lock"]


def test_a_call_that_fails_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(old_history(tmp_path / "whole"), read_only=True) as history:
        before = all_of(history)
    ends: list[tuple[bool, bool]] = []
    for step in count(1):
        folder = old_history(tmp_path / str(step))

        def fail() -> None:
            raise OSError(5, "Input/output error")

        wrap = failing_at(step, fail)
        failed = False
        with monkeypatch.context() as faulty:
            for name in STEPS[:-1]:
                faulty.setattr(os, name, wrap(name, getattr(os, name)))
            faulty.setattr(Path, "rename", wrap("rename", Path.rename))
            try:
                with opened(folder):
                    pass
            except AgentError:
                failed = True
        ends.append((failed, sound(folder, before)))
        with opened(folder) as history:
            assert all_of(history) == before
        assert sound(folder, before)
        if not failed and step > 9:
            break
    assert (True, False) in ends
    assert ends[-1] == (False, True)


UPGRADER = """
import os, signal, sys
from pathlib import Path
from tests.harness.history_on_disk import opened
from tests.harness.journal_upgrade_steps import STEPS, failing_at
wrap = failing_at(int(sys.argv[2]), lambda: os.kill(os.getpid(), signal.SIGKILL))
for name in STEPS[:-1]:
    setattr(os, name, wrap(name, getattr(os, name)))
Path.rename = wrap("rename", Path.rename)
with opened(Path(sys.argv[1])):
    pass
"""


def test_killed_at_any_step_it_is_the_old_or_the_new_and_the_next_start_goes_on(
    tmp_path: Path,
) -> None:
    with opened(old_history(tmp_path / "whole"), read_only=True) as history:
        before = all_of(history)
    ends: list[bool] = []
    for step in count(1):
        folder = old_history(tmp_path / str(step))
        ended = subprocess.run(
            [sys.executable, "-c", UPGRADER, folder, str(step)], cwd=REPOSITORY, check=False
        )
        ends.append(sound(folder, before))
        with opened(folder) as history:
            assert all_of(history) == before
        assert sound(folder, before)
        assert sorted(file.name for file in folder.iterdir()) == [
            "journal",
            "journal.format-1",
            "lock",
        ]
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
    assert ends == sorted(ends)
    assert ends[0] is False
