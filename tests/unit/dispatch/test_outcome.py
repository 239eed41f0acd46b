"""What the end of an attempt means for the recording and for the gate."""

from __future__ import annotations

import errno

import pytest

from agent.dispatch.outcome import outcome_of
from agent.model.error_table import TABLE
from agent.model.errors import (
    AgentError,
    CloudError,
    FileChangedError,
    GateClosedError,
    HistoryFullError,
    RecordingError,
    SessionLostError,
    WaitingError,
)
from agent.model.unforeseen import SHORTAGES, understood

QUIET = [
    (GateClosedError("closed"), "gate_closed"),
    (FileChangedError("touched"), "changed"),
    (None, "done"),
]


def end(
    error: Exception | None, *, attempts: int = 1, others_passed: bool = False
) -> tuple[str, str, str]:
    outcome = outcome_of(error, attempts=attempts, max_attempts=5, others_passed=others_passed)
    return (
        outcome.event,
        outcome.fault.kind if outcome.fault else "",
        outcome.closes.kind if outcome.closes else "",
    )


@pytest.mark.parametrize(("error", "event"), QUIET)
def test_what_is_nobodys_fault_leaves_no_error(error: Exception | None, event: str) -> None:
    assert end(error, attempts=5) == (event, "", "")


def test_the_recordings_own_fault_is_final() -> None:
    assert end(RecordingError("two values", code="tag_conflict")) == ("gave_up", "final", "")
    assert end(CloudError("CompleteUpload", "INVALID_ARGUMENT")) == ("gave_up", "final", "")


def test_what_one_recording_waits_for_blocks_it_alone() -> None:
    assert end(WaitingError("no asset id", code="no_asset_id")) == ("blocked_alone", "blocked", "")


def test_a_lost_session_keeps_its_attempt_until_there_are_none_left() -> None:
    assert end(SessionLostError("gone"), attempts=4) == ("session_lost", "counted", "")
    assert end(SessionLostError("gone"), attempts=5) == ("gave_up", "counted", "")


@pytest.mark.parametrize(
    "code", [code for code, verdict in TABLE.items() if verdict.kind in ("offline", "blocked")]
)
def test_what_the_cloud_does_to_everybody_closes_the_gate_and_costs_no_attempt(code: str) -> None:
    kind = TABLE[code].kind
    # A lack of memory may be caused by one recording alone.
    others_passed = code != "out_of_memory"
    assert end(CloudError("UploadPart", code), attempts=5, others_passed=others_passed) == (
        "gate_closed",
        kind,
        kind,
    )


@pytest.mark.parametrize(
    "code", [code for code, verdict in TABLE.items() if verdict.kind == "lease_lost"]
)
def test_fresh_credentials_that_are_refused_block_everybody(code: str) -> None:
    assert end(CloudError("UploadPart", code, status=403)) == ("gate_closed", "blocked", "blocked")


def test_damaged_bytes_are_always_counted() -> None:
    assert end(CloudError("UploadPart", "checksum")) == ("counted", "counted", "")
    assert end(CloudError("UploadPart", "checksum"), attempts=5) == ("gave_up", "counted", "")


def test_a_session_that_any_call_finds_lost_is_forgotten() -> None:
    assert end(CloudError("CompleteUpload", "UPLOAD_NOT_FOUND"), attempts=1) == (
        "session_lost",
        "counted",
        "",
    )


@pytest.mark.parametrize(
    "error",
    [
        CloudError("CompleteUpload", "INTERNAL_ERROR"),
        CloudError("UploadPart", "HTTP_500", status=500),
        CloudError("UploadPart", "SlowDown", status=503),
    ],
)
def test_an_answer_counts_only_where_others_pass_the_same_call(error: CloudError) -> None:
    assert end(error)[0] == "gate_closed"
    assert end(error, others_passed=True) == ("counted", "counted", "")
    assert end(error, attempts=5, others_passed=True)[0] == "gave_up"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (OSError(5, "Input/output error"), "io_error", "OSError: [Errno 5] Input/output error"),
        (ZeroDivisionError("oops"), "bug", "ZeroDivisionError: oops"),
    ],
)
def test_what_nobody_foresaw_counts_only_where_others_come_through_whole(
    error: Exception, code: str, message: str
) -> None:
    outcome = outcome_of(error, attempts=5, max_attempts=5, others_passed=False)
    assert (outcome.event, outcome.answered) == ("gate_closed", True)
    assert outcome.closes is not None
    assert outcome.closes.kind == "offline"
    assert outcome.fault is not None
    assert (outcome.fault.code, outcome.fault.message) == (code, message)
    assert end(error, others_passed=True) == ("counted", "counted", "")
    assert end(error, attempts=5, others_passed=True) == ("gave_up", "counted", "")


def wrapped(lack: Exception, *, openly: bool) -> Exception:
    """Return an error as an adapter raises it.

    If ``openly`` is false, the adapter hides the cause.
    """
    error = AgentError("the file can't be used")
    error.__context__ = lack
    error.__cause__ = lack if openly else None
    error.__suppress_context__ = True
    return error


@pytest.mark.parametrize(
    ("lack", "code"),
    [
        (RuntimeError("can't start new thread"), "out_of_threads"),
        (MemoryError(), "out_of_memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory"),
        (OSError(errno.EMFILE, "Too many open files"), "out_of_descriptors"),
        (OSError(errno.ENFILE, "Too many open files in system"), "out_of_descriptors"),
        (OSError(errno.ENOSPC, "No space left on device"), "out_of_space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "out_of_space"),
        (CloudError("UploadPart", "out_of_descriptors"), "out_of_descriptors"),
    ],
)
def test_what_this_robot_lacks_closes_the_gate_with_a_reason_of_its_own_however_it_is_wrapped(
    lack: Exception, code: str
) -> None:
    for form in (lack, wrapped(lack, openly=True), wrapped(lack, openly=False)):
        outcome = outcome_of(form, attempts=5, max_attempts=5, others_passed=False)
        assert outcome.event == "gate_closed"
        assert outcome.closes is not None
        assert outcome.fault is not None
        assert (outcome.fault.kind, outcome.fault.code, outcome.fault.message) == (
            "offline",
            code,
            SHORTAGES[code],
        )
        assert outcome.fault.hint == TABLE[code].hint


def test_a_recording_that_alone_needs_too_much_memory_waits_alone_and_spends_no_attempt() -> None:
    assert end(MemoryError(), attempts=5, others_passed=True) == ("blocked_alone", "blocked", "")


def test_a_closed_gate_and_a_full_history_are_never_taken_for_a_lack() -> None:
    for error in (GateClosedError("closed"), HistoryFullError("full")):
        error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
        assert understood(error) is error
