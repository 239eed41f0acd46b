"""The thread that finds recordings goes on whatever happens, and on every Python."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.clock import RealClock
from agent.adapters.config import PREFIX, load
from agent.assembly import discovery_service as room
from agent.assembly.discovery_service import DiscoveryService
from agent.dispatch.discovery_loop import DiscoveryLoop
from agent.dispatch.dispatch import Dispatch
from agent.model.errors import HistoryFullError
from tests.harness.fakes.history import MemoryHistory
from tests.harness.recorders import write_mcap


class Hearing(Dispatch):
    """Hears of new work and of a full disk, and does nothing."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.failed = threading.Event()
        self.told = threading.Event()

    def tick(self) -> None:
        self.told.set()

    def disk_failed(self, error: HistoryFullError) -> None:
        assert error
        self.failed.set()
        if self.error is not None:
            raise self.error


@pytest.fixture
def history() -> MemoryHistory:
    return MemoryHistory(RealClock())


@pytest.fixture
def lookout(tmp_path: Path, history: MemoryHistory) -> Iterator[DiscoveryService]:
    environ = {
        PREFIX + "WATCH__ROOTS": json.dumps([str(tmp_path)]),
        PREFIX + "WATCH__SETTLE_SECONDS": "0.01",
        PREFIX + "WATCH__RESCAN_SECONDS": "0.05",
        PREFIX + "WATCH__SIDECAR": "ignore",
    }
    lookout = DiscoveryService(
        load(None, environ).settings,
        history=history,
        clock=RealClock(),
        robot="robot",
        snapshot=lambda _: "",
        again=(),
    )
    yield lookout
    assert lookout.stop(30)


def test_no_error_of_those_it_tells_ends_the_search(
    lookout: DiscoveryService,
    history: MemoryHistory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(room, "_PAUSE", 0.01)
    write_mcap(tmp_path / "a.mcap")
    dispatch = Hearing()
    history.full, dispatch.error = True, ZeroDivisionError("oops")
    lookout.start(dispatch)
    assert dispatch.failed.wait(30)
    history.full = False
    assert dispatch.told.wait(30)
    assert lookout.alive
    assert [Path(log.path).name for log in history.documents.values()] == ["a.mcap"]


def test_no_error_in_a_scan_ends_the_search(
    lookout: DiscoveryService,
    history: MemoryHistory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_mcap(tmp_path / "a.mcap")
    scan: Callable[..., Any] = lookout.discover._scanner._scan_all
    failed = threading.Event()

    def fail(*_: Any) -> None:
        failed.set()
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(lookout.discover._scanner, "_scan_all", fail)
    dispatch = Hearing()
    lookout.start(dispatch)
    assert failed.wait(30)
    monkeypatch.setattr(lookout.discover._scanner, "_scan_all", scan)
    assert dispatch.told.wait(30)
    assert [Path(log.path).name for log in history.documents.values()] == ["a.mcap"]


@pytest.mark.timeout(60)
def test_the_first_wait_for_what_is_due_at_once_ends_on_every_python(
    lookout: DiscoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.10 the first timed get of a SimpleQueue, one time in some thousands, has no end."""
    discover = lookout.discover
    discover.step()
    monkeypatch.setattr(discover, "next_step", lambda: 0.0)
    for _ in range(30_000):
        DiscoveryLoop(discover, lookout.intake, type(lookout._sightings)(), RealClock()).once()
