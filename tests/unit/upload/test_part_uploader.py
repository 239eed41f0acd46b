"""Several parts in flight: no part is lost, and one failure ends all of them."""

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


class UploadSetup:
    """A part uploader on a fake store, with a real file of 8 parts."""

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
    """A concurrency of one part at first, and of four once the event is set."""

    def __init__(self, met: threading.Event) -> None:
        super().__init__(4)
        self._met = met

    @property
    def width(self) -> int:
        return 4 if self._met.wait(0.1) else 1


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[UploadSetup]:
    setup = UploadSetup(tmp_path)
    yield setup
    setup.source.close()


def test_parts_fly_together_and_come_back_in_order(setup: UploadSetup) -> None:
    together = threading.Barrier(4, timeout=10)
    first = iter(range(4))

    def meet(_call: str) -> None:
        if next(first, None) is not None:
            together.wait()

    setup.store.before = meet
    assert setup.send() == [part.number for part in setup.parts]
    assert sorted(setup.store.sent_parts) == [part.number for part in setup.parts]


def test_the_pace_goes_by_what_the_way_let_through_though_a_cut_destroyed_it(
    setup: UploadSetup,
) -> None:
    class RecordingConcurrency(PartConcurrency):
        def begin(self, sent: Callable[[], int]) -> Run:
            self.sent = sent
            return super().begin(sent)

    pace, transfer = RecordingConcurrency(4), Transfer(0)
    setup.send(pace=pace, transfer=transfer)
    sent, passed = transfer.sent, pace.sent()
    transfer.advance(6)
    transfer.advance(-6)
    assert (transfer.sent, pace.sent()) == (sent, passed + 6)


def test_a_lease_that_ends_under_several_parts_is_renewed_once(setup: UploadSetup) -> None:
    setup.store.expire(setup.keys.current().access_key_id)
    assert len(setup.send()) == len(setup.parts)
    assert setup.keys.refreshes == 1


@pytest.mark.parametrize(("code", "pause"), [("reset", 0.0), ("refused", 0.5)])
def test_a_cut_connection_is_replaced_at_once_and_a_store_that_is_away_is_not(
    setup: UploadSetup, code: str, pause: float
) -> None:
    setup.store.fail("UploadPart", error=CloudError("UploadPart", code), times=1)
    before = setup.clock.monotonic()
    assert len(setup.send(width=1)) == len(setup.parts)
    assert setup.clock.monotonic() - before == pause


def test_after_the_first_failure_no_further_part_starts(setup: UploadSetup) -> None:
    setup.store.fail("UploadPart", error=REFUSED, times=1000)
    with pytest.raises(CloudError, match="AccessDenied"):
        setup.send()
    assert setup.store.sent_parts == []
    assert setup.store.calls.count("UploadPart") <= 2 * 4, (
        "each worker asked once more with a fresh lease, and ended"
    )


def test_a_gate_that_closes_lets_no_further_part_start(setup: UploadSetup) -> None:
    def close(_call: str) -> None:
        elsewhere = CloudError("CompleteUpload", "UNAVAILABLE")
        setup.gate.close(elsewhere, judge(elsewhere))

    setup.store.before = close
    with pytest.raises(GateClosedError):
        setup.send()
    assert 1 <= len(setup.store.sent_parts) <= 4


def test_the_failure_that_says_most_is_the_one_that_is_raised(setup: UploadSetup) -> None:
    def replace_file(_call: str) -> None:
        setup.gate.close(REFUSED, judge(REFUSED))
        (setup.path.parent / "b.mcap").write_bytes(b"x")
        (setup.path.parent / "b.mcap").rename(setup.path)

    setup.store.before = replace_file
    setup.store.fail("UploadPart", error=FileChangedError("short"), times=1)
    with pytest.raises(RecordingError):
        setup.send()


def test_without_a_thread_for_a_part_those_in_flight_end_and_no_further_part_is_sent(
    setup: UploadSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads, met = NoThreads(monkeypatch), threading.Event()

    def wait_until_refused(_call: str) -> None:
        threads.lacking = True
        met.set()
        assert threads.refused_event.wait(10)

    setup.store.before = wait_until_refused
    with pytest.raises(RuntimeError, match="can't start new thread"):
        setup.send(width=4, pace=WaitsFor(met))
    assert setup.store.sent_parts == [1]


def test_a_file_that_can_not_be_read_ends_in_a_counted_error(setup: UploadSetup) -> None:
    setup.store.fail("UploadPart", error=FileChangedError("Input/output error"), times=1000)
    with pytest.raises(AgentError) as raised:
        setup.send(width=1)
    assert raised.value.code == "io_error"
