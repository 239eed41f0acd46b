"""Tests of the journal on a disk that is full, or that fails."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tinydb.table import Document

from agent.adapters.journal import RESERVE
from agent.adapters.journal.lines import line
from agent.model.errors import HistoryFullError
from tests.harness.full_disk import tmpfs
from tests.harness.journal_on_disk import content_of, journal, state_of, storage_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history" / "journal"


@contextmanager
def limited(folder: Path) -> Iterator[Callable[[], AbstractContextManager[object]]]:
    """Forbid files to grow, for every user, as long as a block lasts.

    The block is the fixture's value.
    """
    folder.mkdir()

    @contextmanager
    def full() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, ((folder / "journal").stat().st_size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    yield full


@pytest.fixture(params=[tmpfs, limited], ids=["tmpfs", "rlimit"])
def disk_and_filling(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Path, Callable[[], AbstractContextManager[object]]]]:
    with request.param(tmp_path / "disk") as full:
        yield tmp_path / "disk" / "journal", full


def fits(write: Callable[[], object]) -> bool:
    try:
        write()
    except HistoryFullError:
        return False
    return True


def _count_up(stored: MutableMapping[str, Any]) -> None:
    stored["n"] += 1
    stored["text"] = "x" * 2000


def test_on_a_full_disk_writes_go_on_in_the_room_and_then_fail_without_a_trace(
    disk_and_filling: tuple[Path, Callable[[], AbstractContextManager[object]]],
) -> None:
    path, full = disk_and_filling
    count = 0
    with journal(path, reserve=500_000) as db:
        table = db.table("a")
        table.insert({"n": 0, "text": ""})
        assert storage_of(db).room
        with full():
            before, content = state_of(db), content_of(path)
            while fits(lambda: table.update(_count_up, doc_ids=[1])):
                before, content = state_of(db), content_of(path)
                count += 1
            assert count >= 500_000 // 2100
            assert not storage_of(db).room
            assert content_of(path) == content
            assert state_of(db) == before
            # A short line still fits behind the last one.
            table.update({"text": ""}, doc_ids=[1])
            with pytest.raises(HistoryFullError):
                table.insert({"text": "x" * 5000})
    # This is a start on a full disk.
    with full(), journal(path, reserve=500_000) as db:
        assert state_of(db) == {"a": {1: {"n": count, "text": ""}}}
        assert not storage_of(db).room
    with journal(path, reserve=500_000) as db:
        assert storage_of(db).room
        db.table("a").update({"text": "there is room again"}, doc_ids=[1])
    with journal(path) as db:
        assert state_of(db) == {"a": {1: {"n": count, "text": "there is room again"}}}


def test_the_room_is_filled_up_again_as_soon_as_the_disk_has_space(
    disk_and_filling: tuple[Path, Callable[[], AbstractContextManager[object]]],
) -> None:
    path, full = disk_and_filling
    with journal(path, reserve=500_000) as db:
        with full():
            while fits(lambda: db.table("a").insert({"text": "x" * 20000})):
                pass
            assert not storage_of(db).room
        assert storage_of(db).room
        with full():
            for _ in range(20):
                db.table("a").insert({"text": "x" * 20000})


def test_a_compaction_without_space_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk") as full, journal(tmp_path / "disk" / "journal") as db:
        db.table("a").insert({"text": "x" * 10_000})
        with full(), pytest.raises(HistoryFullError):
            storage_of(db).compact()
        assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["journal", "lock"]
        db.table("a").insert({"text": "y"})
        assert len(db.table("a")) == 2


def test_a_history_cannot_begin_on_a_full_disk_and_says_so(tmp_path: Path) -> None:
    with (
        tmpfs(tmp_path / "disk") as full,
        full(),
        pytest.raises(HistoryFullError),
        journal(tmp_path / "disk" / "journal"),
    ):
        pass


@pytest.mark.parametrize("refused", ["pwrite", "fdatasync"])
def test_a_disk_that_fails_is_told_and_the_next_write_begins_with_cleaning_up(
    path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    with journal(path) as db:
        db.table("a").insert({"n": 1})
        before = content_of(path)

        def fail(*_: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as broken:
            broken.setattr(os, refused, fail)
            with pytest.raises(HistoryFullError) as error:
                db.table("a").insert({"n": "a line that is longer than the next one"})
            assert error.value.code == "disk_error"
            assert state_of(db) == {"a": {1: {"n": 1}}}
        db.table("a").insert(Document({"n": 2}, 2))
        assert content_of(path) == before + line(b'[["a",2,{"n":2}]]')


def test_where_nothing_can_be_set_aside_zeros_are_written_instead(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unsupported)
    with journal(path, reserve=RESERVE) as db:
        assert storage_of(db).room
        assert path.stat().st_blocks * 512 > RESERVE
        db.table("a").insert({"n": 1})
        assert storage_of(db).room
    with journal(path) as db:
        assert state_of(db) == {"a": {1: {"n": 1}}}
