"""The thread that finds recordings survives every error, on each supported version of Python."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.clock import RealClock
from agent.adapters.config import PREFIX, load
from agent.assembly import discovery_service
from agent.assembly.discovery_service import DiscoveryService
from agent.dispatch.discovery_loop import DiscoveryLoop
from agent.dispatch.dispatch import Dispatch
from agent.model.errors import HistoryFullError
from tests.harness.fakes.history import MemoryHistory
from tests.harness.recorders import write_mcap


class RecordingDispatch(Dispatch):
    """A dispatch that notes new work and a full disk, and sends nothing."""

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
def discovery(tmp_path: Path, history: MemoryHistory) -> Iterator[DiscoveryService]:
    environ = {
        PREFIX + "WATCH__ROOTS": json.dumps([str(tmp_path)]),
        PREFIX + "WATCH__SETTLE_SECONDS": "0.01",
        PREFIX + "WATCH__RESCAN_SECONDS": "0.05",
        PREFIX + "WATCH__SIDECAR": "ignore",
    }
    discovery = DiscoveryService(
        load(None, environ).settings,
        history=history,
        clock=RealClock(),
        robot="robot",
        can_revise=lambda _: False,
        snapshot=lambda _: "",
        again=(),
    )
    yield discovery
    assert discovery.stop(30)


def test_no_error_of_those_it_tells_ends_the_search(
    discovery: DiscoveryService,
    history: MemoryHistory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discovery_service, "_PAUSE_AFTER_ERROR_SECONDS", 0.01)
    write_mcap(tmp_path / "a.mcap")
    dispatch = RecordingDispatch()
    history.full, dispatch.error = True, ZeroDivisionError("oops")
    discovery.start(dispatch)
    assert dispatch.failed.wait(30)
    history.full = False
    assert dispatch.told.wait(30)
    assert discovery.alive
    assert [Path(log.path).name for log in history.documents.values()] == ["a.mcap"]


def test_no_error_in_a_scan_ends_the_search(
    discovery: DiscoveryService,
    history: MemoryHistory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_mcap(tmp_path / "a.mcap")
    scan: Callable[..., Any] = discovery.discover._scanner._scan_all
    failed = threading.Event()

    def fail(*_: Any) -> None:
        failed.set()
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(discovery.discover._scanner, "_scan_all", fail)
    dispatch = RecordingDispatch()
    discovery.start(dispatch)
    assert failed.wait(30)
    monkeypatch.setattr(discovery.discover._scanner, "_scan_all", scan)
    assert dispatch.told.wait(30)
    assert [Path(log.path).name for log in history.documents.values()] == ["a.mcap"]


@pytest.mark.timeout(60)
def test_the_first_wait_for_what_is_due_at_once_ends_on_every_python(
    discovery: DiscoveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Python 3.10 the first timed get of a SimpleQueue sometimes never returns.

    This happens about once in some thousand runs.
    """
    discover = discovery.discover
    discover.step()
    monkeypatch.setattr(discover, "next_step", lambda: 0.0)
    for _ in range(30_000):
        DiscoveryLoop(discover, discovery.intake, type(discovery._sightings)(), RealClock()).once()
