"""The bandwidth cap on all uploads together.

The tests cover its rate, its fairness, and that an upload that is told to stop does not wait for
the cap.
"""

from __future__ import annotations

import heapq
import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from agent.adapters.clock import RealClock
from agent.adapters.store.part_body import PartBody, PartPiece
from agent.model.bandwidth import Bandwidth
from agent.model.errors import GateClosedError
from agent.model.transfer import Part, Transfer
from tests.harness.fakes.clock import FakeClock

# In bytes per second.
RATE = 1_000_000.0


def pumped(rate: float, seconds: float, uploads: dict[str, float]) -> Counter[str]:
    """Return the bytes that each upload sent in ``seconds`` of fake time.

    Each upload asks again ``uploads[name]`` seconds after its last grant.
    """
    clock = FakeClock()
    bandwidth = Bandwidth(rate, clock.monotonic)
    start = clock.monotonic()
    got: Counter[str] = Counter()
    asks = [(start, name) for name in sorted(uploads)]
    while asks and asks[0][0] < start + seconds:
        when, name = heapq.heappop(asks)
        clock.advance(when - clock.monotonic())
        got[name] += bandwidth.turn
        heapq.heappush(asks, (when + bandwidth.reserve(bandwidth.turn) + uploads[name], name))
    return got


@pytest.mark.parametrize("rate", [1_000.0, 12_500.0, 125_000.0, 1_250_000.0, 125_000_000.0])
def test_the_average_is_the_cap_at_any_rate(rate: float) -> None:
    seconds = 100 if rate < 1e6 else 10
    sent = sum(pumped(rate, seconds, {"a": 0, "b": 0, "c": 0}).values())
    assert sent == pytest.approx(rate * seconds, rel=0.03)


def test_uploads_that_always_have_more_share_alike() -> None:
    got = pumped(RATE, 60, {"a": 0, "b": 0})
    assert got["a"] == pytest.approx(got["b"], rel=0.01)


def test_what_a_slow_upload_leaves_goes_to_the_other() -> None:
    got = pumped(RATE, 60, {"quick": 0, "slow": 1.0})
    assert sum(got.values()) == pytest.approx(RATE * 60, rel=0.01)
    assert got["quick"] > 15 * got["slow"]


def test_time_in_which_nobody_sends_is_not_saved_up() -> None:
    clock = FakeClock()
    bandwidth = Bandwidth(RATE, clock.monotonic)
    bandwidth.reserve(1)
    clock.advance(3600)
    waits = [bandwidth.reserve(100_000) for _ in range(4)]
    assert waits == pytest.approx([0, 0, 0.1, 0.2], abs=0.001)


def test_a_turn_is_short_however_narrow_the_cap() -> None:
    for rate in (20_000.0, 1e6, 1e9):
        bandwidth = Bandwidth(rate, FakeClock().monotonic)
        assert bandwidth.turn / rate <= 0.05
        assert bandwidth.turn <= 64 * 1024


def test_an_upload_with_many_parts_in_flight_gets_no_more_than_one_with_a_single_part() -> None:
    bandwidth = Bandwidth(2_000_000, RealClock().monotonic)
    wide, narrow = Transfer(1, bandwidth), Transfer(1, bandwidth)
    enough = threading.Event()

    def send(transfer: Transfer) -> None:
        while not enough.is_set():
            transfer.advance(transfer.grant(64 * 1024))
            if wide.sent + narrow.sent > 2_000_000:
                enough.set()

    threads = [
        threading.Thread(target=send, args=(transfer,)) for transfer in (*[wide] * 8, narrow)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    share = narrow.sent / (wide.sent + narrow.sent)
    # One of nine threads would have a share of 0.11 if threads shared the bandwidth. On a busy
    # machine a thread may come too late for its turn, so the share is not exactly a half.
    assert 0.25 < share < 0.75


def test_a_stop_ends_every_wait_at_once() -> None:
    clock = FakeClock()
    # At one byte per second, a turn takes minutes.
    bandwidth = Bandwidth(1, clock.monotonic)
    transfer = Transfer(1, bandwidth)
    transfer.grant(1)
    threads = [threading.Thread(target=transfer.grant, args=(64 * 1024,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert all(thread.is_alive() for thread in threads)
    transfer.stop()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads)
    # The uploads that still waited for their turn must not have used any bandwidth.
    assert bandwidth.reserve(1) <= 2 * bandwidth.turn


def test_without_a_cap_everything_may_go() -> None:
    assert Transfer(1).grant(10**9) == 10**9
    assert Transfer(1, Bandwidth(0, FakeClock().monotonic)).grant(10**9) == 10**9


def test_another_cap_holds_for_what_goes_already() -> None:
    clock = FakeClock()
    bandwidth = Bandwidth(0, clock.monotonic)
    transfer = Transfer(1, bandwidth)
    bandwidth.limit(RATE)
    assert transfer.grant(10**9) == bandwidth.turn
    assert 0 < bandwidth.turn < 10**9
    for _ in range(100):
        bandwidth.reserve(bandwidth.turn)
    assert bandwidth.reserve(1) > 1
    bandwidth.limit(0)
    assert transfer.grant(10**9) == 10**9
    assert bandwidth.reserve(10**9) == 0


@pytest.fixture
def window(tmp_path: Path) -> tuple[PartBody, Transfer]:
    path = tmp_path / "a"
    path.write_bytes(bytes(200_000))
    transfer = Transfer(200_000, Bandwidth(10_000, FakeClock().monotonic))
    return PartBody(Part(1, 0, 200_000), os.open(path, os.O_RDONLY), transfer), transfer


def test_the_body_is_paced_and_the_digest_is_not(window: tuple[PartBody, Transfer]) -> None:
    body, transfer = window
    # With the cap this would take 40 s, and the fake clock stands still.
    body.digest("SHA256", "MD5")
    assert transfer.sent == 0
    assert len(_gone(body.read(256 * 1024))) == 512
    assert transfer.sent == 512


def _gone(piece: PartPiece) -> bytes:
    """Return the bytes of a piece after all of them were sent."""
    return b"".join(bytes(block) for block in piece.blocks())


def test_a_body_that_waits_for_its_turn_ends_when_it_is_stopped(
    window: tuple[PartBody, Transfer],
) -> None:
    body, transfer = window
    outcome: list[BaseException] = []

    def send() -> None:
        try:
            while _gone(body.read(256 * 1024)):
                pass
        except GateClosedError as error:
            outcome.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    transfer.stop()
    thread.join(10)
    assert [type(error) for error in outcome] == [GateClosedError]
    assert transfer.sent < 20_000


def test_the_end_of_a_body_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    transfer = Transfer(3, Bandwidth(0.001, FakeClock().monotonic))
    body = PartBody(Part(1, 0, 3), os.open(path, os.O_RDONLY), transfer)
    assert _gone(body.read(10)) == b"abc"
    assert _gone(body.read(10)) == b""
