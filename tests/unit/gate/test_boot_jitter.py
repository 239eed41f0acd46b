"""Robots that are switched on together do not contact the platform at the same moment."""

from __future__ import annotations

import pytest

from agent.gate.boot_jitter import BootJitter
from agent.gate.gate import Closed, Delays, Gate
from tests.harness.fakes.clock import FakeClock

DELAYS = Delays(base=30, maximum=1800, jitter=30)


def switched_on(seconds_ago: float, delays: Delays = DELAYS) -> tuple[BootJitter, Gate, FakeClock]:
    clock = FakeClock(monotonic=seconds_ago)
    gate = Gate(clock, delays)
    return BootJitter(gate, clock, delays), gate, clock


def held(gate: Gate) -> Closed:
    closed = gate.closed()
    assert closed is not None
    assert (closed.cause, closed.code) == ("hold", "power_on")
    return closed


def test_an_agent_that_starts_with_its_robot_lets_a_moment_pass() -> None:
    jitter_hold, gate, clock = switched_on(20)
    jitter_hold.look()
    assert held(gate).next_probe == jitter_hold.until
    clock.advance(jitter_hold.until - clock.monotonic() - 0.001)
    jitter_hold.look()
    assert held(gate)
    clock.advance(0.002)
    jitter_hold.look()
    assert gate.closed() is None


def test_many_robots_are_spread_over_the_whole_jitter() -> None:
    moments = sorted(switched_on(20)[0].until - 20 for _ in range(1000))
    assert 0 <= moments[0] < 1
    assert 29 < moments[-1] <= 30
    assert (
        max(sum(second <= moment < second + 1 for moment in moments) for second in range(30)) < 100
    )


@pytest.mark.parametrize(("seconds_ago", "jitter"), [(300, 30), (1e6, 30), (20, 0)])
def test_a_later_start_and_one_without_jitter_wait_for_nothing(
    seconds_ago: float, jitter: float
) -> None:
    jitter_hold, gate, _ = switched_on(seconds_ago, Delays(base=30, maximum=1800, jitter=jitter))
    jitter_hold.look()
    assert gate.closed() is None
    assert jitter_hold.until == seconds_ago
