"""Journeys of the real command: real files, a real gateway, a real S3 server."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.devcloud.cloud import DevCloud
from agent.devcloud.ledger import IssuedLease, IssuedToken
from agent.model.sync_log import SyncLog
from tests.harness import s3_servers as servers
from tests.harness.agent_process import Agent, running
from tests.harness.phase import phase_of
from tests.harness.recorders import damaged, unfinished, write_mcap, write_sidecar
from tests.harness.slow_link import Wire, slow_link

MIB = 1024 * 1024


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[DevCloud]:
    with DevCloud(tmp_path / "cloud") as cloud:
        yield cloud


def stored_bytes(cloud: DevCloud, log: SyncLog) -> bytes:
    return cloud.read_object(log.object_key)


def issued_secrets(cloud: DevCloud) -> list[str]:
    """Return every token, key and secret that the platform gave out."""
    leases = cloud._ledger.all(IssuedLease)
    tokens = [token.id for token in cloud._ledger.all(IssuedToken)]
    return tokens + [
        text for lease in leases for text in (lease.id, lease.secret_key, lease.session_token)
    ]


def test_a_recording_reaches_the_bucket_byte_for_byte(cloud: DevCloud, tmp_path: Path) -> None:
    with running(cloud.agent_files, tmp_path) as agent:
        recording = write_mcap(agent.root / "a.mcap", size=20 * MIB)
        write_sidecar(
            recording, {"episode_id": "ep-1", "task": {"scene": " kitchen "}, "quality": 1.0}
        )
        (log,) = agent.wait_completed(1)
        assert stored_bytes(cloud, log) == recording.read_bytes()
        shown = agent.command("history", "--json")
        assert agent.stop() == 0
    assert (log.episode_id, log.attempt_count, phase_of(log), log.require_session().part_count) == (
        "ep-1",
        1,
        "completing",
        3,
    )
    assert log.raw_tags["scene"] == "kitchen"
    assert log.raw_tags["quality"] == "1"
    assert log.bytes_sent == recording.stat().st_size
    (document,) = json.loads(shown.stdout)
    assert document["object_key"] == log.object_key
    assert list(document)[:4] == ["id", "episode_id", "path", "file_size"]


def test_each_file_ends_as_it_should_and_nothing_is_sent_twice(
    cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud.agent_files, tmp_path) as agent:
        (agent.root / "x").mkdir()
        (agent.root / "y").mkdir()
        good = write_mcap(agent.root / "x" / "run.mcap", size=9 * MIB, seed=1)
        other = write_mcap(agent.root / "y" / "run.mcap", size=MIB, seed=2)
        shutil.copyfile(good, agent.root / "y" / "copy-of-x.mcap")
        os.link(other, agent.root / "x" / "link-to-y.mcap")
        damaged(agent.root / "broken.mcap")
        unfinished(agent.root / "growing.mcap")
        (agent.root / "empty.mcap").touch()
        logs = agent.wait(lambda logs: len(logs) == 3 and all(not log.open for log in logs))
        status = json.loads(agent.command("status", "--json").stdout)
        why = json.loads(agent.command("why", str(agent.root / "broken.mcap"), "--json").stdout)
    assert sorted(log.status for log in logs) == ["completed", "completed", "failed"]
    contents = {stored_bytes(cloud, log) for log in logs if log.status == "completed"}
    assert contents == {good.read_bytes(), other.read_bytes()}
    assert len(cloud.objects()) == 2
    failed = [(Path(log.path).name, log.error and log.error.code) for log in logs if log.error]
    assert failed == [("broken.mcap", "damaged")]
    assert status["recordings"]["completed"] == 2
    assert why[0]["rules"][-1]["ok"] is False


def test_a_recording_that_is_rewritten_in_place_is_not_uploaded_before_its_writer_has_closed_it(
    cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud.agent_files, tmp_path) as agent:
        recording = write_mcap(agent.root / "a.mcap", size=9 * MIB, seed=1)
        agent.wait_completed(1)
        old, new = (
            recording.read_bytes(),
            write_mcap(tmp_path / "new.mcap", size=9 * MIB, seed=2).read_bytes(),
        )
        assert len(new) == len(old)
        # rsync --inplace writes in this way. Here the writer makes a pause.
        with recording.open("r+b") as writer:
            writer.write(new[: 2 * MIB])
            writer.flush()
            agent.wait(lambda _: "open for writing" in agent.command("status", "--json").stdout)
            assert len(agent.documents()) == 1
            writer.write(new[2 * MIB :])
        logs = agent.wait_completed(2)
        assert [stored_bytes(cloud, log) for log in logs] == [old, new]


def test_a_recording_renamed_while_it_uploads_is_sent_once(tmp_path: Path) -> None:
    with (
        DevCloud(tmp_path / "cloud", bandwidth=8 * MIB) as cloud,
        running(cloud.agent_files, tmp_path) as agent,
    ):
        recording = write_mcap(agent.root / "a.mcap", size=24 * MIB)
        content = recording.read_bytes()
        agent.wait(lambda logs: logs and phase_of(logs[0]) == "uploading")
        recording.rename(agent.root / "b.mcap")
        agent.wait_completed(1)
        (agent.root / "late.mcap").hardlink_to(agent.root / "b.mcap")
        write_mcap(agent.root / "next.mcap", seed=9)
        logs = agent.wait_completed(2)
        assert len(logs) == 2
        assert stored_bytes(cloud, logs[0]) == content


def test_an_outage_costs_no_attempt_and_the_half_done_upload_goes_on(tmp_path: Path) -> None:
    with (
        DevCloud(tmp_path / "cloud", bandwidth=8 * MIB) as cloud,
        running(cloud.agent_files, tmp_path) as agent,
    ):
        first = write_mcap(agent.root / "a.mcap", size=40 * MIB, seed=1)
        agent.wait(lambda logs: logs and phase_of(logs[0]) == "uploading")
        session = agent.documents()[0].require_session().logical_upload_id
        write_mcap(agent.root / "b.mcap", seed=2)
        cloud.stop_gateway()
        cloud.stop_store()
        agent.wait(lambda logs: len(logs) == 2 and all(log.status == "pending" for log in logs))
        journal = _size_of(agent)
        write_mcap(agent.root / "c.mcap", seed=3)
        agent.wait(lambda logs: len(logs) == 3)
        grown = _size_of(agent)
        agent.wait(lambda _: "gate      closed" in agent.command("status").stdout)
        cloud.start_store()
        cloud.start_gateway()
        logs = agent.wait_completed(3)
        assert stored_bytes(cloud, logs[0]) == first.read_bytes()
    assert [log.attempt_count for log in logs] == [1, 1, 1]
    assert logs[0].require_session().logical_upload_id == session
    # rclone forgets its multipart uploads when it stops.
    if cloud.store_kind == "minio":
        assert logs[0].bytes_sent < first.stat().st_size + 5 * 8 * MIB
    assert grown - journal < 4096, "only the new recording was written down"


def test_a_stop_gets_through_a_dead_link_and_the_next_start_goes_on(tmp_path: Path) -> None:
    dying = Wire(stall_after=100_000)
    with (
        # rclone waits for the parts of which a dead link has sent only a half.
        servers.moto() as moto,
        DevCloud(tmp_path / "cloud", store=moto.with_keys) as cloud,
        slow_link(
            cloud.store_url.partition("://")[2], lambda number: dying if number < 3 else Wire()
        ) as link,
    ):
        cloud.advertise_store(f"http://{link.address}")
        with running(cloud.agent_files, tmp_path) as agent:
            recording = write_mcap(agent.root / "a.mcap", size=20 * MIB)
            assert link.stalled.wait(30)
            assert agent.stop() == 0
            (log,) = agent.documents()
            assert (log.status, phase_of(log), log.attempt_count) == ("pending", "uploading", 0)
            agent.start()
            (log,) = agent.wait_completed(1)
        assert log.attempt_count == 1
        assert stored_bytes(cloud, log) == recording.read_bytes()


def test_no_secret_is_in_logs_or_state(cloud: DevCloud, tmp_path: Path) -> None:
    with running(cloud.agent_files, tmp_path, LOG__LEVEL="DEBUG") as agent:
        write_mcap(agent.root / "a.mcap", size=9 * MIB)
        agent.wait_completed(1)
        cloud.stop_store()
        write_mcap(agent.root / "b.mcap", seed=2)
        agent.wait(lambda logs: len(logs) == 2)
        agent.stop()
        written = b"".join(
            path.read_bytes()
            for path in (*agent.state.rglob("*"), *agent.logs.rglob("*"))
            if path.is_file()
        )
    secrets = [device.api_key for device in cloud.devices()] + issued_secrets(cloud)
    assert len(secrets) >= 4
    assert [secret for secret in secrets if secret.encode() in written] == []
    assert "completed" in written.decode(errors="replace")


def test_a_second_agent_in_the_same_state_folder_is_refused(
    cloud: DevCloud, tmp_path: Path
) -> None:
    with running(cloud.agent_files, tmp_path) as agent:
        write_mcap(agent.root / "a.mcap")
        agent.wait_completed(1)
        second = agent.command("run")
    assert second.returncode == 1
    assert "stop the other agent" in second.stderr


def test_a_wrong_configuration_names_every_fault_and_exits_2(
    cloud: DevCloud, tmp_path: Path
) -> None:
    agent = Agent(cloud.agent_files, tmp_path, UPLOAD__MAX_CONCURRENT="none", WATCH__COLOUR="red")
    result = agent.command("config", "validate")
    assert result.returncode == 2
    assert "upload.max_concurrent" in result.stderr
    assert "WATCH__COLOUR" in result.stderr
    assert "Traceback" not in result.stderr


def _size_of(agent: Agent) -> int:
    """Return the bytes of the journal up to its last line.

    The reserved space behind the last line holds zeros.
    """
    return sum(len(path.read_bytes().rstrip(b"\0")) for path in (agent.state / "history").iterdir())
