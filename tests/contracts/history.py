"""The contract of ``ports.History``, for the fake and for the real history."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.model.ports import History
from agent.model.states import Event, IllegalMoveError
from agent.model.sync_log import Absences, DocumentSession, Fault, Marker, Orphan, SyncLog, Upgrade
from tests.harness.fakes.clock import FakeClock

LATER = "2026-09-21T14:30:00.000Z"
SESSION = DocumentSession(phase="opening", logical_upload_id="l", object_key="k")


def document(name: str = "a", **fields: Any) -> SyncLog:
    """Return a new document of the recording ``name``."""
    return SyncLog(
        id=0,
        **{
            "episode_id": f"episode-{name}",
            "path": f"/data/{name}.mcap",
            "file_size": 1000,
            "mtime": "2026-09-21T14:13:20.000Z",
            "fingerprint": f"1000-{name}",
            **fields,
        },
    )


class HistoryContract:
    """The tests. A subclass provides the fixtures ``history`` and ``reopen``.

    ``reopen`` closes a history and opens it again.
    """

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def history(self, clock: FakeClock, tmp_path: Path) -> History:
        raise NotImplementedError

    @pytest.fixture
    def reopen(self, clock: FakeClock, tmp_path: Path) -> Callable[[History], History]:
        raise NotImplementedError

    def test_a_new_document_gets_the_next_id_and_is_otherwise_kept_as_it_came(
        self, history: History
    ) -> None:
        first, second = history.add(document("a")), history.add(document("b"))
        assert (first.id, second.id) == (1, 2)
        assert (
            history.get(2)
            == second
            == document("b").__class__(**{**_fields(document("b")), "id": 2})
        )

    def test_debts_are_kept_in_order_until_they_are_settled(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        for name in ("a", "b"):
            history.add_orphan(orphan(name))
        history = reopen(history)
        first, second = history.orphans()
        assert (first.logical_upload_id, second) == (
            "logical-a",
            replace(orphan("b"), id=second.id),
        )
        history.remove_orphan(first.id)
        history.remove_orphan(first.id)
        assert [owed.id for owed in reopen(history).orphans()] == [second.id]

    def test_a_marker_is_remembered_by_its_path_until_it_is_gone(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        begun, served = (
            Marker("/data/\udcff.resync", 7, 1, "/data/a.mcap"),
            Marker("/data/\udcff.resync", 7, 1),
        )
        history.mark_served(begun)
        history = reopen(history)
        assert history.marker(begun.path) == begun
        history.mark_served(served)
        history = reopen(history)
        assert history.marker(begun.path) == served
        assert list(history.known_markers()) == [served]
        history.forget_marker(begun.path)
        history.forget_marker(begun.path)
        assert reopen(history).marker(begun.path) is None
        assert list(history.known_markers()) == []

    def test_what_is_forgotten_leaves_no_document_and_what_was_uploaded_stays_known(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        ended(history, "a")
        ended(history, "b", "gave_up")
        again, other = ended(history, "a", "gave_up"), ended(history, "c")

        def check_forgotten() -> None:
            assert [log.id for log in history.newest_first()] == [other]
            assert history.counts() == {"pending": 0, "in_progress": 0, "completed": 1, "failed": 0}
            assert history.newest("1000-a") is None
            assert not list(history.at_path(Path("/data/a.mcap")))
            assert not list(history.of_episode("episode-b"))
            with pytest.raises(KeyError):
                history.get(again)
            assert [history.synced(f"1000-{name}") for name in "abcd"] == [True, False, True, False]

        assert history.expire(["1000-a", "1000-b", "1000-a", "1000-unknown"]) == 3
        check_forgotten()
        history = reopen(history)
        check_forgotten()

    def test_an_id_is_not_given_again_when_its_document_is_forgotten(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        ended(history, "a")
        history.expire(["1000-a"])
        assert history.add(document("b")).id == 2
        history.move(2, "claimed")
        history.move(2, "done")
        history.expire(["1000-b"])
        assert reopen(history).add(document("a")).id == 3

    def test_a_recording_to_which_something_may_still_happen_is_not_forgotten(
        self, history: History
    ) -> None:
        for name in "ab":
            ended(history, name)
            history.add(document(name, resync=True))
        history.move(4, "claimed")
        history.move(4, "counted", next_retry_at=LATER)
        assert history.expire(["1000-a", "1000-b"]) == 0
        assert [log.id for log in history.newest_first()] == [4, 3, 2, 1]

    def test_every_write_is_told_by_another_number_of_changes_and_reading_is_not(
        self, history: History
    ) -> None:
        seen = [history.changes()]
        for write in (
            lambda: history.add(document("a")),
            lambda: history.amend(1, reason="because"),
            lambda: history.move(1, "claimed"),
            lambda: history.add_orphan(orphan("a")),
            lambda: history.mark_served(Marker("/data/a.mcap.resync", 7, 1)),
            lambda: history.remove_orphan(history.orphans()[0].id),
        ):
            write()
            seen.append(history.changes())
        assert len(set(seen)) == len(seen)
        assert history.open()
        assert history.counts()
        assert history.changes() == seen[-1]

    def test_debts_and_markers_outlive_what_is_forgotten(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        ended(history, "a")
        history.add_orphan(orphan("a"))
        history.mark_served(Marker("/data/a.mcap.resync", 7, 1))
        history.expire(["1000-a"])
        history = reopen(history)
        assert [owed.logical_upload_id for owed in history.orphans()] == ["logical-a"]
        assert history.marker("/data/a.mcap.resync") is not None

    def test_a_recording_that_was_forgotten_may_be_sent_again_and_be_forgotten_again(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        for _ in range(2):
            ended(history, "a")
            assert history.newest("1000-a") is not None
            history.expire(["1000-a"])
        assert history.newest("1000-a") is None
        assert reopen(history).synced("1000-a")

    def test_forgetting_is_undone_with_its_transaction(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        ended(history, "a")
        ended(history, "b", "gave_up")
        before = list(history.newest_first())

        def work() -> None:
            with history.transaction():
                history.expire(["1000-a", "1000-b"])
                assert history.newest("1000-a") is None
                assert history.synced("1000-a")
                history.note_absences(Absences(1, "2026-09-21", {1: 1}))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work()
        for _ in range(2):
            assert list(history.newest_first()) == before
            assert history.counts() == {"pending": 0, "in_progress": 0, "completed": 1, "failed": 1}
            assert history.newest("1000-b") == before[0]
            assert [log.id for log in history.of_episode("episode-a")] == [1]
            assert history.absences() == Absences()
            history = reopen(history)

    def test_the_version_that_runs_is_kept_as_it_was_noted_last(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        assert history.upgrade() is None
        for noted in (Upgrade("1.0"), Upgrade("1.1", "1.0", frozenset({2, 70_000}))):
            history.note_upgrade(noted)
            assert history.upgrade() == noted
            history = reopen(history)
            assert history.upgrade() == noted

    def test_absences_are_kept_as_they_were_noted_last(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        assert history.absences() == Absences()
        first = Absences(7, "2026-09-21", dict.fromkeys(range(1, 2500), 7))
        second = Absences(
            8, "2026-09-22", {**{id_: 7 for id_ in range(1, 2500) if id_ % 1000}, 3000: 8, 1000: 8}
        )
        for noted in (first, second, second, Absences(9, "2026-09-23")):
            history.note_absences(noted)
            assert history.absences() == noted
            history = reopen(history)
            assert history.absences() == noted

    def test_every_field_survives_a_restart(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        log = history.add(
            document(
                "ä\udcff",
                sidecar_sha256="0" * 64,
                trigger="marker",
                reason="again,\nplease\0",
                resync=True,
                status="failed",
                attempt_count=3,
                next_retry_at=LATER,
                error=Fault("counted", "INTERNAL", "it said: \u2028 no", "look"),
                raw_tags={"scene": "Küche", "": "empty"},
                left_out_tags=("long",),
                session=DocumentSession(
                    phase="uploading",
                    logical_upload_id="l",
                    upload_id="u",
                    multipart_upload_id="m",
                    bucket="b",
                    object_key="k",
                    etag='"e"',
                    checksum="c",
                    part_size_bytes=8 << 20,
                    part_count=3,
                ),
                duration_seconds=1.25,
                source_deleted=True,
                owner=1000,
            )
        )
        assert reopen(history).get(log.id) == log

    def test_open_and_ended_documents_are_found_after_a_restart(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        waiting, ended = history.add(document("a")), history.add(document("b"))
        history.move(ended.id, "claimed")
        ended = history.move(ended.id, "done")
        history = reopen(history)
        assert list(history.open()) == [waiting]
        assert history.newest("1000-a") == waiting
        assert history.newest("1000-b") == ended
        assert history.counts() == {"pending": 1, "in_progress": 0, "completed": 1, "failed": 0}

    def test_a_move_goes_through_the_state_table_at_the_clock_s_time(
        self, history: History
    ) -> None:
        id_ = history.add(document()).id
        claimed = history.move(id_, "claimed", session=SESSION)
        assert (claimed.status, claimed.attempt_count, claimed.session) == (
            "in_progress",
            1,
            SESSION,
        )
        assert claimed.started_at == "2026-09-21T14:13:20.000Z"
        assert history.get(id_) == claimed

    def test_a_forbidden_move_raises_and_changes_nothing(self, history: History) -> None:
        log = history.add(document())
        with pytest.raises(IllegalMoveError):
            history.move(log.id, "done")
        assert history.get(log.id) == log
        assert list(history.open()) == [log]

    def test_an_amendment_changes_fields_of_an_open_document_only(self, history: History) -> None:
        id_ = history.add(document()).id
        assert history.amend(id_, session=SESSION, raw_tags={"a": "b"}).session == SESSION
        assert history.amend(id_, session=None).session is None
        history.move(id_, "claimed")
        ended = history.move(id_, "gave_up")
        with pytest.raises(IllegalMoveError):
            history.amend(id_, session=SESSION)
        assert history.get(id_) == ended

    def test_an_unknown_id_is_a_key_error(self, history: History) -> None:
        history.add(document())
        for query in (
            history.get,
            lambda id_: history.move(id_, "claimed"),
            lambda id_: history.amend(id_, reason=""),
        ):
            with pytest.raises(KeyError):
                query(2)

    def test_the_newest_document_of_a_fingerprint_is_the_live_one(self, history: History) -> None:
        history.add(document("a"))
        history.add(document("b"))
        second = history.add(document("a", path="/elsewhere/a.mcap"))
        assert history.newest("1000-a") == second
        assert history.newest("1000-c") is None

    def test_open_documents_come_oldest_first_whatever_happened_to_them(
        self, history: History
    ) -> None:
        for name in "abcd":
            history.add(document(name))
        history.move(2, "claimed")
        history.move(2, "counted", next_retry_at=LATER)
        history.move(1, "claimed")
        history.move(1, "gate_closed")
        history.move(3, "claimed")
        history.move(3, "gave_up")
        assert [log.id for log in history.open()] == [1, 2, 4]

    def test_documents_of_a_path_and_of_an_episode_come_newest_first(
        self, history: History
    ) -> None:
        history.add(document("a", episode_id="e"))
        history.add(document("b", episode_id="e"))
        history.add(document("a", episode_id="f"))
        assert [log.id for log in history.at_path(Path("/data/a.mcap"))] == [3, 1]
        assert [log.id for log in history.of_episode("e")] == [2, 1]
        assert list(history.at_path(Path("/data"))) == []
        assert list(history.of_episode("")) == []

    def test_a_document_is_found_under_its_new_episode_and_no_more_under_the_old(
        self, history: History
    ) -> None:
        id_ = history.add(document("a")).id
        history.amend(id_, episode_id="other")
        assert [log.id for log in history.of_episode("other")] == [id_]
        assert list(history.of_episode("episode-a")) == []

    def test_documents_are_listed_newest_first_by_status_too(self, history: History) -> None:
        for name in "abc":
            history.add(document(name))
        history.move(2, "claimed")
        assert [log.id for log in history.newest_first()] == [3, 2, 1]
        assert [log.id for log in history.newest_first("pending")] == [3, 1]
        assert [log.id for log in history.newest_first("completed")] == []

    def test_a_list_goes_on_while_documents_change(self, history: History) -> None:
        for name in "abc":
            history.add(document(name))
        listed = history.newest_first("pending")
        assert next(listed).id == 3
        history.add(document("d"))
        assert [log.id for log in listed] == [2, 1]

    def test_a_transaction_keeps_all_its_writes(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        with history.transaction():
            first = history.add(document("a"))
            assert history.newest("1000-a") == first
            history.move(first.id, "claimed")
            second = history.add(document("b"))
            assert [log.id for log in history.at_path(Path("/data/b.mcap"))] == [second.id]
        history = reopen(history)
        assert [(log.id, log.status) for log in history.open()] == [
            (1, "in_progress"),
            (2, "pending"),
        ]

    def test_a_transaction_that_fails_leaves_nothing(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        log = history.add(document("a"))

        def work() -> None:
            with history.transaction():
                history.move(log.id, "claimed")
                history.move(log.id, "done")
                history.add(document("b"))
                with history.transaction():
                    history.add(document("a"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work()
        for _ in range(2):
            assert list(history.open()) == list(history.newest_first()) == [log]
            assert history.newest("1000-a") == log
            assert history.newest("1000-b") is None
            assert history.counts()["pending"] == 1
            history = reopen(history)
        assert not list(history.of_episode("episode-b"))

    def test_writes_of_other_threads_wait_for_a_transaction_and_are_not_part_of_it(
        self, history: History
    ) -> None:
        other = threading.Thread(target=lambda: history.add(document("other")))

        def work() -> None:
            with history.transaction():
                history.add(document("mine"))
                other.start()
                other.join(0.05)
                assert other.is_alive()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            work()
        other.join()
        assert [log.episode_id for log in history.newest_first()] == ["episode-other"]

    def test_ids_go_up_across_restarts(
        self, history: History, reopen: Callable[[History], History]
    ) -> None:
        history.add(document("a"))
        history = reopen(history)
        assert history.add(document("b")).id == 2

    def test_many_threads_lose_no_document(self, history: History) -> None:
        def work(name: str) -> None:
            for number in range(10):
                id_ = history.add(document(f"{name}{number}")).id
                history.move(id_, "claimed")
                history.move(id_, "done")

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [log.id for log in history.newest_first("completed")] == list(range(40, 0, -1))

    def test_a_sound_history_says_so(self, history: History) -> None:
        assert history.damage() == 0
        assert history.room()


def ended(history: History, name: str, event: Event = "done") -> int:
    """Add a document of the recording ``name`` that has ended. Return its id."""
    id_ = history.add(document(name)).id
    history.move(id_, "claimed")
    history.move(id_, event)
    return id_


def _fields(log: SyncLog) -> dict[str, Any]:
    return {name: getattr(log, name) for name in log.__dataclass_fields__}


def orphan(name: str) -> Orphan:
    """Return an orphan of the session ``name``."""
    return Orphan(
        0, "robot-1", f"logical-{name}", f"upload-{name}", "multipart", "key", "gave_up", LATER
    )
