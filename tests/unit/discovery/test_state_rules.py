"""The rules for states: what a file lacks, and since when, gives its state and next check."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from agent.discovery.examine import Lack, NotYet
from agent.discovery.state_rules import Decision, Unchanged, WaitingRules, decide
from agent.model.values import Damaged, Fingerprint

PATH = Path("/data/a.mcap")
WAITS = WaitingRules(
    settle_seconds=2.0, rescan_seconds=60.0, sidecar_wait_seconds=5.0, unfinished_seconds=600.0
)
START = 1000.0


def decided(
    why: Lack,
    seconds: float,
    *,
    settled: bool = True,
    before_boot: bool = False,
    writer: bool | None = False,
) -> Decision:
    """Return what is decided of a file that lacks something, unchanged for so many seconds."""
    return decide(
        NotYet(PATH, why, "message"),
        Unchanged(START, START + seconds, settled),
        WAITS,
        before_boot=before_boot,
        writer=lambda: writer,
    )


@pytest.mark.parametrize(
    ("why", "seconds", "state", "check_at"),
    [
        ("recording", 3, "recording", START + 600),
        ("writer", 3, "recording", START + 600),
        ("sidecar", 3, "waiting", START + 5),
        ("done_marker", 3, "waiting", START + 600),
        ("compressing", 3, "waiting", START + 600),
        # From then on each scan has the file checked.
        ("compressing", 600, "waiting", math.inf),
    ],
)
def test_what_a_file_lacks_says_its_state_and_its_next_check(
    why: Lack, seconds: float, state: str, check_at: float
) -> None:
    decision = decided(why, seconds)
    assert (decision.state, decision.reason, decision.check_at) == (state, why, check_at)


@pytest.mark.parametrize(
    ("seconds", "before_boot", "writer", "state"),
    [
        (599, False, False, "recording"),
        (600, False, False, "unfinished"),
        (600, False, True, "recording"),
        (600, False, None, "recording"),
        (3, True, False, "unfinished"),
        (3, True, True, "recording"),
        (3, True, None, "unfinished"),
    ],
)
def test_a_file_without_an_end_is_unfinished_once_nothing_can_write_to_it(
    seconds: float, before_boot: bool, writer: bool | None, state: str
) -> None:
    decision = decided("recording", seconds, before_boot=before_boot, writer=writer)
    assert decision.state == state
    assert (decision.reason == "no_end") == (state == "unfinished")


def test_only_a_file_that_has_settled_is_damaged_or_waits() -> None:
    damaged = Damaged(PATH, Fingerprint(0, ""), 0, "bad")
    for settled, state in ((False, "settling"), (True, "damaged")):
        unchanged = Unchanged(START, START + 1, settled)
        decision = decide(damaged, unchanged, WAITS, before_boot=False, writer=lambda: False)
        assert decision.state == state
    assert decided("sidecar", 1, settled=False).state == "settling"
    assert decided("recording", 1, settled=False).state == "recording"
    assert decided("writer", 1, settled=False).state == "recording"


def test_a_wait_is_over_at_the_time_at_which_the_agent_is_woken_up() -> None:
    since, seconds = 1000.1, 0.3
    woken = since + seconds
    assert woken - since < seconds
    assert Unchanged(since, woken).has_lasted(seconds)


def test_a_compressed_file_settles_for_a_minute_at_least() -> None:
    assert WAITS.settling_seconds("a.mcap") == 2
    assert WAITS.settling_seconds("a.mcap.zstd") == 60
