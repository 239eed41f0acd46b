"""The discovery loop: recordings that could not be taken in are found again."""

from __future__ import annotations

import math
import queue
from pathlib import Path

import pytest

from agent.discovery.discover import Discover
from agent.discovery.examine import Examiner
from agent.discovery.state_rules import WaitingRules
from agent.dispatch.discovery_loop import DiscoveryLoop
from agent.dispatch.intake import Intake
from agent.model.errors import HistoryFullError
from agent.model.object_key import object_key
from agent.model.sync_log import SyncLog
from agent.model.values import Damaged, Recording, Sighting
from tests.harness import recorders
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.history import MemoryHistory
from tests.harness.recorders import write_mcap


class FailingIntake(Intake):
    """An intake that fails for files of one name while ``error`` is set."""

    error: Exception | None = None

    def accept(self, found: Recording | Damaged) -> SyncLog | None:
        if self.error is not None and found.path.name == "b.mcap":
            raise self.error
        return super().accept(found)


class LoopOnRealFiles:
    """A discovery loop on real files. Its waits end at once because the test moves the clock."""

    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.history = MemoryHistory(self.clock)
        self.intake = FailingIntake(
            history=self.history, clock=self.clock, device_id="robot", snapshot=lambda _: ""
        )
        self.discover = Discover(
            Examiner([root], "ignore"),
            self.clock,
            roots=[root],
            include=["*.mcap"],
            exclude=[],
            sidecar="ignore",
            waits=WaitingRules(
                settle_seconds=2,
                rescan_seconds=60,
                sidecar_wait_seconds=5,
                unfinished_seconds=600,
            ),
        )
        self.sightings: queue.Queue[Sighting | None] = queue.Queue()
        self.loop = DiscoveryLoop(self.discover, self.intake, self.sightings, self.clock)

    def pass_time(self, seconds: float) -> None:
        """Let time pass and run the loop each time that a step is due."""
        end = self.clock.monotonic() + seconds
        while (due := self.discover.next_step()) <= end:
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            self.loop.once()
        self.clock.advance(end - self.clock.monotonic())

    def queued(self) -> set[str]:
        return {Path(log.path).name for log in self.history.documents.values()}


@pytest.fixture
def discovery(tmp_path: Path) -> LoopOnRealFiles:
    for seed, name in enumerate(("a", "b", "c")):
        write_mcap(tmp_path / f"{name}.mcap", seed=seed)
    return LoopOnRealFiles(tmp_path)


def test_recordings_become_documents_once(discovery: LoopOnRealFiles) -> None:
    discovery.pass_time(300)
    assert discovery.queued() == {"a.mcap", "b.mcap", "c.mcap"}
    assert len(discovery.history.documents) == 3


def test_one_that_can_not_be_taken_in_is_found_again_and_holds_up_no_other(
    discovery: LoopOnRealFiles, caplog: pytest.LogCaptureFixture
) -> None:
    discovery.intake.error = ZeroDivisionError("oops")
    discovery.pass_time(10)
    assert discovery.queued() == {"a.mcap", "c.mcap"}
    assert "b.mcap" in caplog.text
    discovery.intake.error = None
    discovery.pass_time(10)
    assert discovery.queued() == {"a.mcap", "b.mcap", "c.mcap"}


def test_what_could_not_be_written_down_for_whatever_reason_is_found_again(
    discovery: LoopOnRealFiles,
) -> None:
    def fail(_call: str) -> None:
        raise ZeroDivisionError("oops")

    discovery.history.before = fail
    with pytest.raises(ZeroDivisionError):
        discovery.pass_time(10)
    discovery.history.before = lambda _call: None
    discovery.pass_time(10)
    assert discovery.queued() == {"a.mcap", "b.mcap", "c.mcap"}


def test_documents_are_made_of_recordings_of_any_date(wide: Path) -> None:
    dates = {
        "far.mcap": 2**62,
        "2300.mcap": 10_413_792_000,
        "1653.mcap": -10_000_000_000,
        "before.mcap": -(2**62),
    }
    for seed, (name, seconds) in enumerate(dates.items()):
        recorders.dated(write_mcap(wide / name, seed=seed), seconds)
    discovery = LoopOnRealFiles(wide)
    discovery.pass_time(10)
    documents = sorted(discovery.history.documents.values(), key=lambda log: log.id)
    assert {Path(log.path).name: log.mtime for log in documents} == {
        "before.mcap": "0001-01-01T00:00:00.000Z",
        "1653.mcap": "1653-02-10T06:13:20.000Z",
        "2300.mcap": "2300-01-01T00:00:00.000Z",
        "far.mcap": "9999-12-31T23:59:59.000Z",
    }
    assert [Path(log.path).name for log in documents] == list(reversed(dates))
    assert [object_key("{date}", log, [wide]) for log in documents] == [
        log.mtime[:10] for log in documents
    ]


class RecordingQueue(queue.Queue[Sighting | None]):
    """A queue that notes the requested waits, and returns at once."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float | None] = []

    def get(self, block: bool = True, timeout: float | None = None) -> Sighting | None:
        self.asked.append(timeout if block else 0)
        return super().get(block=False)


def test_no_wait_is_longer_than_the_platform_can_count(
    discovery: LoopOnRealFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = RecordingQueue()
    loop = DiscoveryLoop(discovery.discover, discovery.intake, waits, discovery.clock)
    for due in (math.inf, 1e300, -math.inf):
        monkeypatch.setattr(discovery.discover, "next_step", lambda due=due: due)
        loop.once()
    assert waits.asked == [3600, 3600, 0]


def test_an_end_of_the_wait_is_no_reason_to_look_anywhere(discovery: LoopOnRealFiles) -> None:
    discovery.pass_time(10)
    due = discovery.discover.next_step()
    discovery.sightings.put(None)
    discovery.loop.once()
    assert (discovery.discover.scans, discovery.discover.next_step()) == (1, due)


def test_a_full_disk_is_told_and_nothing_is_lost(discovery: LoopOnRealFiles) -> None:
    discovery.intake.error = HistoryFullError("the disk is full")
    with pytest.raises(HistoryFullError):
        discovery.pass_time(10)
    discovery.intake.error = None
    discovery.pass_time(70)
    assert discovery.queued() == {"a.mcap", "b.mcap", "c.mcap"}


def test_all_that_one_look_has_found_is_written_at_once_and_found_again_when_that_fails(
    discovery: LoopOnRealFiles,
) -> None:
    writes: list[str] = []
    discovery.history.before = writes.append
    discovery.history.full = True
    with pytest.raises(HistoryFullError):
        discovery.pass_time(10)
    assert (discovery.queued(), len(writes)) == (set(), 1)
    discovery.history.full = False
    discovery.pass_time(10)
    assert discovery.queued() == {"a.mcap", "b.mcap", "c.mcap"}
    assert len(writes) == 2
