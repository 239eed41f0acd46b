"""What each metric means.

The features run on fakes: time stands still, and work runs when the test says so.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.history import TinyHistory
from agent.adapters.journal import JournalStorage
from agent.adapters.metrics_endpoint.exposition import Exporter
from agent.model.error_table import TABLE
from agent.model.errors import CloudError
from agent.model.metrics import HOLDS
from agent.model.sync_log import Orphan
from agent.model.values import utc_seconds
from agent.observe.metrics_collector import MetricsCollector
from tests.harness.recorders import write_mcap, write_sidecar
from tests.harness.robot import Robot

# The date of the build is 2026-01-01.
BUILT = 1_767_225_600.0
DAY_SECONDS = 86400.0


class MeasuredRobot(Robot):
    """A robot with a collector of metrics."""

    def restart(self, **changes: Mapping[str, Any]) -> None:
        super().restart(**changes)
        self.watcher_up = True
        self.take = self.measure().take

    def measure(self) -> MetricsCollector:
        """Return a collector that begins to measure now."""
        return MetricsCollector(
            history=self.history,
            dispatch=self.dispatch,
            gate=self.gate,
            credentials=self.credentials,
            discover=self.discover,
            watcher_up=lambda: self.watcher_up,
            clock=self.clock,
            built=BUILT,
            folders=[self.folder, self.folder / "missing"],
        )


@pytest.fixture
def robot(tmp_path: Path) -> MeasuredRobot:
    return MeasuredRobot(tmp_path / "recordings")


def test_the_queue_is_counted_by_size_and_by_the_longest_wait(robot: MeasuredRobot) -> None:
    sizes = [robot.record("a.mcap").file_size]
    robot.clock.advance(100)
    sizes.append(robot.record("b.mcap", seed=1).file_size)
    robot.clock.advance(20)
    now = robot.take()
    assert now.oldest_unsynced_seconds == pytest.approx(120, abs=0.01)
    assert now.backlog_bytes == sum(sizes)
    assert now.recordings == {"pending": 2, "in_progress": 0, "completed": 0, "failed": 0}
    robot.run()
    now = robot.take()
    assert (now.oldest_unsynced_seconds, now.backlog_bytes) == (0, 0)
    assert now.recordings["completed"] == 2
    assert (now.uploads["completed"], now.uploaded_bytes) == (2, sum(sizes))


def test_a_resync_that_waits_leaves_the_recording_synced(robot: MeasuredRobot) -> None:
    log = robot.record()
    robot.run()
    robot.history.add(replace(robot.log(log.id), status="pending", resync=True, completed_at=None))
    robot.clock.advance(DAY_SECONDS)
    now = robot.take()
    assert now.oldest_unsynced_seconds == 0
    assert now.backlog_bytes == log.file_size


def test_a_clock_that_is_set_adds_nothing_to_a_wait(robot: MeasuredRobot) -> None:
    # The clock is back in 1970.
    robot.clock.set_now(1000)
    robot.record()
    assert robot.take().oldest_unsynced_seconds == 0
    robot.clock.advance(60)
    assert robot.take().oldest_unsynced_seconds == 60
    robot.clock.set_now(BUILT + DAY_SECONDS)
    robot.clock.advance(60)
    assert robot.take().oldest_unsynced_seconds == 120


def test_a_clock_that_goes_back_makes_no_wait_negative_and_none_longer(
    robot: MeasuredRobot,
) -> None:
    robot.record()
    robot.clock.set_now(robot.clock.now() - DAY_SECONDS)
    assert robot.take().oldest_unsynced_seconds == 0
    robot.clock.set_now(1000)
    robot.clock.advance(30)
    assert robot.take().oldest_unsynced_seconds == 30


def test_a_wait_goes_on_over_a_restart_where_its_beginning_is_known(robot: MeasuredRobot) -> None:
    robot.clock.set_now(1000)
    robot.record("from-1970.mcap")
    robot.clock.set_now(BUILT + DAY_SECONDS)
    robot.record("b.mcap", seed=1)
    robot.restart()
    robot.clock.advance(DAY_SECONDS)
    assert robot.take().oldest_unsynced_seconds == pytest.approx(DAY_SECONDS, abs=0.01)


def test_each_end_of_an_attempt_is_counted_once(robot: MeasuredRobot) -> None:
    def ended() -> dict[str, int]:
        now = robot.take()
        return {name: count for name, count in (*now.uploads.items(), *now.errors.items()) if count}

    robot.store.fail("UploadPart", times=1000)
    robot.record("a.mcap")
    robot.run()
    assert ended() == {"put_back": 1, "offline": 1}
    # A failed probe writes nothing to the history. It still counts.
    robot.advance(1800)
    assert ended() == {"put_back": 2, "offline": 2}
    robot.store.mend()
    robot.advance(1800)
    assert ended() == {"put_back": 2, "offline": 2, "completed": 1}
    path = write_mcap(robot.folder / "b.mcap", seed=1)
    write_sidecar(path, {"asset_id": "of-nobody"})
    robot.find(path)
    robot.run()
    assert ended() == {"put_back": 2, "offline": 2, "completed": 1, "waiting": 1, "blocked": 1}
    path = write_mcap(robot.folder / "c.mcap", seed=2)
    robot.find(path)
    path.unlink()
    robot.run()
    assert ended() == {
        "put_back": 2,
        "offline": 2,
        "completed": 1,
        "waiting": 1,
        "blocked": 1,
        "failed": 1,
        "final": 1,
    }


def test_bytes_in_flight_count_at_once_and_what_is_taken_back_takes_nothing_from_the_count(
    robot: MeasuredRobot,
) -> None:
    robot.record()
    robot.dispatch.tick()
    (claim,) = robot.dispatch.in_flight()
    claim.transfer.advance(1000)
    assert robot.take().uploaded_bytes == 1000
    claim.transfer.advance(-1000)
    assert robot.take().uploaded_bytes == 1000
    claim.transfer.advance(1500)
    assert robot.take().uploaded_bytes == 1500


@pytest.mark.parametrize(
    ("code", "reason"),
    [("refused", "refused"), ("NoSuchBucket", "NoSuchBucket"), ("HTTP_599", "other")],
)
def test_a_closed_gate_is_shown_by_its_code_if_that_is_one_of_a_known_set(
    robot: MeasuredRobot, code: str, reason: str
) -> None:
    assert robot.take().gate_closed == dict.fromkeys(HOLDS, False)
    robot.store.fail("UploadPart", error=CloudError("UploadPart", code, status=599), times=100)
    robot.record()
    robot.run()
    assert robot.take().gate_closed == {**dict.fromkeys(HOLDS, False), reason: True}
    assert reason == "other" or reason in TABLE


def test_a_hold_is_shown_by_its_code(robot: MeasuredRobot) -> None:
    robot.gate.hold("windows", "outside upload.windows")
    assert [code for code, closed in robot.take().gate_closed.items() if closed] == ["windows"]
    robot.gate.release("windows")
    assert True not in robot.take().gate_closed.values()


def test_the_last_success_is_known_over_restarts_and_never_of_1970(robot: MeasuredRobot) -> None:
    robot.clock.set_now(1000)
    robot.record("a.mcap")
    robot.run()
    assert robot.take().last_success == 0
    robot.clock.advance(30)
    robot.clock.set_now(BUILT + DAY_SECONDS)
    assert robot.take().last_success == BUILT + DAY_SECONDS - 30
    robot.restart()
    # The document was completed in 1970, by the wrong clock.
    assert robot.take().last_success == 0
    log = robot.record("b.mcap", seed=1)
    robot.run()
    expected = utc_seconds(robot.log(log.id).completed_at or "")
    assert robot.take().last_success == pytest.approx(expected, abs=1)
    robot.clock.advance(DAY_SECONDS)
    robot.restart()
    assert robot.take().last_success == pytest.approx(expected, abs=1)


def test_the_rest_is_asked_of_those_who_know(robot: MeasuredRobot) -> None:
    robot.run_due_work()
    before = robot.take()
    assert (before.watcher_up, before.orphaned_uploads, before.lease_remaining_seconds) == (
        True,
        0,
        None,
    )
    assert before.scan_seconds == robot.discover.report().scan_seconds
    assert before.disk_free_bytes == pytest.approx(shutil.disk_usage(robot.folder).free, rel=0.1)
    robot.watcher_up = False
    robot.history.add_orphan(
        Orphan(
            0,
            "asset",
            "logical",
            "upload",
            "multipart",
            "key",
            "gave_up",
            "2026-01-01T00:00:00.000Z",
        )
    )
    now = robot.take()
    assert (now.watcher_up, now.orphaned_uploads) == (False, 1)


def test_a_lease_that_the_store_refuses_is_counted(robot: MeasuredRobot) -> None:
    robot.store.fail("UploadPart", error=CloudError("UploadPart", "ExpiredToken", status=400))
    log = robot.record()
    robot.run()
    assert robot.log(log.id).status == "completed"
    assert robot.take().errors["lease_lost"] == 1


def test_what_is_absent_leaves_no_sample(robot: MeasuredRobot) -> None:
    text = Exporter(lambda: replace(robot.take(), disk_free_bytes=None)).text().decode()
    assert "# TYPE keystone_agent_disk_free_bytes gauge" in text
    assert "\nkeystone_agent_disk_free_bytes" not in text
    assert "\nkeystone_agent_lease_remaining_seconds" not in text


def test_a_look_reads_no_document_from_the_disk(
    robot: MeasuredRobot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = robot.record()
    history = TinyHistory(tmp_path / "history", robot.clock)
    with contextlib.closing(history):
        with history.transaction():
            for number in range(300):
                id_ = history.add(replace(log, fingerprint=str(number), path=f"/{number}")).id
                if number % 3:
                    history.move(id_, "claimed")
                    history.move(id_, "done" if number % 2 else "gave_up")
        robot.history = history  # type: ignore[assignment]
        measuring = robot.measure()
        monkeypatch.setattr(JournalStorage, "text", None)
        now = measuring.take()
    assert now.recordings == {"pending": 100, "in_progress": 0, "completed": 100, "failed": 100}
    assert now.backlog_bytes == 100 * log.file_size
