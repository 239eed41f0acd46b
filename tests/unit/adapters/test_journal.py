"""The journal as storage of TinyDB, with torn and damaged files and full disks."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinydb import TinyDB, where
from tinydb.storages import MemoryStorage
from tinydb.table import Document

from agent.adapters.journal.contents import FORMAT
from agent.adapters.journal.lines import line
from agent.adapters.journal.offsets import Offsets
from agent.model.errors import AgentError
from tests.harness.journal_on_disk import State, content_of, journal, state_of, storage_of

HEADER = line(b'{"format":%d,"last_ids":{}}' % FORMAT)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history" / "journal"


def replayed(lines: Sequence[bytes]) -> State:
    """Return the state that these lines describe, read with the plainest code."""
    state: State = {}
    for raw in lines:
        said = json.loads(raw[9:])
        for table, id_, document in said if isinstance(said, list) else ():
            if document is None:
                state.get(table, {}).pop(id_, None)
            else:
                state.setdefault(table, {})[id_] = document
    return {table: state[table] for table in sorted(state) if state[table]}


# The tests below compare the journal with TinyDB's own storage.

texts = st.text(max_size=8) | st.sampled_from(['],["', "deadbeef [", "\n", "\0", "\udc80", "null"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(texts, values, max_size=4)
ids = st.integers(min_value=1, max_value=6)


def calls() -> st.SearchStrategy[Callable[[TinyDB], object]]:
    """A strategy for one call on one of two tables of any TinyDB."""
    table = st.sampled_from(["a", 'tables\' "ä" ['])
    return st.one_of(
        st.builds(lambda t, d: lambda db: db.table(t).insert(d), table, documents),
        st.builds(
            lambda t, ds: lambda db: db.table(t).insert_multiple(ds),
            table,
            st.lists(documents, max_size=4),
        ),
        st.builds(
            lambda t, d, i: lambda db: db.table(t).upsert(Document(d, i)), table, documents, ids
        ),
        st.builds(
            lambda t, d, i: lambda db: _update_if_present(db.table(t).update, d, db, t, i),
            table,
            documents,
            ids,
        ),
        st.builds(
            lambda t, d, x: lambda db: db.table(t).update({**d, "x": x}, where("x") != x),
            table,
            documents,
            ids,
        ),
        st.builds(lambda t, x: lambda db: db.table(t).update(lambda d: d.update(x=x)), table, ids),
        st.builds(
            lambda t, x: lambda db: db.table(t).update_multiple([({"y": x}, where("x") == x)]),
            table,
            ids,
        ),
        st.builds(lambda t, x: lambda db: db.table(t).search(where("x") == x), table, ids),
        st.builds(lambda t, x: lambda db: db.table(t).remove(where("x") == x), table, ids),
        st.builds(lambda t, i: lambda db: db.table(t).get(doc_id=i), table, ids),
        st.builds(
            lambda t: (
                lambda db: (len(db.table(t)), db.table(t).all(), db.table(t).contains(doc_id=2))
            ),
            table,
        ),
        st.builds(lambda t: lambda db: db.table(t).truncate(), table),
        st.builds(lambda t: lambda db: db.drop_table(t), table),
    )


def _update_if_present(
    update: Callable[..., object], fields: Mapping[str, Any], db: TinyDB, table: str, id_: int
) -> object:
    return update(fields, doc_ids=[id_]) if db.table(table).contains(doc_id=id_) else None


def by_id(answer: object) -> object:
    """Sort documents by id.

    The journal lists them by id, TinyDB's own storage in the order of their insertion.
    """
    if isinstance(answer, tuple):
        return tuple(map(by_id, answer))
    if isinstance(answer, list):
        return sorted(
            answer, key=lambda found: found.doc_id if isinstance(found, Document) else found
        )
    return answer


@settings(deadline=None, max_examples=60)
@given(steps=st.lists(calls(), max_size=12), compacted=st.booleans())
def test_any_calls_have_the_same_answers_and_the_same_end_as_on_tinydb_s_own_storage(
    steps: list[Callable[[TinyDB], object]], compacted: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        plain = TinyDB(storage=MemoryStorage)
        with journal(path) as db:
            for step in steps:
                assert by_id(step(db)) == by_id(step(plain))
            if compacted:
                storage_of(db).compact()
        expected = {
            name: {document.doc_id: dict(document) for document in plain.table(name)}
            for name in sorted(plain.tables())
            if len(plain.table(name))
        }
        with journal(path) as db:
            assert state_of(db) == expected
        if not compacted:
            assert replayed(content_of(path).splitlines()) == expected


def test_a_transaction_over_several_tables_is_one_line(path: Path) -> None:
    with journal(path) as db:
        with storage_of(db).transaction():
            db.table("a").insert({"n": 1})
            db.table("b").insert_multiple([{"n": 2}, {"n": 3}])
            db.table("a").update({"n": 4}, doc_ids=[1])
            assert db.table("a").all() == [{"n": 4}]
            assert len(db.table("b")) == 2
        assert content_of(path).count(b"\n") == 2
    with journal(path) as db:
        assert state_of(db) == {"a": {1: {"n": 4}}, "b": {1: {"n": 2}, 2: {"n": 3}}}


def test_a_transaction_that_fails_writes_nothing(path: Path) -> None:
    with journal(path) as db:
        before = content_of(path)

        def fail() -> None:
            with storage_of(db).transaction():
                db.table("a").insert({"n": 1})
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fail()
        assert state_of(db) == {}
        assert content_of(path) == before


def test_what_is_no_json_is_refused_and_nothing_written(path: Path) -> None:
    with journal(path) as db:
        before = content_of(path)
        for value in (float("nan"), object(), b"bytes"):
            with pytest.raises((TypeError, ValueError)):
                db.table("a").insert({"value": value})
        assert content_of(path) == before
        assert len(db.table("a")) == 0


def test_an_update_that_changes_nothing_writes_nothing(path: Path) -> None:
    with journal(path) as db:
        db.table("a").insert_multiple([{"n": 1}, {"n": 2}])
        before = content_of(path)
        db.table("a").update({"n": 2}, doc_ids=[2])
        assert content_of(path) == before
        db.table("a").update({"n": 2}, where("n") < 3)
        assert content_of(path).removeprefix(before)[9:] == b'[["a",1,{"n":2}]]\n'


def test_write_replaces_everything_in_one_line_and_read_gives_it_back(path: Path) -> None:
    with journal(path) as db:
        db.table("a").insert_multiple([{"n": 1}, {"n": 2}])
        db.table("b").insert({"n": 3})
        before = content_of(path).count(b"\n")
        db.storage.write({"a": {"2": {"n": 2}, "5": {"n": 5}}})
        assert content_of(path).count(b"\n") == before + 1
        assert {name: dict(table) for name, table in (db.storage.read() or {}).items()} == {
            "a": {"2": {"n": 2}, "5": {"n": 5}}
        }
        db.drop_tables()
        assert db.storage.read() is None


def test_the_highest_id_is_remembered_when_its_document_is_gone(path: Path) -> None:
    with journal(path) as db:
        db.table("a").insert_multiple([{}, {}, {}])
        db.table("a").truncate()
        storage_of(db).compact()
    with journal(path) as db:
        assert storage_of(db).last_id("a") == 3
        assert storage_of(db).last_id("b") == 0


@given(
    steps=st.lists(
        st.tuples(st.integers(1, 8), st.sampled_from(["put", "drop", "look"])), max_size=40
    )
)
def test_places_know_what_a_plain_dictionary_knows(steps: list[tuple[int, str]]) -> None:
    places, plain = Offsets(), dict[int, tuple[int, int]]()
    for number, (id_, step) in enumerate(steps, start=1):
        if step == "put":
            places.put(id_, number, number)
            plain[id_] = number, number
        elif step == "drop":
            places.drop(id_)
            plain.pop(id_, None)
        else:
            assert list(places.ids) == sorted(plain)
        assert len(places) == len(plain)
        assert [places.find(other) for other in range(1, 9)] == [
            plain.get(other) for other in range(1, 9)
        ]
        assert sum(places.lengths) == sum(length for _, length in plain.values())


# The tests below cover torn and damaged files.


@pytest.fixture
def lines(path: Path) -> list[bytes]:
    """Return the lines of a journal with a header and some transactions.

    These insert, update and remove documents, and one changes two tables.
    """
    with journal(path) as db:
        table = db.table("sync_logs")
        table.insert({"name": "first", "tags": {"a": "b"}})
        table.insert({"name": "second", "trap": 'deadbeef [["sync_logs",1,null]]'})
        table.update({"name": "again"}, doc_ids=[1])
        with storage_of(db).transaction():
            table.insert({"name": "third", "list": [["a"], ["b"]]})
            db.table("markers").insert({"inode": 7})
        table.remove(doc_ids=[2])
        table.insert({"name": "JJ**last"})
    return content_of(path).splitlines(keepends=True)


def written(path: Path, content: bytes | bytearray, zeros: int = 5000) -> Path:
    path.write_bytes(content + bytes(zeros))
    return path


@pytest.mark.parametrize("zeros", [0, 5000])
def test_cut_at_any_byte_it_holds_exactly_the_whole_lines_before(
    path: Path, lines: list[bytes], zeros: int
) -> None:
    content = b"".join(lines)
    for size in range(len(content) + 1):
        whole = content[:size].count(b"\n")
        with journal(written(path, content[:size], zeros), read_only=True) as db:
            assert state_of(db) == replayed(lines[:whole])
            assert storage_of(db).damage == 0


def test_cut_anywhere_it_goes_on_from_there(path: Path, lines: list[bytes]) -> None:
    content = b"".join(lines)
    for size in range(0, len(content), 7):
        whole = content[:size].count(b"\n")
        with journal(written(path, content[:size])) as db:
            before = state_of(db)
            db.table("more").insert({"n": size})
        assert content_of(path) == b"".join(lines[:whole] or [HEADER]) + line(
            b'[["more",1,{"n":%d}]]' % size
        )
        with journal(path, read_only=True) as db:
            assert state_of(db) == dict(sorted({**before, "more": {1: {"n": size}}}.items()))
    assert not list(path.parent.glob("*.damaged"))


def test_a_last_line_of_which_an_earlier_page_was_never_written_is_cut_off(
    path: Path, lines: list[bytes]
) -> None:
    torn = bytes(20) + lines[-1][20:]
    with journal(written(path, b"".join(lines[:-1]) + torn)) as db:
        assert state_of(db) == replayed(lines[:-1])
        assert storage_of(db).damage == 0
    assert content_of(path) == b"".join(lines[:-1])


def test_any_flipped_bit_leaves_all_other_lines_and_is_told(path: Path, lines: list[bytes]) -> None:
    content = bytearray(b"".join(lines))
    start = 0
    for number, raw in enumerate(lines):
        accepted = [replayed(lines[:number] + lines[number + 1 :]), replayed(lines)]
        for bit in range(start * 8, (start + len(raw)) * 8):
            content[bit // 8] ^= 1 << bit % 8
            with journal(written(path, content, 64), read_only=True) as db:
                assert state_of(db) in accepted, (number, bit)
                assert storage_of(db).damage > 0, (number, bit)
            content[bit // 8] ^= 1 << bit % 8
        start += len(raw)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_writer_sets_damaged_lines_aside_heals_the_file_and_goes_on(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        with journal(path) as db:
            for number in range(6):
                db.table("a").insert({"n": number})
        lines = content_of(path).splitlines(keepends=True)
        content = bytearray(b"".join(lines))
        bit = data.draw(st.integers(0, len(content) * 8 - 1))
        hit = content[: bit // 8].count(b"\n")
        content[bit // 8] ^= 1 << bit % 8
        with journal(written(path, content)) as db:
            state, damage = state_of(db), storage_of(db).damage
            assert state in (replayed(lines[:hit] + lines[hit + 1 :]), replayed(lines))
            assert damage > 0
            next_id = storage_of(db).last_id("a") + 1
            assert next_id > 6
            db.table("a").insert(Document({"n": "new"}, next_id))
        aside = path.with_name("journal.damaged").read_bytes()
        assert aside.count(b"\n") == damage
        assert bytes(content[bit // 8 : bit // 8 + 1]).strip() in aside
        with journal(path) as db:
            # The journal is repaired, so nothing is set aside again. The damage is reported until
            # the file with the damaged lines is deleted.
            assert state_of(db) == {"a": {**state.get("a", {}), next_id: {"n": "new"}}}
            assert storage_of(db).damage == damage
        path.with_name("journal.damaged").unlink()
        with journal(path, read_only=True) as db:
            assert storage_of(db).damage == 0


@settings(deadline=None, max_examples=100)
@given(garbage=st.binary(max_size=300))
def test_a_file_of_garbage_opens(garbage: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        path.write_bytes(garbage)
        with journal(path) as db:
            db.table("a").insert({})
        with journal(path) as db:
            assert state_of(db) == {"a": {db.table("a").all()[0].doc_id: {}}}


def test_a_file_that_changed_under_a_reader_is_noticed(path: Path, lines: list[bytes]) -> None:
    with journal(path, read_only=True) as db:
        written(path, b"x" * len(b"".join(lines)))
        with pytest.raises(AgentError, match="changed"):
            db.table("sync_logs").get(doc_id=1)


def test_what_was_left_of_an_unfinished_compaction_is_removed(
    path: Path, lines: list[bytes]
) -> None:
    path.with_name("journal.new").write_bytes(b"half")
    with journal(path) as db:
        assert state_of(db) == replayed(lines)
    assert not path.with_name("journal.new").exists()


def test_a_folder_that_may_not_be_written_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AgentError, match="can't be opened"), journal(tmp_path / "file" / "journal"):
        pass
