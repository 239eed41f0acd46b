"""Tests of the history with other processes: a second agent, readers, kill -9."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.adapters.history import TinyHistory
from agent.model.errors import HistoryLockedError
from tests.contracts.history import document
from tests.harness.history_on_disk import opened
from tests.harness.paths import REPOSITORY


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "history"


def test_a_second_agent_is_refused(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; "
        "from tests.harness.history_on_disk import opened\n"
        "with opened(Path(sys.argv[1])): print('in', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(HistoryLockedError), opened(folder):
            pass
        with opened(folder, read_only=True) as reader:
            assert reader.counts()["pending"] == 0
        other.communicate("\n")
        assert other.returncode == 0
    with opened(folder) as history:
        history.add(document())


READER = """
import sys
from pathlib import Path
from tests.contracts.history import document
from tests.harness.history_on_disk import opened
folder, seen, times = Path(sys.argv[1]), 0, 0
print("ready", flush=True)
while True:
    last = (folder / "stop").exists()
    with opened(folder, read_only=True) as history:
        logs = list(history.newest_first())
        assert [log.id for log in logs] == list(range(len(logs), 0, -1)), logs
        assert len(logs) >= seen, (len(logs), seen)
        assert history.damage() == 0
        for log in logs:
            assert log.reason == f"document {log.id}" and history.newest(log.fingerprint) == log
        assert all(log.status == "completed" for log in logs[1:])
        seen, times = len(logs), times + 1
    if last:
        print(seen, times, flush=True)
        break
"""


def test_a_reader_in_another_process_sees_a_sound_beginning_while_the_agent_writes_and_compacts(
    folder: Path,
) -> None:
    with (
        opened(folder) as history,
        subprocess.Popen(
            [sys.executable, "-c", READER, folder],
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        ) as reader,
    ):
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        try:
            for number in range(1, 401):
                history.add(document(str(number), reason=f"document {number}"))
                history.move(number, "claimed")
                history.move(number, "done")
                if number % 20 == 0:
                    history._storage.compact()
        finally:
            (folder / "stop").touch()
        seen, times = reader.communicate()[0].split()
        assert reader.returncode == 0
        assert int(seen) == 400
        assert int(times) > 3


FORGETFUL_READER = """
import sys
from pathlib import Path
from tests.contracts.history import document
from tests.harness.history_on_disk import opened
folder, oldest, newest, times = Path(sys.argv[1]), 1, 0, 0
print("ready", flush=True)
while True:
    last = (folder / "stop").exists()
    with opened(folder, read_only=True) as history:
        assert history.damage() == 0
        ids = [log.id for log in history.newest_first()]
        first, end = (ids[-1], ids[0]) if ids else (newest + 1, newest)
        # The history is one piece without a gap that only ever moves on. A recording is there, or
        # it is forgotten and stays known.
        assert ids == list(range(end, first - 1, -1)), ids
        assert oldest <= first and newest <= end, (oldest, first, newest, end)
        assert all(history.synced(f"1000-{id_}") for id_ in range(1, first))
        assert all(history.newest(f"1000-{id_}").synced for id_ in ids[1:])
        assert not any(history.newest(f"1000-{id_}") for id_ in range(1, first))
        assert not history.synced(f"1000-{end + 10}")
        oldest, newest, times = first, end, times + 1
    if last:
        print(oldest, newest, times, flush=True)
        break
"""


def test_a_reader_knows_each_recording_while_the_agent_writes_forgets_and_compacts(
    folder: Path,
) -> None:
    with (
        opened(folder) as history,
        subprocess.Popen(
            [sys.executable, "-c", FORGETFUL_READER, folder],
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        ) as reader,
    ):
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        try:
            for number in range(1, 401):
                history.add(document(str(number)))
                history.move(number, "claimed")
                history.move(number, "done")
                if number % 10 == 0:
                    assert history.expire(
                        [f"1000-{id_}" for id_ in range(number - 19, number - 9)]
                    ) == 10 * (number > 10)
                if number % 40 == 0:
                    history._storage.compact()
        finally:
            (folder / "stop").touch()
        oldest, newest, times = reader.communicate()[0].split()
        assert reader.returncode == 0
        assert (int(oldest), int(newest)) == (391, 400)
        assert int(times) > 3


WRITER = """
import sys
from pathlib import Path
from tests.contracts.history import document
from tests.harness.history_on_disk import opened
with opened(Path(sys.argv[1])) as history:
    print("open", history.damage(), flush=True)
    while True:
        with history.transaction():
            log = history.add(document("a", reason="x" * 3000))
            other = history.add(document("b"))
        print(log.id, "pending", other.id, "pending", flush=True)
        for event in ("claimed", "done"):
            log = history.move(log.id, event)
            print(log.id, log.status, flush=True)
        if log.id % 20 == 1:
            history._storage.compact()
"""


FORGETFUL_WRITER = """
import sys
from pathlib import Path
from tests.contracts.history import document
from tests.harness.history_on_disk import opened
with opened(Path(sys.argv[1])) as history:
    print("open", history.damage(), flush=True)
    while True:
        log = history.add(document(f"{history._next_id}"))
        print(log.id, flush=True)
        for event in ("claimed", "done"):
            history.move(log.id, event)
        if log.id % 5 == 0:
            history.expire([f"1000-{id_}" for id_ in range(log.id - 4, log.id + 1)])
        if log.id % 20 == 0:
            history._storage.compact()
"""


def lines_until_killed(script: str, folder: Path, first: str, count: int) -> list[str]:
    """Run ``script`` on the history in ``folder``, and kill it after ``count`` lines.

    Return its whole lines behind ``first``, with which it begins. There may be more than ``count``.
    """
    with subprocess.Popen(
        [sys.executable, "-c", script, folder], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{first}\n"
        lines = [process.stdout.readline() for _ in range(count)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout
    return [line.rstrip("\n") for line in lines if line.endswith("\n")]


@pytest.mark.parametrize("kills", [5, pytest.param(15, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_leaves_a_recording_or_what_is_known_of_it_and_no_id_is_given_twice(
    folder: Path, kills: int
) -> None:
    seed = random.Random(10)
    given: list[int] = []
    for _ in range(kills):
        count = seed.randrange(1, 60)
        given += map(int, lines_until_killed(FORGETFUL_WRITER, folder, "open 0", count))
        assert given == sorted(set(given))
        with opened(folder, read_only=True) as history:
            assert history.damage() == 0
            for id_ in given:
                kept = history.newest(f"1000-{id_}")
                assert (kept is not None and kept.open) or history.synced(f"1000-{id_}")
    assert given[-1] > 12 * kills


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_kill_9_at_any_moment_loses_nothing_that_was_acknowledged(folder: Path, kills: int) -> None:
    seed = random.Random(9)
    promised: dict[int, str] = {}
    rank = ["pending", "in_progress", "completed"]
    for _ in range(kills):
        for line in lines_until_killed(WRITER, folder, "open 0", seed.randrange(1, 60)):
            words = line.split()
            promised |= {
                int(id_): status for id_, status in zip(words[::2], words[1::2], strict=True)
            }
        with opened(folder) as history:
            assert history.damage() == 0
            for id_, status in promised.items():
                assert rank.index(history.get(id_).status) >= rank.index(status)
            logs = list(history.newest_first())
            # Both documents of a transaction are there or none, and no id is used twice.
            assert [log.id for log in logs] == list(range(len(logs), 0, -1))
            assert len(logs) % 2 == 0
            assert len(logs) <= len(promised) + 2
            promised = {log.id: log.status for log in logs}


FORGETTER = """
import sys
from agent.model.sync_log import Absences
from pathlib import Path
from tests.contracts.history import document
from tests.harness.history_on_disk import opened
with opened(Path(sys.argv[1])) as history:
    print("open", flush=True)
    for log in list(history.newest_first())[::-1]:
        with history.transaction():
            history.expire([log.fingerprint])
            history.note_absences(Absences(log.id, "2026-09-21", {log.id: log.id}))
        print(log.fingerprint, flush=True)
        if log.id % 7 == 0:
            history._storage.compact()
"""


def add_ended_documents(history: TinyHistory, count: int) -> None:
    """Add documents of which those with an odd id are completed, and the others have failed."""
    for number in range(1, count + 1):
        history.add(document(str(number)))
        history.move(number, "claimed")
        history.move(number, "done" if number % 2 else "gave_up")


@pytest.mark.parametrize("kills", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_kill_9_while_it_forgets_loses_no_fingerprint_and_brings_nothing_back(
    folder: Path, kills: int
) -> None:
    seed = random.Random(5)
    with opened(folder) as history:
        add_ended_documents(history, 100)
    gone: set[str] = set()
    for _ in range(kills):
        gone |= set(lines_until_killed(FORGETTER, folder, "open", seed.randrange(8)))
        with opened(folder) as history:
            assert history.damage() == 0
            there = [log.id for log in history.newest_first()]
            assert not {f"1000-{id_}" for id_ in there} & gone
            assert there == list(range(100, 100 - len(there), -1))
            assert history.absences().day == 100 - len(there)
            synced = [number for number in range(1, 101) if history.synced(f"1000-{number}")]
            assert synced == list(range(1, 101, 2))
    assert len(gone) > kills
