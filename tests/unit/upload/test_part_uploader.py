"""Several parts in flight: none is lost, and one failure ends them all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cloud.credentials import Credentials, SessionKeys
from agent.discovery.examine import Examiner
from agent.gate.gate import Delays, Gate
from agent.model.errors import (
    AgentError,
    CloudError,
    FileChangedError,
    GateClosedError,
    RecordingError,
    judge,
)
from agent.model.transfer import Transfer, parts_of
from agent.model.values import Recording
from agent.upload.concurrency import PartConcurrency, Run
from agent.upload.part_uploader import PartUploader
from agent.upload.source_file import SourceFile
from tests.contracts.gateway import LOG
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.gateway import PROFILE, FakeGateway
from tests.harness.fakes.store import FakeStore
from tests.harness.recorders import write_mcap
from tests.harness.shortages import NoThreads

REFUSED = CloudError("UploadPart", "AccessDenied", status=403)


class Bench:
    """A sender on a fake store, with a real file of 8 parts."""

    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.store = FakeStore()
        self.gate = Gate(self.clock, Delays(30, 1800, 0))
        gateway = FakeGateway(self.store, self.clock)
        credentials = Credentials(gateway, self.clock, lambda *_, **__: None)
        grant = credentials.call(PROFILE, lambda g, t: g.create(PROFILE, t, LOG))
        self.keys: SessionKeys = credentials.keys(PROFILE, grant)
        self.target = self.store.at(grant.session, self.keys.current)
        self.path = write_mcap(folder / "a.mcap", size=7500)
        found = Examiner([folder], "ignore").look(self.path)
        assert isinstance(found, Recording)
        self.source = SourceFile(found)
        self.parts = parts_of(found.size, 1024)
        self.multipart = self.target.begin()

    def send(
        self, width: int = 4, pace: PartConcurrency | None = None, transfer: Transfer | None = None
    ) -> list[int]:
        sender = PartUploader(
            self.target,
            self.keys,
            self.gate,
            pace or PartConcurrency(width),
            self.clock,
            who=1,
            transfer=transfer or Transfer(0),
            probe=False,
        )
        return [part.number for part in sender.send(self.multipart, self.parts, self.source)]


class WaitsFor(PartConcurrency):
    """One part at first, four once the event is set."""

    def __init__(self, met: threading.Event) -> None:
        super().__init__(4)
        self._met = met

    @property
    def width(self) -> int:
        return 4 if self._met.wait(0.1) else 1


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.source.close()


def test_parts_fly_together_and_come_back_in_order(bench: Bench) -> None:
    together = threading.Barrier(4, timeout=10)
    first = iter(range(4))

    def meet(_call: str) -> None:
        if next(first, None) is not None:
            together.wait()

    bench.store.before = meet
    assert bench.send() == [part.number for part in bench.parts]
    assert sorted(bench.store.sent_parts) == [part.number for part in bench.parts]


def test_the_pace_goes_by_what_the_way_let_through_though_a_cut_destroyed_it(bench: Bench) -> None:
    class Asked(PartConcurrency):
        def begin(self, sent: Callable[[], int]) -> Run:
            self.sent = sent
            return super().begin(sent)

    pace, transfer = Asked(4), Transfer(0)
    bench.send(pace=pace, transfer=transfer)
    sent, passed = transfer.sent, pace.sent()
    transfer.advance(6)
    transfer.advance(-6)
    assert (transfer.sent, pace.sent()) == (sent, passed + 6)


def test_a_lease_that_ends_under_several_parts_is_renewed_once(bench: Bench) -> None:
    bench.store.expire(bench.keys.current().access_key_id)
    assert len(bench.send()) == len(bench.parts)
    assert bench.keys.refreshes == 1


@pytest.mark.parametrize(("code", "pause"), [("reset", 0.0), ("refused", 0.5)])
def test_a_cut_connection_is_replaced_at_once_and_a_store_that_is_away_is_not(
    bench: Bench, code: str, pause: float
) -> None:
    bench.store.fail("UploadPart", error=CloudError("UploadPart", code), times=1)
    before = bench.clock.monotonic()
    assert len(bench.send(width=1)) == len(bench.parts)
    assert bench.clock.monotonic() - before == pause


def test_after_the_first_failure_no_further_part_starts(bench: Bench) -> None:
    bench.store.fail("UploadPart", error=REFUSED, times=1000)
    with pytest.raises(CloudError, match="AccessDenied"):
        bench.send()
    assert bench.store.sent_parts == []
    assert bench.store.calls.count("UploadPart") <= 2 * 4, (
        "each worker asked once more with a fresh lease, and ended"
    )


def test_a_gate_that_closes_lets_no_further_part_start(bench: Bench) -> None:
    def close(_call: str) -> None:
        elsewhere = CloudError("CompleteUpload", "UNAVAILABLE")
        bench.gate.close(elsewhere, judge(elsewhere))

    bench.store.before = close
    with pytest.raises(GateClosedError):
        bench.send()
    assert 1 <= len(bench.store.sent_parts) <= 4


def test_the_failure_that_says_most_is_the_one_that_is_raised(bench: Bench) -> None:
    def replace_file(_call: str) -> None:
        bench.gate.close(REFUSED, judge(REFUSED))
        (bench.path.parent / "b.mcap").write_bytes(b"x")
        (bench.path.parent / "b.mcap").rename(bench.path)

    bench.store.before = replace_file
    bench.store.fail("UploadPart", error=FileChangedError("short"), times=1)
    with pytest.raises(RecordingError):
        bench.send()


def test_without_a_thread_for_a_part_those_in_flight_end_and_no_further_part_is_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, met = NoThreads(monkeypatch), threading.Event()

    def wait_until_refused(_call: str) -> None:
        threads.lacking = True
        met.set()
        assert threads.refused_event.wait(10)

    bench.store.before = wait_until_refused
    with pytest.raises(RuntimeError, match="can't start new thread"):
        bench.send(width=4, pace=WaitsFor(met))
    assert bench.store.sent_parts == [1]


def test_a_file_that_can_not_be_read_ends_in_a_counted_error(bench: Bench) -> None:
    bench.store.fail("UploadPart", error=FileChangedError("Input/output error"), times=1000)
    with pytest.raises(AgentError) as raised:
        bench.send(width=1)
    assert raised.value.code == "io_error"
