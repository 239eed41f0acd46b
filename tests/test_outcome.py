"""What the end of an attempt means."""

from __future__ import annotations

import pytest

from agent.flow.outcome import outcome_of
from agent.model.errors import (
    TABLE,
    CloudError,
    FileChangedError,
    GateClosedError,
    RecordingError,
    SessionLostError,
    WaitingError,
)

QUIET = [(GateClosedError("closed"), "gate_closed"), (FileChangedError("touched"), "changed"), (None, "done")]


def end(error: Exception | None, *, attempts: int = 1, others_passed: bool = False) -> tuple[str, str, str]:
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


@pytest.mark.parametrize("code", [code for code, verdict in TABLE.items() if verdict.kind in ("offline", "blocked")])
def test_what_the_cloud_does_to_everybody_closes_the_gate_and_costs_no_attempt(code: str) -> None:
    kind = TABLE[code].kind
    assert end(CloudError("UploadPart", code), attempts=5, others_passed=True) == ("gate_closed", kind, kind)


@pytest.mark.parametrize("code", [code for code, verdict in TABLE.items() if verdict.kind == "lease_lost"])
def test_fresh_credentials_that_are_refused_block_everybody(code: str) -> None:
    assert end(CloudError("UploadPart", code, status=403)) == ("gate_closed", "blocked", "blocked")


def test_damaged_bytes_are_always_counted() -> None:
    assert end(CloudError("UploadPart", "checksum")) == ("counted", "counted", "")
    assert end(CloudError("UploadPart", "checksum"), attempts=5) == ("gave_up", "counted", "")


def test_a_session_that_any_call_finds_lost_is_forgotten() -> None:
    assert end(CloudError("CompleteUpload", "UPLOAD_NOT_FOUND"), attempts=1) == ("session_lost", "counted", "")


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


def test_trouble_on_this_robot_is_counted_and_says_what_it_was() -> None:
    outcome = outcome_of(OSError(5, "Input/output error"), attempts=1, max_attempts=5, others_passed=False)
    assert outcome.event == "counted"
    assert outcome.fault is not None
    assert (outcome.fault.code, outcome.fault.message) == ("io_error", "OSError: [Errno 5] Input/output error")
    assert end(ZeroDivisionError("oops")) == ("counted", "counted", "")
