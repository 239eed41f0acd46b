"""As many parts are in flight as the concurrency says, and no part waits for another."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import cast

import pytest

from agent.cloud.credentials import SessionKeys
from agent.gate.gate import Delays, Gate
from agent.model.errors import CloudError
from agent.model.ports import Target
from agent.model.transfer import Part, SentPart, Transfer, parts_of
from agent.upload.concurrency import PartConcurrency
from agent.upload.part_uploader import PartUploader
from agent.upload.source_file import SourceFile
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.upload_parts import SameKeys, UnchangedFile


class FixedConcurrency(PartConcurrency):
    """A concurrency that the test sets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.now = width
        self.failures = 0

    @property
    def width(self) -> int:
        return self.now

    def failed(self, now: float) -> None:  # noqa: ARG002 - the signature of the base class
        self.failures += 1


class CountingTarget:
    """A target that notes how many parts are in flight at once."""

    def __init__(self, act: Callable[[Part], None] = lambda _: None) -> None:
        self.most = 0
        self._flying = 0
        self._act = act
        self._lock = threading.Lock()

    def send(self, _multipart: str, part: Part, _descriptor: int, _transfer: Transfer) -> SentPart:
        with self._lock:
            self._flying += 1
            self.most = max(self.most, self._flying)
        try:
            self._act(part)
        finally:
            with self._lock:
                self._flying -= 1
        return SentPart(part.number, part.size, '"0"')


def send(target: object, pace: PartConcurrency, count: int) -> list[int]:
    clock = FakeClock()
    uploader = PartUploader(
        cast("Target", target),
        cast("SessionKeys", SameKeys()),
        Gate(clock, Delays(1, 1, 0)),
        pace,
        clock,
        who=1,
        transfer=Transfer(0),
        probe=False,
    )
    sent = uploader.send("m", parts_of(count, 1), cast("SourceFile", UnchangedFile()))
    return [part.number for part in sent]


@pytest.mark.parametrize("width", [1, 3, 16])
def test_exactly_as_many_parts_fly_as_the_pace_says(width: int) -> None:
    together = threading.Barrier(width)
    target = CountingTarget(lambda _: cast("None", together.wait(20)))
    assert send(target, FixedConcurrency(width), 3 * width) == list(range(1, 3 * width + 1))
    assert target.most == width


def test_more_parts_fly_as_soon_as_the_pace_rises() -> None:
    pace, five = FixedConcurrency(1), threading.Barrier(5)

    def act(part: Part) -> None:
        if part.number == 1:
            pace.now = 5
        five.wait(20)

    target = CountingTarget(act)
    send(target, pace, 5)
    assert target.most == 5


def test_fewer_parts_fly_once_the_pace_falls() -> None:
    pace, four = FixedConcurrency(4), threading.Barrier(4)
    late = CountingTarget()

    def act(part: Part) -> None:
        if part.number <= 4:
            four.wait(20)
            pace.now = 1
        else:
            late.send("m", Part(part.number, 0, 1), -1, Transfer(0))

    send(CountingTarget(act), pace, 20)
    # The last of the four parts may still be in flight.
    assert late.most <= 2


STALLED, BUSY = (
    CloudError("UploadPart", "timeout"),
    CloudError("UploadPart", "SlowDown", status=503),
)
CUT = CloudError("UploadPart", "reset")


@pytest.mark.parametrize(
    ("errors", "told"), [([STALLED, BUSY], 2), ([CUT, CUT], 0)], ids=["stalled", "cut"]
)
def test_a_part_that_fails_is_sent_again_and_the_pace_is_told_unless_its_connection_was_cut(
    errors: list[CloudError], told: int
) -> None:
    failing = iter(errors)

    def act(part: Part) -> None:
        if part.number == 2 and (error := next(failing, None)) is not None:
            raise error

    pace = FixedConcurrency(2)
    assert send(CountingTarget(act), pace, 4) == [1, 2, 3, 4]
    assert pace.failures == told


def test_a_part_is_tried_as_long_as_others_get_through_and_no_longer() -> None:
    tries = 0
    going_on = threading.Event()

    def act(part: Part) -> None:
        nonlocal tries
        # The third part begins once the second one has been sent.
        if part.number == 3:
            going_on.set()
        if part.number == 1:
            tries += 1
            assert going_on.wait(20)
            raise CUT

    with pytest.raises(CloudError):
        send(CountingTarget(act), FixedConcurrency(2), 20)
    assert tries > 3
    tries = 0
    with pytest.raises(CloudError):
        send(CountingTarget(act), FixedConcurrency(1), 20)
    assert tries == 3


def test_after_a_failure_that_stays_no_further_part_begins() -> None:
    begun: list[int] = []

    def act(part: Part) -> None:
        begun.append(part.number)
        if part.number == 2:
            raise CloudError("UploadPart", "AccessDeniedByPolicy", status=400)

    with pytest.raises(CloudError, match="AccessDeniedByPolicy"):
        send(CountingTarget(act), FixedConcurrency(1), 10)
    assert begun == [1, 2]
