"""The history.

The contract runs on TinyDB and on the fake, further tests cover failures of a real disk.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from agent.adapters.history import TABLE, TinyHistory, to_json
from agent.adapters.history.index import Index
from agent.adapters.journal import JournalDB, JournalStorage
from agent.adapters.journal.lines import line
from agent.model.errors import AgentError, HistoryFullError, HistoryLockedError
from agent.model.ports import History
from agent.model.sync_log import DocumentSession, Fault, Marker, SyncLog
from tests.contracts.history import LATER, HistoryContract, document
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.history import MemoryHistory
from tests.harness.history_on_disk import files_no_longer_than, opened

CONTRACT_FIELDS = [
    "id", "episode_id", "path", "file_size", "mtime", "fingerprint", "sidecar_sha256", "trigger",
    "reason", "resync", "status", "phase", "attempt_count", "queued_at", "started_at",
    "completed_at", "next_retry_at", "error", "device_id", "asset_id", "raw_tags", "left_out_tags",
    "bucket", "object_key", "etag", "checksum", "logical_upload_id", "upload_id",
    "multipart_upload_id", "part_size_bytes", "part_count", "bytes_sent", "duration_seconds",
    "credential_refreshes", "restarts", "source_deleted",
]  # fmt: skip
TYPICAL: dict[str, Any] = {
    "sidecar_sha256": "5" * 64,
    "raw_tags": {f"tag_{number}": "a value of usual length" for number in range(16)},
    "session": DocumentSession(
        object_key="robot-0001/2026-09-21/session/episode_0001.mcap", checksum="q1w2e3==-12"
    ),
}


class TestTinyHistory(HistoryContract):
    @pytest.fixture
    def history(self, clock: FakeClock, tmp_path: Path) -> Iterator[History]:
        self.opened = [TinyHistory(tmp_path / "history", clock, reserve=65536)]
        yield self.opened[0]
        self.opened[-1].close()

    @pytest.fixture
    def reopen(self, clock: FakeClock, tmp_path: Path) -> Callable[[History], History]:
        def again(history: History) -> History:
            history.close()
            self.opened.append(TinyHistory(tmp_path / "history", clock, reserve=65536))
            return self.opened[-1]

        return again


class TestMemoryHistory(HistoryContract):
    @pytest.fixture
    def history(self, clock: FakeClock) -> History:
        return MemoryHistory(clock)

    @pytest.fixture
    def reopen(self) -> Callable[[History], History]:
        def again(history: History) -> History:
            assert isinstance(history, MemoryHistory)
            return history.reopened()

        return again


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "history"


def test_a_document_has_the_promised_fields_in_the_promised_order(folder: Path) -> None:
    with opened(folder) as history:
        id_ = history.add(document(left_out_tags=("long",))).id
        stored = history.db.table(TABLE).get(doc_id=id_)
    assert list(stored or ()) == [
        *CONTRACT_FIELDS,
        "ahead",
        "owner",
        "sidecar_fault",
        "manifest_revision",
    ]
    lines = (folder / "journal").read_bytes().rstrip(b"\0").splitlines()
    assert json.loads(lines[1][9:]) == [["sync_logs", 1, stored]]


def test_an_error_is_an_object_of_four_fields(folder: Path) -> None:
    with opened(folder) as history:
        id_ = history.add(document(error=Fault("blocked", "KEY_DISABLED", "no", "ask"))).id
        stored = history.db.table(TABLE).get(doc_id=id_)
    assert isinstance(stored, dict)
    assert stored["error"] == {
        "kind": "blocked",
        "code": "KEY_DISABLED",
        "message": "no",
        "hint": "ask",
    }


def test_fields_of_a_newer_agent_are_passed_over_and_kept(folder: Path) -> None:
    with opened(folder) as history:
        id_ = history.add(document()).id
        history.db.table(TABLE).update(
            {"colour": "red", "error": {**_fault(), "depth": 3}}, doc_ids=[id_]
        )
    with opened(folder) as history:
        log = history.move(id_, "claimed")
        assert log.error is not None
        assert log.error.code == "dns"
        stored = history.db.table(TABLE).get(doc_id=id_)
    assert isinstance(stored, dict)
    assert (stored["colour"], stored["status"]) == ("red", "in_progress")


def test_a_document_of_0_1_0_has_no_owner_and_keeps_none(folder: Path) -> None:
    """Version 0.1.0 did not write down the owner of a file.

    Its documents stay in the journal as they were.
    """
    with opened(folder) as history:
        id_ = history.add(document(owner=1000)).id
    journal = folder / "journal"
    head, *lines = journal.read_bytes().rstrip(b"\0").splitlines()
    old = [line(content[9:].replace(b',"owner":1000', b"")) for content in lines]
    assert b"owner" not in b"".join(old)
    journal.write_bytes(b"".join([head, b"\n", *old]))
    with opened(folder) as history:
        assert history.damage() == 0
        assert history.get(id_) == replace(document(owner=None), id=id_)
        assert history.move(id_, "claimed").owner is None


def _fault() -> dict[str, str]:
    return {"kind": "offline", "code": "dns", "message": "", "hint": ""}


def test_a_newer_format_is_refused_in_words(folder: Path) -> None:
    with opened(folder) as history:
        history.add(document())
    journal = folder / "journal"
    content = journal.read_bytes()
    journal.write_bytes(line(b'{"format":3,"last_ids":{}}') + content[content.index(b"\n") + 1 :])
    for read_only in (False, True):
        with (
            pytest.raises(AgentError, match="format 3, of a newer agent") as refused,
            opened(folder, read_only=read_only),
        ):
            pass
        assert refused.value.code == "history_format"


def test_ids_are_not_used_again_after_a_removal_and_a_compaction(folder: Path) -> None:
    with opened(folder) as history:
        for name in "abc":
            history.add(document(name))
        history.db.table(TABLE).remove(doc_ids=[2, 3])
    with opened(folder) as history:
        history._storage.compact()
    with opened(folder) as history:
        history._storage.compact()
        assert history.add(document("d")).id == 4
        assert history.newest("1000-c") is None
        assert [log.id for log in history.newest_first()] == [4, 1]


def test_compaction_keeps_every_document_and_drops_their_pasts(folder: Path) -> None:
    with opened(folder) as history:
        for number in range(20):
            id_ = history.add(document(str(number))).id
            for _ in range(10):
                history.move(id_, "claimed")
                history.move(id_, "gate_closed")
        before, size = list(history.newest_first()), history._storage.size
        history._storage.compact()
        assert list(history.newest_first()) == before
        assert history._storage.size < size / 10
        history.move(1, "claimed")
        assert history.add(document("new")).id == 21
    with opened(folder) as history:
        assert history.get(1).status == "in_progress"
        assert [log.id for log in history.open()] == list(range(1, 22))


def test_a_wasteful_journal_is_compacted_at_the_next_start(folder: Path) -> None:
    with opened(folder) as history:
        id_ = history.add(document(reason="x" * 100_000)).id
        for _ in range(30):
            history.move(id_, "claimed")
            history.move(id_, "gate_closed")
        assert history._storage.wasteful
    with opened(folder) as history:
        assert not history._storage.wasteful
        assert history._storage.size < 250_000
        assert len(history.get(id_).reason) == 100_000


def test_tidying_compacts_while_the_agent_runs_and_only_when_that_is_worth_it(folder: Path) -> None:
    with opened(folder) as history:
        id_ = history.add(document(reason="x" * 100_000)).id
        history.move(id_, "claimed")
        size = history._storage.size
        history.tidy()
        assert history._storage.size == size
        for _ in range(30):
            history.move(id_, "gate_closed")
            history.move(id_, "claimed")
        history.tidy()
        assert history._storage.size < 250_000
        assert history.get(id_).status == "in_progress"


def test_forgetting_makes_a_journal_that_is_worth_compacting(folder: Path) -> None:
    with opened(folder) as history:
        with history.transaction():
            for number in range(2000):
                history.add(document(str(number), reason="x" * 2000))
                history.move(number + 1, "claimed")
                history.move(number + 1, "done")
        history._storage.compact()
        assert not history._storage.wasteful
        history.expire([f"1000-{number}" for number in range(1800)])
        size = history._storage.size
        history.tidy()
        assert history._storage.size < size / 5
    with opened(folder) as history:
        assert history.counts()["completed"] == 200
        assert all(history.synced(f"1000-{number}") for number in range(2000))
        assert not history.synced("1000-2000")
        assert history.add(document("new")).id == 2001


def test_a_list_goes_on_when_the_journal_is_compacted_under_it(folder: Path) -> None:
    with opened(folder) as history:
        for number in range(1, 401):
            history.add(document(str(number), reason=f"document {number}" + "x" * 500))
        listed = history.newest_first()
        seen = []
        for log in listed:
            seen.append((log.id, log.reason[: log.reason.index("x")]))
            if log.id == 300:
                history.move(200, "claimed")
                history.move(200, "gave_up")
                history.expire(["1000-200"])
                history._storage.compact()
            if log.id == 100:
                history._storage.compact()
        assert seen == [(id_, f"document {id_}") for id_ in range(400, 0, -1) if id_ != 200]


def test_a_reader_sees_the_history_as_it_was_opened_whatever_the_writer_does(folder: Path) -> None:
    with opened(folder) as history:
        for number in range(1, 101):
            history.add(document(str(number), reason="x" * 500))
        with opened(folder, read_only=True) as reader:
            before = list(history.newest_first())
            listed = reader.newest_first()
            seen = [next(listed)]
            for number in range(1, 101):
                history.move(number, "claimed")
                history.move(number, "done")
            history.expire([f"1000-{number}" for number in range(1, 51)])
            history._storage.compact()
            history.add(document("new"))
            assert [*seen, *listed] == list(reader.newest_first()) == before
            assert reader.at_path(Path("/data/7.mcap")) == [before[-7]]
        with opened(folder, read_only=True) as reader:
            assert [log.id for log in reader.newest_first()] == list(range(101, 50, -1))
            assert reader.synced("1000-7")


def test_what_is_read_at_once_is_what_is_read_one_by_one(folder: Path) -> None:
    """The order in the file must not matter, nor names that need escapes, nor unknown fields."""
    with opened(folder) as history:
        for number in range(1, 301):
            history.add(
                document(
                    f'{number}"\\ü\udcff' if number % 7 == 0 else str(number),
                    reason="x" * (number * 5),
                )
            )
        for number in random.Random(7).sample(range(1, 301), 250):
            history.move(number, "claimed")
            if number % 3:
                history.move(number, "done")
        history.db.table(TABLE).update({"colour": "red"}, doc_ids=[5, 14])
        before = [history.get(id_) for id_ in range(300, 0, -1)]
    with opened(folder) as history:
        assert list(history.newest_first()) == before
        assert list(history.shown()) == [to_json(log) for log in before]
        assert list(history.newest_first("completed")) == [log for log in before if log.synced]
        for log in before:
            assert history.at_path(Path(log.path)) == history.of_episode(log.episode_id) == [log]
            assert history.newest(log.fingerprint) == log
        assert list(history.open()) == [log for log in reversed(before) if log.open]


def test_a_marker_is_served_in_the_same_transaction_as_its_document(folder: Path) -> None:
    served, lost = Marker("/data/a.mcap.resync", 7, 1), Marker("/data/b.mcap.resync", 8, 2)
    with opened(folder) as history:
        with history.transaction():
            history.add(document("a"))
            history.mark_served(served)

        def fail() -> None:
            with history.transaction():
                history.add(document("b"))
                history.mark_served(lost)
                assert history.marker(lost.path) == lost
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert (history.marker(served.path), history.marker(lost.path)) == (served, None)
    with opened(folder) as history:
        assert (history.marker(served.path), history.marker(lost.path)) == (served, None)
        assert history.counts()["pending"] == 1


def test_a_second_history_in_this_process_is_refused_too(folder: Path) -> None:
    with opened(folder), pytest.raises(HistoryLockedError), opened(folder):
        pass


def test_a_reader_finds_an_empty_history_where_no_agent_ever_ran_and_creates_nothing(
    folder: Path,
) -> None:
    with opened(folder, read_only=True) as history:
        assert list(history.newest_first()) == []
        assert history.newest("x") is None
    assert not folder.exists()


def test_a_reader_cannot_write(folder: Path) -> None:
    with opened(folder) as history:
        history.add(document())
        before = (folder / "journal").read_bytes()
        with opened(folder, read_only=True) as reader:
            with pytest.raises(AgentError, match="reading only"):
                reader.move(1, "claimed")
            with pytest.raises(AgentError, match="reading only"):
                reader._storage.compact()
            assert reader.get(1).status == "pending"
    assert (folder / "journal").read_bytes() == before


def test_3000_transitions_fit_into_the_room_that_is_kept_for_a_full_disk(folder: Path) -> None:
    history = TinyHistory(folder, FakeClock())
    id_ = history.add(document(**TYPICAL)).id
    try:
        with files_no_longer_than((folder / "journal").stat().st_size):
            for _ in range(1500):
                history.move(id_, "claimed")
                history.move(id_, "gate_closed")
            assert not history.room()
        assert history.room()
    finally:
        history.close()


def refusal(history: TinyHistory, id_: int) -> HistoryFullError | None:
    """Move the document once more, and return the error if the disk has no space for it."""
    try:
        history.move(id_, "claimed" if history.get(id_).status == "pending" else "gate_closed")
    except HistoryFullError as error:
        return error
    return None


def add_two(history: TinyHistory) -> None:
    with history.transaction():
        history.add(document("new"))
        history.add(document("newer", **TYPICAL))


def test_when_the_room_is_spent_a_write_raises_and_nothing_has_changed(folder: Path) -> None:
    with opened(folder) as history:
        id_ = history.add(document(**TYPICAL)).id
        history.add(document("waiting"))
        before, content = history.get(id_), b""
        with files_no_longer_than((folder / "journal").stat().st_size):
            while (refused := refusal(history, id_)) is None:
                before, content = history.get(id_), (folder / "journal").read_bytes()
            assert refused.code == "disk_full"
            assert (folder / "journal").read_bytes() == content
            assert history.get(id_) == before
            assert [log.id for log in history.open()] == [1, 2]
            assert not history.room()
            with pytest.raises(HistoryFullError):
                add_two(history)
            assert history.newest("1000-new") is None
            assert history.counts()["pending"] + history.counts()["in_progress"] == 2
        assert history.room()
        assert history.add(document("new")).id > 2
    with opened(folder) as history:
        assert history.get(id_) == before
        assert history.newest("1000-new") is not None


class _Cost:
    """A counter of the calls and bytes that a piece of work costs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.read = self.written = self.calls = self.interpreted = 0
        for name in ("pread", "pwrite", "fdatasync", "posix_fallocate"):
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            answer = real(*arguments)
            self.calls += 1
            self.read += len(answer) if name == "pread" else 0
            self.written += answer if name == "pwrite" else 0
            return answer

        return call

    def _trace(self, _frame: FrameType, event: str, _argument: Any) -> None:
        self.interpreted += event in ("call", "c_call")

    def of(self, work: Callable[[], object]) -> tuple[int, int, int, int]:
        self.read = self.written = self.calls = self.interpreted = 0
        before = sys.getprofile()
        # Garbage of earlier code must not count as a cost of this work.
        gc.disable()
        sys.setprofile(self._trace)
        try:
            work()
        finally:
            sys.setprofile(before)
            gc.enable()
        return self.read, self.written, self.calls, self.interpreted


def test_work_on_one_document_costs_the_same_among_50_and_among_5000(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = _Cost(monkeypatch)
    works: dict[str, Callable[[TinyHistory], object]] = {
        "move": lambda history: history.move(10, "claimed"),
        "amend": lambda history: history.amend(10, reason="r"),
        "newest": lambda history: history.newest("1000-000011"),
        "at_path": lambda history: history.at_path(Path("/data/000012.mcap")),
        "of_episode": lambda history: history.of_episode("episode-000013"),
        "add": lambda history: history.add(document("new")),
        "get by TinyDB": lambda history: history.db.table(TABLE).get(doc_id=14),
        "len by TinyDB": lambda history: len(history.db.table(TABLE)),
    }
    costs: dict[int, dict[str, tuple[int, ...]]] = {}
    for documents in (50, 5000):
        with opened(folder / str(documents), reserve=1 << 20) as history:
            with history.transaction():
                for number in range(1, documents + 1):
                    history.add(document(f"{number:06}"))
            history._storage.compact()
            for id_ in range(11, 15):
                history.move(id_, "claimed")
                history.move(id_, "done")
            costs[documents] = {
                name: cost.of(partial(work, history)) for name, work in works.items()
            }
    few, many = costs[50], costs[5000]
    # The id of the new document has two digits more among 5,000 documents. The id is written twice,
    # once as a key and once inside of the document.
    read, written, calls, interpreted = few["add"]
    few["add"] = (read, written + 4, calls, interpreted)
    assert many == few
    assert few["move"][0] < 2000
    assert few["move"][1] < 2000
    assert few["move"][2] <= 4


def test_documents_with_the_same_hash_are_told_apart_by_their_texts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.hash", lambda _text: 4)
    with opened(folder) as history:
        for name in "abab":
            history.add(document(name))
        assert [log.id for log in history.of_episode("episode-a")] == [3, 1]
        newest = history.newest("1000-b")
        assert newest is not None
        assert newest.id == 4
        assert history.newest("1000-c") is None


def test_the_index_finds_everything_after_it_grew() -> None:
    index = Index()
    for id_ in range(1, 5001):
        index.add(f"text {id_ % 2500}", id_)
    assert index.ids("text 7") == [2507, 7]
    assert index.ids("text 2500") == []


def test_the_index_gives_the_place_of_what_is_discarded_to_what_comes_next() -> None:
    index = Index()
    for id_ in range(1, 40_001):
        index.add(f"text {id_ % 2500}", id_)
        if id_ > 2500:
            index.discard(f"text {id_ % 2500}", id_ - 2500)
    index.discard("text 7", 1)
    assert index.ids("text 7") == [37_507]
    assert all(index.ids(f"text {id_ % 2500}") == [id_] for id_ in range(37_501, 40_001))
    assert len(index._ids) <= 2502


def test_the_folder_is_for_the_agent_and_its_group(folder: Path) -> None:
    umask = os.umask(0o077)
    try:
        with opened(folder) as history:
            history.add(document())
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o7777 == 0o2750
    assert (folder / "journal").stat().st_mode & 0o7777 == 0o640


def test_plain_tinydb_reads_the_sync_log(folder: Path) -> None:
    with opened(folder) as history:
        history.add(document("a"))
        history.move(1, "claimed")
        history.move(1, "counted", next_retry_at=LATER)
    with JournalDB(folder / "journal", storage=JournalStorage, read_only=True) as db:
        assert [log["status"] for log in db.table("sync_logs")] == ["failed"]


def test_a_value_given_back_does_not_change_when_the_document_does(folder: Path) -> None:
    with opened(folder) as history:
        log = history.add(document())
        history.move(log.id, "claimed")
        assert isinstance(log, SyncLog)
        assert log.status == "pending"
