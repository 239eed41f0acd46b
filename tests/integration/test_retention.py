"""Journeys of the real command that deletes what it has uploaded.

Files, clouds and file systems are real.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from agent.devcloud.cloud import DevCloud
from tests.harness.agent_process import Agent, running
from tests.harness.bucket_store import BUCKET, Store, store
from tests.harness.file_systems import mounted
from tests.harness.recorders import write_mcap, write_sidecar

# The fixture is used by its name alone.
__all__ = ["store"]

MIB = 1024 * 1024
QUICK = "tests.harness.quick_retention"
AT_ONCE = {"RETENTION__DELETE_AFTER_UPLOAD": "true", "RETENTION__KEEP_HOURS": "0"}

running_quickly = partial(running, program=QUICK)


def wait_for(agent: Agent, until: Callable[[], Any], seconds: float = 60) -> None:
    """Check until the condition is true."""
    agent.wait(lambda _: until(), seconds)


def events(agent: Agent) -> list[dict[str, Any]]:
    """Return the events that the agent logged as JSON."""
    log = agent.logs / "json" / "agent.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def logged_events(agent: Agent, event: str) -> list[dict[str, Any]]:
    return [line for line in events(agent) if line.get("event") == event]


def test_uploaded_recordings_disappear_once_the_platform_confirms_them_again(
    tmp_path: Path,
) -> None:
    with DevCloud(tmp_path / "cloud") as cloud:
        with running_quickly(cloud.agent_files, tmp_path) as agent:
            (agent.root / "bag").mkdir()
            recordings = [
                write_mcap(agent.root / "bag" / f"bag_{number}.mcap", seed=number)
                for number in range(3)
            ]
            write_sidecar(recordings[0])
            (agent.root / "bag" / "metadata.yaml").touch()
            contents = {path.read_bytes() for path in recordings}
            logs = agent.wait_completed(3)
        cloud.stop_gateway()
        agent = Agent(cloud.agent_files, tmp_path, program=QUICK, **AT_ONCE)
        unfinished = agent.root / "unfinished.mcap"
        unfinished.write_bytes(recordings[0].read_bytes()[:1000])
        agent.start()
        try:
            wait_for(agent, lambda: logged_events(agent, "unconfirmed"))
            assert all(path.exists() for path in recordings)
            cloud.start_gateway()
            wait_for(agent, lambda: not (agent.root / "bag").exists())
        finally:
            agent.stop()
        assert os.listdir(agent.root) == ["unfinished.mcap"]  # noqa: PTH208 - only the names
        assert {cloud.read_object(log.object_key) for log in logs} == contents
    assert agent.documents() == logs
    assert {line["path"] for line in logged_events(agent, "deleted")} == {
        str(path) for path in recordings
    }
    assert {line["object_key"] for line in logged_events(agent, "deleted")} == {
        log.object_key for log in logs
    }


def test_without_a_setting_nothing_is_ever_deleted(tmp_path: Path) -> None:
    with (
        DevCloud(tmp_path / "cloud") as cloud,
        running_quickly(cloud.agent_files, tmp_path, LOG__LEVEL="DEBUG") as agent,
    ):
        recording = write_mcap(agent.root / "a.mcap")
        agent.wait_completed(1)
        # A marker file is handled once a second. Where retention is enabled it runs more often.
        rescan = agent.state / "markers" / "rescan"
        for _ in range(2):
            rescan.touch()
            wait_for(agent, lambda: not rescan.exists())
        assert recording.exists()


def test_what_somebody_removed_from_the_bucket_stays_on_the_robot(
    store: Store, tmp_path: Path
) -> None:
    with running_quickly(store, tmp_path, **store.settings()) as agent:
        lost, kept = (
            write_mcap(agent.root / "a.mcap", seed=1),
            write_mcap(agent.root / "b.mcap", seed=2),
        )
        content = kept.read_bytes()
        agent.wait_completed(2)
        (log,) = [log for log in agent.documents() if log.path == str(lost)]
    store.library.remove_object(BUCKET, log.object_key)
    with running_quickly(store, tmp_path, **store.settings(**AT_ONCE)) as agent:
        wait_for(agent, lambda: logged_events(agent, "object_missing") and not kept.exists())
        agent.stop(signal.SIGKILL)
        agent.start()
        wait_for(agent, lambda: len(logged_events(agent, "object_missing")) == 2)
        assert lost.exists()
    (other,) = [log for log in agent.documents() if log.path == str(kept)]
    assert store.read(other.object_key) == content
    assert logged_events(agent, "object_missing")[0]["path"] == str(lost)


def test_a_recording_that_was_changed_in_place_stays_until_it_is_uploaded_again(
    tmp_path: Path,
) -> None:
    """Three of 60 frames of 100 kB, 14 to 16, become zeros.

    No window of the fingerprint covers them, and no file time shows the change.
    """
    with DevCloud(tmp_path / "cloud") as cloud:
        with running_quickly(cloud.agent_files, tmp_path) as agent:
            changed, sound = agent.root / "changed.mcap", agent.root / "sound.mcap"
            for seed, path in enumerate((changed, sound)):
                write_mcap(path, size=6_000_000, messages=60, chunked=False, seed=seed)
            agent.wait_completed(2)
        before = changed.stat()
        with changed.open("r+b") as file:
            file.seek(1_400_000)
            file.write(bytes(300_000))
        os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
        content = changed.read_bytes()
        with running_quickly(cloud.agent_files, tmp_path, **AT_ONCE) as agent:
            wait_for(agent, lambda: logged_events(agent, "not_deleted") and not sound.exists())
            wait_for(
                agent,
                lambda: json.loads(agent.command("status", "--json").stdout)["agent"].get(
                    "not_deleted"
                ),
            )
            (kept,) = json.loads(agent.command("status", "--json").stdout)["agent"]["not_deleted"]
            # Without MinIO the cloud's store has no checksum, and only the ETag can differ.
            assert kept["code"] in {"differs", "unclear"}
            assert (kept["count"], kept["paths"]) == (1, [str(changed)])
            shown = agent.command("status").stdout
            assert "1 uploaded file is not deleted by retention" in shown
            assert "its bytes are not those that were uploaded" in shown
            assert changed.read_bytes() == content
            Path(f"{changed}.resync").touch()
            wait_for(agent, lambda: not changed.exists())
            log = agent.documents()[-1]
        assert (log.path, log.owner) == (str(changed), os.getuid())
        assert cloud.read_object(log.object_key) == content


def test_a_disk_that_fills_up_loses_the_oldest_uploaded_ones_and_recording_goes_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "recordings").mkdir()
    with DevCloud(tmp_path / "cloud") as cloud, mounted(tmp_path / "recordings", 64):
        with running_quickly(
            cloud.agent_files, tmp_path, RETENTION__MIN_FREE_GIB=str(20 / 1024)
        ) as agent:
            unsynced = write_mcap(agent.root / "bad.mcap", size=MIB, seed=99)
            unsynced.with_suffix(".json").write_text("[1")
            agent.wait(lambda logs: logs and logs[0].status == "failed")
            contents = {}
            # These are more recordings than the disk can hold.
            for number in range(9):
                wait_for(agent, lambda: free_on(agent.root) > 9 * MIB)
                path = write_mcap(agent.root / f"{number}.mcap", size=8 * MIB, seed=number)
                contents[str(path)] = path.read_bytes()
                agent.wait_completed(number + 1)
            wait_for(agent, lambda: free_on(agent.root) >= 20 * MIB)
            remaining = sorted(path.name for path in agent.root.glob("*.mcap"))
        gone = [Path(line["path"]).name for line in logged_events(agent, "deleted")]
        assert gone == [f"{number}.mcap" for number in range(len(gone))], "the oldest first"
        assert remaining == [*(f"{number}.mcap" for number in range(len(gone), 9)), "bad.mcap"]
        assert len(gone) == 4, "no more than had to"
        for log in agent.documents()[1:]:
            assert cloud.read_object(log.object_key) == contents[log.path]


def free_on(folder: Path) -> int:
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize
