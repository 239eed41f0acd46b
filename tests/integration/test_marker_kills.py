"""Tests of marker files, as the README's table lists them.

SIGKILL ends the real command before each of its steps. While a request is handled the platform is
away, so that the steps are those of the request. Afterwards the platform is back.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.adapters.clock import RealClock
from agent.adapters.history import TinyHistory
from agent.devcloud.cloud import DevCloud
from agent.model.sync_log import SyncLog
from tests.harness.agent_process import Agent
from tests.harness.file_systems import mounted
from tests.harness.recorders import write_mcap, write_sidecar

_MOST_STEPS = 60


class Station:
    """An agent that has uploaded ``a.mcap`` (episode ``ep-a``) and ``below/b.mcap``.

    The agent can be put back to this state.
    """

    def __init__(self, folder: Path) -> None:
        self.cloud = DevCloud(folder / "cloud")
        self.cloud.__enter__()
        self.agent = Agent(self.cloud.agent_files, folder)
        self.a = write_mcap(self.agent.root / "a.mcap", seed=1)
        write_sidecar(self.a, {"episode_id": "ep-a"})
        (self.agent.root / "below").mkdir()
        self.b = write_mcap(self.agent.root / "below" / "b.mcap", seed=2)
        self.agent.start()
        self.agent.wait_completed(2)
        self.agent.stop()
        self.markers = self.agent.state / "markers"
        self.synced = self.agent.documents()
        self._kept = folder / "kept"
        shutil.copytree(
            folder, self._kept, ignore=shutil.ignore_patterns("cloud", "kept", "*.sock")
        )
        self._folder = folder

    def reset(self) -> None:
        """Restore the state after both recordings had been uploaded."""
        for place in (self.agent.state, self.agent.root):
            shutil.rmtree(place)
            shutil.copytree(self._kept / place.name, place)

    def start(self, step: int) -> None:
        """Start the agent, which is killed before that step."""
        command = [
            sys.executable,
            "-m",
            "tests.harness.kill_at_step",
            str(step),
            "run",
            "--config",
            self.agent.config,
        ]
        log = self._folder / "stderr"
        with log.open("ab") as errors:
            self.agent.process = subprocess.Popen(
                command, env=self.agent.environ, stderr=errors, stdout=errors
            )

    def survives(self, step: int, done: Callable[[list[SyncLog]], object]) -> bool:
        """Return whether the agent did all that was requested without reaching ``step``."""
        self.start(step)
        process = self.agent.process
        assert process is not None
        try:
            self.agent.wait(done)
        except AssertionError:
            if process.poll() != -signal.SIGKILL:
                raise
        killed = process.poll() == -signal.SIGKILL
        self.agent.stop(signal.SIGKILL if killed else signal.SIGTERM)
        return not killed

    def was_reported(self, marker: Path) -> bool:
        """Return whether the history notes that this marker was reported.

        A marker that can't be removed is reported once.
        """
        history = TinyHistory(self.agent.state / "history", RealClock(), read_only=True)
        try:
            known = history.marker(str(marker))
            return known is not None and known.said
        finally:
            history.close()

    def forgotten(self, *markers: Path) -> bool:
        """Return whether nothing is left of these markers, on the disk and in the history."""
        history = TinyHistory(self.agent.state / "history", RealClock(), read_only=True)
        try:
            return not any(marker.exists() or history.marker(str(marker)) for marker in markers)
        finally:
            history.close()


@pytest.fixture(scope="module")
def shared_station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    station = Station(tmp_path_factory.mktemp("station"))
    yield station
    station.cloud.__exit__(None, None, None)


@pytest.fixture
def station(shared_station: Station) -> Iterator[Station]:
    shared_station.reset()
    shared_station.cloud.stop_gateway()
    yield shared_station
    if shared_station.agent.process is not None:
        shared_station.agent.stop(signal.SIGKILL)
    shared_station.cloud.start_gateway()


@pytest.fixture(
    params=[
        pytest.param(7, id="some"),
        pytest.param(1, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(300)]),
    ]
)
def steps(request: pytest.FixtureRequest) -> Iterator[int]:
    """The steps before which the agent is killed: the second and then every seventh, or all."""
    stride: int = request.param
    return itertools.count(min(stride, 2), stride)


def each_step(
    station: Station,
    steps: Iterator[int],
    ask: Callable[[], list[Path]],
    served: Callable[[list[SyncLog]], bool],
) -> list[SyncLog]:
    """Request, kill at a step, start again, and see that the request is handled once.

    This is done for each of ``steps``. At last the agent runs to its end.
    """
    for step in steps:
        assert step < _MOST_STEPS
        station.reset()
        markers = ask()

        def done(logs: list[SyncLog], markers: list[Path] = markers) -> bool:
            return served(logs) and station.forgotten(*markers)

        survived = station.survives(step, done)
        logs = station.agent.documents()
        assert not served(logs) or logs[:2] == station.synced, "what was completed has changed"
        if survived:
            break
        station.agent.start()
        station.agent.wait(done)
        station.agent.stop()
        assert len(station.agent.documents()) == len(logs) or not served(logs), "served twice"
    station.cloud.start_gateway()
    station.agent.start()
    try:
        return station.agent.wait(lambda logs: all(log.status == "completed" for log in logs))
    finally:
        station.agent.stop()
        station.cloud.stop_gateway()


def touch_marker(path: Path, text: str = "") -> list[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return [path]


def test_a_marker_beside_a_recording_uploads_it_again_once(
    station: Station, steps: Iterator[int]
) -> None:
    marker = Path(f"{station.a}.resync")
    logs = each_step(
        station,
        steps,
        lambda: touch_marker(marker, "scene was wrong"),
        lambda logs: [log.resync for log in logs[2:]] == [True],
    )
    assert logs[:2] == station.synced
    again = logs[2]
    assert (again.fingerprint, again.episode_id, again.trigger) == (
        logs[0].fingerprint,
        "ep-a",
        "marker",
    )
    assert (again.reason, again.resync) == ("scene was wrong", True)
    assert again.require_session().logical_upload_id != logs[0].require_session().logical_upload_id
    assert station.cloud.read_object(again.object_key) == station.a.read_bytes()


def test_a_marker_by_episode_uploads_it_again_once(station: Station, steps: Iterator[int]) -> None:
    marker = station.markers / "ep-a.resync"
    logs = each_step(station, steps, lambda: touch_marker(marker), lambda logs: len(logs) == 3)
    assert logs[:2] == station.synced
    assert (logs[2].fingerprint, logs[2].resync, logs[2].trigger) == (
        logs[0].fingerprint,
        True,
        "marker",
    )


def test_a_marker_in_a_folder_uploads_everything_in_it_and_below_again_once(
    station: Station, steps: Iterator[int]
) -> None:
    marker = station.agent.root / ".resync"
    logs = each_step(station, steps, lambda: touch_marker(marker), lambda logs: len(logs) == 4)
    assert logs[:2] == station.synced
    assert [log.fingerprint for log in logs[2:]] == [log.fingerprint for log in logs[:2]]
    assert all(log.resync for log in logs[2:])


def test_a_marker_puts_a_recording_ahead_of_the_queue(
    station: Station, steps: Iterator[int]
) -> None:
    late = station.agent.root / "late.mcap"

    def ask() -> list[Path]:
        for number in range(3):
            write_mcap(station.agent.root / f"early-{number}.mcap", seed=10 + number)
        write_mcap(late, seed=20)
        return touch_marker(Path(f"{late}.first"))

    logs = each_step(station, steps, ask, lambda logs: len(logs) == 6 and logs[-1].ahead > 0)
    assert [log.path for log in logs if log.ahead] == [str(late)]
    done = sorted(logs[2:], key=lambda log: log.completed_at or "")
    # Two recordings are uploaded at once.
    assert str(late) in [log.path for log in done[:2]]


def test_the_pause_marker_holds_everything_back_until_it_is_gone(station: Station) -> None:
    pause = station.markers / "pause"
    touch_marker(pause)
    station.cloud.start_gateway()
    write_mcap(station.agent.root / "new.mcap", seed=30)
    for kill in (signal.SIGKILL, signal.SIGTERM):
        station.agent.start()
        logs = station.agent.wait(
            lambda logs: len(logs) == 3 and "pause" in station.agent.command("status").stdout
        )
        assert (logs[2].status, logs[2].attempt_count) == ("pending", 0)
        station.agent.stop(kill)
    station.agent.start()
    pause.unlink()
    station.agent.wait_completed(3)
    station.agent.stop()
    station.cloud.stop_gateway()


def test_the_rescan_marker_is_gone_once_everything_was_looked_at(
    station: Station, steps: Iterator[int]
) -> None:
    marker = station.markers / "rescan"
    for step in steps:
        station.reset()
        touch_marker(marker)
        if station.survives(step, lambda _: not marker.exists()):
            break
        station.agent.start()
        station.agent.wait(lambda _: not marker.exists())
        station.agent.stop()
    assert station.agent.documents() == station.synced


def test_a_marker_without_its_recording_says_why_it_is_rejected(
    station: Station, steps: Iterator[int]
) -> None:
    for marker in (station.agent.root / "never.mcap.resync", station.markers / "never.resync"):
        rejected = Path(f"{marker}.rejected")
        for step in steps:
            station.reset()
            touch_marker(marker)

            def done(_: list[SyncLog], marker: Path = marker, rejected: Path = rejected) -> bool:
                return rejected.exists() and station.forgotten(marker)

            if station.survives(step, done):
                break
            station.agent.start()
            station.agent.wait(done)
            station.agent.stop()
        assert "never" in rejected.read_text()
    assert station.agent.documents() == station.synced


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_marker_in_a_read_only_folder_is_served_once_and_said_once(
    station: Station, steps: Iterator[int]
) -> None:
    folder = station.agent.root / "disk"
    for step in steps:
        assert step < _MOST_STEPS
        station.reset()
        folder.mkdir()
        with mounted(folder):
            marker = Path(f"{write_mcap(folder / 'c.mcap', seed=40)}.resync")
            touch_marker(marker)
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)

            def served(logs: list[SyncLog], marker: Path = marker) -> bool:
                return len(logs) == 3 and station.was_reported(marker)

            survived = station.survives(step, served)
            station.agent.start()
            station.agent.wait(served)
            station.agent.stop()
            said = station.agent.said().count(str(marker))
            station.agent.start()
            station.agent.wait(
                lambda _: "c.mcap" in station.agent.command("status", "--json").stdout
            )
            station.agent.stop()
            assert station.agent.said().count(str(marker)) == said
            assert len(station.agent.documents()) == 3
        if survived:
            break
