"""The state table: which events a document allows in which state, pair by pair."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args

import pytest

from agent.model.states import Event, IllegalMoveError, amend, move
from agent.model.sync_log import (
    DocumentSession,
    Fault,
    MoveChanges,
    Status,
    SyncLog,
    SyncLogChanges,
)
from tests.contracts.history import document

AT = "2026-09-21T14:13:20.000Z"
LATER = "2026-09-21T14:30:00.000Z"
SESSION = DocumentSession(phase="uploading", upload_id="u", multipart_upload_id="m")

# Every state of a document, named by its status. "failed" stands for two states.
STATES: dict[str, SyncLog] = {
    "pending": document(status="pending", attempt_count=2),
    "in_progress": document(
        status="in_progress", attempt_count=2, started_at="2026-01-01T00:00:00.000Z"
    ),
    "completed": document(status="completed", attempt_count=2),
    "waiting": document(status="failed", attempt_count=2, next_retry_at=LATER),
    "failed": document(status="failed", attempt_count=2),
}
DATED = {"counted", "blocked_alone"}
# The status and the attempts after each event. A pair that is missing here is forbidden.
AFTER: dict[tuple[str, str], tuple[str, int]] = {
    ("pending", "claimed"): ("in_progress", 3),
    ("in_progress", "done"): ("completed", 2),
    ("in_progress", "gate_closed"): ("pending", 1),
    ("in_progress", "changed"): ("pending", 1),
    ("in_progress", "blocked_alone"): ("failed", 1),
    ("in_progress", "counted"): ("failed", 2),
    ("in_progress", "gave_up"): ("failed", 2),
    ("in_progress", "session_lost"): ("pending", 2),
    ("waiting", "due"): ("pending", 2),
    ("waiting", "asked"): ("pending", 0),
}
PAIRS = [(state, event) for state in STATES for event in get_args(Event)]


def date_for(event: str) -> MoveChanges:
    return {"next_retry_at": LATER} if event in DATED else {}


def test_every_status_is_in_the_table() -> None:
    assert {log.status for log in STATES.values()} == set(get_args(Status))
    assert {event for _, event in AFTER} == set(get_args(Event))


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_a_move_leads_where_the_table_says_or_raises(state: str, event: Event) -> None:
    expected = AFTER.get((state, event))
    if expected is None:
        with pytest.raises(IllegalMoveError):
            move(STATES[state], event, AT, **date_for(event))
    else:
        after = move(STATES[state], event, AT, **date_for(event))
        assert (after.status, after.attempt_count) == expected
        assert after.next_retry_at == (LATER if event in DATED else None)


@pytest.mark.parametrize(("state", "event"), AFTER)
def test_a_retry_date_belongs_to_a_failure_that_will_be_tried_again_and_to_nothing_else(
    state: str, event: Event
) -> None:
    wrong: MoveChanges = {} if event in DATED else {"next_retry_at": LATER}
    with pytest.raises(IllegalMoveError):
        move(STATES[state], event, AT, **wrong)


@pytest.mark.parametrize(("state", "event"), AFTER)
def test_a_move_takes_other_changes_along(state: str, event: Event) -> None:
    changes: MoveChanges = {**date_for(event), "reason": "because"}
    after = move(STATES[state], event, AT, **changes)
    assert after.reason == "because"
    assert after.status == AFTER[state, event][0]


def test_a_claim_says_when_the_first_attempt_began() -> None:
    first = move(STATES["pending"], "claimed", AT)
    assert first.started_at == AT
    again = move(move(first, "gate_closed", AT), "claimed", LATER)
    assert again.started_at == AT


def test_success_is_dated_and_forgets_the_error() -> None:
    log = replace(STATES["in_progress"], error=Fault("offline", "dns", "no", ""))
    after = move(log, "done", AT)
    assert (after.completed_at, after.error) == (AT, None)


def test_a_closed_gate_keeps_session_and_error() -> None:
    error = Fault("offline", "dns", "no", "")
    after = move(replace(STATES["in_progress"], session=SESSION, error=error), "gate_closed", AT)
    assert (after.session, after.error) == (SESSION, error)


def test_a_lost_session_is_forgotten_and_nothing_else() -> None:
    log = replace(STATES["in_progress"], session=SESSION, asset_id="robot")
    after = move(log, "session_lost", AT)
    assert after == replace(STATES["in_progress"], status="pending", asset_id="robot")


@pytest.mark.parametrize("state", ["pending", "in_progress", "waiting"])
def test_an_open_document_can_be_amended(state: str) -> None:
    assert amend(STATES[state], session=SESSION) == replace(STATES[state], session=SESSION)


@pytest.mark.parametrize("state", ["completed", "failed"])
def test_a_document_that_has_ended_never_changes(state: str) -> None:
    with pytest.raises(IllegalMoveError):
        amend(STATES[state], session=SESSION)


def test_what_follows_from_moves_is_no_change_that_an_amendment_may_make() -> None:
    amendable = SyncLogChanges.__optional_keys__
    names = {field.name for field in fields(SyncLog)}
    assert amendable <= names
    for name in names - amendable:
        with pytest.raises(IllegalMoveError):
            amend(STATES["pending"], **{name: getattr(STATES["pending"], name)})
    assert names - amendable >= {"id", "status", "attempt_count", "next_retry_at", "completed_at"}
