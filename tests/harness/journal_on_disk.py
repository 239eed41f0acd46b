"""Opens the real journal in a file, and reads its content."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.adapters.journal import JournalDB, JournalStorage

State = dict[str, dict[int, Any]]


@contextmanager
def journal(path: Path, *, read_only: bool = False, reserve: int = 4096) -> Iterator[JournalDB]:
    db = JournalDB(path, storage=JournalStorage, read_only=read_only, reserve=reserve)
    with db:
        yield db


def storage_of(db: JournalDB) -> JournalStorage:
    assert isinstance(db.storage, JournalStorage)
    return db.storage


def state_of(db: JournalDB) -> State:
    return {
        name: {document.doc_id: dict(document) for document in db.table(name)}
        for name in sorted(db.tables())
    }


def content_of(path: Path) -> bytes:
    return path.read_bytes().rstrip(b"\0")
