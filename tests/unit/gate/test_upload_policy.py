"""Upload windows and links close the gate. A pause in the middle of an upload loses nothing."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from agent.gate.gate import Delays, Gate
from agent.gate.upload_policy import UploadPolicy
from agent.model.hours import Hours
from agent.model.transfer import Link
from tests.harness.fakes.clock import FakeClock
from tests.harness.phase import phase_of
from tests.harness.robot import Robot

BUILT = datetime(2026, 1, 1, tzinfo=timezone.utc).timestamp()
# Noon of a Wednesday.
NOON = datetime(2026, 6, 10, 12, tzinfo=timezone.utc).timestamp()
HOUR_SECONDS = 3600.0
UTC = ZoneInfo("UTC")
WIFI, MOBILE, NOWHERE, UNKNOWN = (
    Link(frozenset({"wlan0"})),
    Link(frozenset({"wwan0"}), metered=True),
    Link(frozenset()),
    Link(None),
)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now=NOON)


@pytest.fixture
def gate(clock: FakeClock) -> Gate:
    return Gate(clock, Delays(base=30, maximum=1800, jitter=0))


def limits(
    gate: Gate,
    clock: FakeClock,
    *windows: str,
    interfaces: tuple[str, ...] = (),
    metered: bool = True,
) -> UploadPolicy:
    return UploadPolicy(
        gate,
        clock,
        hours=Hours.parse(windows, UTC),
        built=BUILT,
        interfaces=interfaces,
        pause_metered=not metered,
    )


def why(gate: Gate) -> str:
    closed = gate.closed()
    return "" if closed is None else closed.reason


# The tests below cover upload windows.


def test_the_gate_is_held_outside_the_hours_and_says_until_when(
    gate: Gate, clock: FakeClock
) -> None:
    bounds = limits(gate, clock, "22:00-06:00")
    bounds.look_at_clock()
    closed = gate.closed()
    assert closed is not None
    assert (closed.cause, closed.code) == ("hold", "windows")
    assert closed.next_probe == clock.monotonic() + 10 * HOUR_SECONDS
    clock.advance(10 * HOUR_SECONDS - 1)
    bounds.look_at_clock()
    assert gate.closed() is not None
    clock.advance(1)
    bounds.look_at_clock()
    assert gate.closed() is None
    clock.advance(8 * HOUR_SECONDS)
    bounds.look_at_clock()
    closed = gate.closed()
    assert closed is not None
    assert closed.since == clock.monotonic()
    assert closed.next_probe == clock.monotonic() + 16 * HOUR_SECONDS


def test_without_hours_no_clock_closes_anything(gate: Gate, clock: FakeClock) -> None:
    clock.set_now(0)
    limits(gate, clock).look_at_clock()
    assert gate.closed() is None


def test_in_1970_the_hours_count_as_closed_and_the_clock_is_named(
    gate: Gate, clock: FakeClock
) -> None:
    bounds = limits(gate, clock, "00:00-24:00")
    clock.set_now(1000)
    bounds.look_at_clock()
    closed = gate.closed()
    assert closed is not None
    assert "clock" in closed.reason
    assert "set this robot's clock" in closed.hint
    assert closed.next_probe is None
    clock.set_now(BUILT)
    bounds.look_at_clock()
    assert gate.closed() is None


def test_a_jump_of_the_clock_moves_the_time_that_is_shown(gate: Gate, clock: FakeClock) -> None:
    bounds = limits(gate, clock, "22:00-06:00")
    bounds.look_at_clock()
    for hours, left in ((3, 7), (-5, 15), (-24, 10)):
        clock.set_now(NOON + hours * HOUR_SECONDS)
        bounds.look_at_clock()
        closed = gate.closed()
        assert closed is not None
        assert closed.next_probe == clock.monotonic() + left * HOUR_SECONDS % (24 * HOUR_SECONDS)


# The tests below cover links.


def test_nothing_goes_before_the_link_is_known_where_it_matters(
    gate: Gate, clock: FakeClock
) -> None:
    bounds = limits(gate, clock, interfaces=("wl*",))
    assert bounds.asks_link
    assert "not known yet" in why(gate)
    bounds.see(WIFI)
    assert gate.closed() is None


def test_where_every_link_will_do_nobody_need_look(gate: Gate, clock: FakeClock) -> None:
    assert not limits(gate, clock).asks_link
    assert gate.closed() is None


def test_another_interface_than_allowed_holds_the_gate_and_is_named(
    gate: Gate, clock: FakeClock
) -> None:
    bounds = limits(gate, clock, interfaces=("wl*", "en*"))
    bounds.see(MOBILE)
    assert why(gate) == "the way to the cloud is wwan0; upload.interfaces allows wl*, en*"
    bounds.see(NOWHERE)
    assert why(gate) == "there is no way to the cloud; upload.interfaces allows wl*, en*"
    bounds.see(WIFI)
    assert gate.closed() is None
    bounds.see(Link(frozenset({"wlan0", "wwan0"})))
    assert "wwan0" in why(gate)
    assert "wlan0" not in why(gate)


def test_a_way_that_cannot_be_told_is_no_reason_to_hold(gate: Gate, clock: FakeClock) -> None:
    bounds = limits(gate, clock, interfaces=("wl*",))
    bounds.see(UNKNOWN)
    assert gate.closed() is None


def test_a_metered_link_holds_the_gate_only_where_that_is_asked_for(
    gate: Gate, clock: FakeClock
) -> None:
    limits(gate, clock, interfaces=("ww*",)).see(MOBILE)
    assert gate.closed() is None
    bounds = limits(gate, clock, metered=False)
    bounds.see(MOBILE)
    assert "metered" in why(gate)
    bounds.see(WIFI)
    assert gate.closed() is None


def test_hours_and_links_hold_independently(gate: Gate, clock: FakeClock) -> None:
    bounds = limits(gate, clock, "22:00-06:00", interfaces=("wl*",))
    bounds.look_at_clock()
    bounds.see(MOBILE)
    bounds.see(WIFI)
    assert "upload.windows" in why(gate)
    bounds.see(MOBILE)
    clock.advance(10 * HOUR_SECONDS)
    bounds.look_at_clock()
    assert "wwan0" in why(gate)


# The tests below cover a running upload.


@pytest.mark.parametrize("cut", ["windows", "link"])
def test_a_pause_in_mid_upload_sends_every_part_once_and_costs_no_attempt(
    tmp_path: Path, cut: str
) -> None:
    robot = Robot(tmp_path / "recordings")
    robot.clock.set_now(NOON)
    bounds = limits(robot.gate, robot.clock, "09:00-13:00", interfaces=("wl*",))
    bounds.look_at_clock()
    bounds.see(WIFI)
    robot.gateway.part_size = 1000

    def the_second_begins(call: str) -> None:
        if call == "UploadPart" and len(robot.store.sent_parts) == 1:
            robot.clock.advance(HOUR_SECONDS if cut == "windows" else 0)
            bounds.look_at_clock()
            bounds.see(MOBILE if cut == "link" else WIFI)

    robot.store.before = the_second_begins
    log = robot.record(size=4500)
    robot.run()
    # The second part was already being sent when the gate closed.
    assert robot.store.sent_parts == [1, 2]
    paused = robot.log(log.id)
    assert (paused.status, paused.attempt_count, phase_of(paused), paused.error) == (
        "pending",
        0,
        "uploading",
        None,
    )
    robot.advance(HOUR_SECONDS)
    assert robot.store.sent_parts == [1, 2]
    assert robot.log(log.id) == paused
    robot.store.before = lambda _: None
    robot.clock.set_now(NOON + 24 * HOUR_SECONDS)
    bounds.look_at_clock()
    bounds.see(WIFI)
    robot.run()
    done = robot.log(log.id)
    assert (done.status, done.attempt_count) == ("completed", 1)
    assert sorted(robot.store.sent_parts) == [*range(1, done.require_session().part_count + 1)]
    assert done.require_session().part_count > 3
    assert robot.stored(done) == Path(done.path).read_bytes()


def test_a_part_that_was_cut_off_is_not_tried_again_over_a_link_that_is_not_allowed(
    tmp_path: Path,
) -> None:
    robot = Robot(tmp_path / "recordings")
    bounds = limits(robot.gate, robot.clock, interfaces=("wl*",))
    bounds.see(WIFI)

    def moves(call: str) -> None:
        if call == "UploadPart":
            bounds.see(MOBILE)

    robot.store.before = moves
    robot.store.fail("UploadPart", times=1)
    log = robot.record()
    robot.run()
    assert robot.store.calls.count("UploadPart") == 1
    assert robot.log(log.id).status == "pending"
    assert "wwan0" in why(robot.gate)
