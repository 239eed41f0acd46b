"""Journeys of the real command in bucket mode: real files, real S3 servers, no gateway."""

from __future__ import annotations

import json
import re
import signal
from datetime import datetime, timedelta, timezone
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from minio.credentials.providers import StaticProvider
from minio.minioadmin import MinioAdmin

from agent.model.sync_log import SyncLog
from tests.harness import s3_servers as servers
from tests.harness.agent_process import Agent, running
from tests.harness.bucket_store import BUCKET, USER, Store, store
from tests.harness.phase import phase_of
from tests.harness.recorders import write_mcap, write_sidecar
from tests.harness.s3_relay import Relay, relayed

# The fixture comes from the harness.
__all__ = ["store"]

MIB = 1024 * 1024


def key_of(log: SyncLog, relpath: str) -> str:
    return f"robot-7/{log.mtime[:10]}/{relpath}"


def test_a_recording_reaches_the_bucket_and_its_manifest_announces_it(
    store: Store, tmp_path: Path
) -> None:
    with running(store, tmp_path, **store.settings(ASSETS__DEFAULT="asset-3")) as agent:
        (agent.root / "bag").mkdir()
        (agent.root / "bag" / "metadata.yaml").write_text("rosbag2_bagfile_information: {}\n")
        recording = write_mcap(agent.root / "bag" / "bag_0.mcap", size=12 * MIB)
        write_sidecar(recording, {"episode_id": "ep-1", "task": {"scene": "kitchen"}})
        (log,) = agent.wait_completed(1)
        assert agent.stop() == 0
    key = key_of(log, "bag/bag_0.mcap")
    assert (
        log.object_key,
        log.require_session().bucket,
        log.asset_id,
        log.require_session().part_count,
    ) == (key, BUCKET, "asset-3", 3)
    assert store.read(key) == recording.read_bytes()
    manifest = json.loads(store.read(f"{key}.manifest.json"))
    assert manifest == {
        "schema": 1,
        "key": key,
        "size": recording.stat().st_size,
        "etag": log.require_session().etag,
        "checksum": log.require_session().checksum,
        "part_size_bytes": 5 * MIB,
        "fingerprint": log.fingerprint,
        "device_id": "robot-7",
        "asset_id": "asset-3",
        "episode_id": "ep-1",
        "tags": dict(log.raw_tags),
        "uploaded_at": manifest["uploaded_at"],
    }
    assert manifest["tags"]["scene"] == "kitchen"
    assert store.library.stat_object(BUCKET, key).etag == log.require_session().etag.strip('"')
    assert store.keys() == {key, f"{key}.manifest.json", key_of(log, "bag/metadata.yaml")}


def test_an_object_of_somebody_else_under_the_key_stays_as_it_is(
    store: Store, tmp_path: Path
) -> None:
    agent = Agent(store, tmp_path, **store.settings(BUCKET__KEY="{name}"))
    recording = write_mcap(agent.root / "a.mcap", size=MIB)
    store.library.put_object(BUCKET, "a.mcap", BytesIO(b"not yours"), 9)
    agent.start()
    try:
        (log,) = agent.wait_completed(1)
    finally:
        agent.stop()
    assert log.object_key == f"a-{log.fingerprint.partition('-')[2][:8]}.mcap"
    assert store.read(log.object_key) == recording.read_bytes()
    assert store.read("a.mcap") == b"not yours"


def test_an_upload_cut_off_by_a_kill_sends_only_what_is_missing(
    store: Store, tmp_path: Path
) -> None:
    with relayed(store.server.endpoint, rate=4 * MIB) as relay:
        agent = Agent(store, tmp_path, **store.settings(relay.endpoint))
        recording = write_mcap(agent.root / "a.mcap", size=60 * MIB)
        agent.start()
        agent.wait(lambda _: len(relay.parts()) >= 4)
        agent.stop(signal.SIGKILL)
        before = [one.part for one in relay.parts()]
        (cut,) = agent.documents()
        agent.start()
        try:
            (log,) = agent.wait_completed(1)
        finally:
            agent.stop()
        sent = [one.part for one in relay.parts()]
    assert (phase_of(cut), log.attempt_count) == ("uploading", 1)
    assert (log.object_key, log.require_session().multipart_upload_id) == (
        cut.object_key,
        cut.require_session().multipart_upload_id,
    )
    assert len(before) < log.require_session().part_count
    assert not set(before) & set(sent[len(before) :]), "what the store had was not sent again"
    assert set(sent) == set(range(1, log.require_session().part_count + 1))
    assert store.read(log.object_key) == recording.read_bytes()
    assert store.multiparts() == []


def test_keys_that_may_only_write_are_enough(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.server.name != "minio":
        pytest.skip("moto permits everything")
    writing = [
        "PutObject",
        "AbortMultipartUpload",
        "ListMultipartUploadParts",
        "ListBucketMultipartUploads",
    ]
    allowed = {
        "Effect": "Allow",
        "Action": [f"s3:{action}" for action in writing],
        "Resource": [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"],
    }
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [allowed]}))
    admin = admin_of(store)
    admin.user_add(*USER)
    admin.policy_add("writing", str(policy))
    admin.policy_set("writing", user=USER[0])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", USER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", USER[1])
    with running(store, tmp_path, **store.settings()) as agent:
        (agent.root / "metadata.yaml").write_text("a: b\n")
        recording = write_mcap(agent.root / "a.mcap", size=12 * MIB)
        (log,) = agent.wait_completed(1)
    assert log.object_key == key_of(log, f"a-{log.fingerprint.partition('-')[2][:8]}.mcap")
    assert store.read(log.object_key) == recording.read_bytes()
    assert len(store.keys()) == 3


def admin_of(store: Store) -> MinioAdmin:
    root = StaticProvider(store.server.access_key, store.server.secret_key)
    return MinioAdmin(
        endpoint=store.server.endpoint.partition("://")[2], credentials=root, secure=False
    )


def shortened(relay: Relay, seconds: float) -> None:
    """Let every lease that passes the relay end after ``seconds``."""

    def rewrite(body: bytes) -> bytes:
        end = datetime.now(timezone.utc) + timedelta(seconds=seconds)
        text = f"<Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration>".encode()
        return re.sub(rb"<Expiration>[^<]*</Expiration>", text, body)

    relay.rewrite = rewrite


def test_a_role_is_assumed_and_its_keys_are_replaced_in_mid_upload(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if store.server.name == "minio":
        admin = admin_of(store)
        admin.user_add(*USER)
        admin.policy_set("readwrite", user=USER[0])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", USER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", USER[1])
    with relayed(store.server.endpoint, rate=2 * MIB) as relay:
        shortened(relay, 5)
        settings = store.settings(
            relay.endpoint,
            BUCKET__CREDENTIALS="assume-role",
            BUCKET__ROLE_ARN="arn:aws:iam::123456789012:role/robot",
            LOG__LEVEL="DEBUG",
        )
        with running(store, tmp_path, **settings) as agent:
            recording = write_mcap(agent.root / "a.mcap", size=80 * MIB)
            (log,) = agent.wait_completed(1)
            agent.stop()
            written = b"".join(
                path.read_bytes()
                for path in (*agent.state.rglob("*"), *agent.logs.rglob("*"))
                if path.is_file()
            )
        parts = relay.parts()
    used = {one.access_key for one in parts}
    assert len(used) >= 2, "the parts of one multipart went out under several keys"
    assert not used & set(USER)
    assert len({one.upload_id for one in parts}) == 1
    assert sorted(one.part for one in parts) == list(
        range(1, log.require_session().part_count + 1)
    ), "no part went twice"
    assert log.credential_refreshes >= 1
    assert log.attempt_count == 1
    assert store.read(log.object_key) == recording.read_bytes()
    assert [key for key in (*used, USER[1]) if key.encode() in written] == []


def test_keys_that_give_nothing_are_named_and_the_upload_goes_on_once_they_do(
    store: Store, tmp_path: Path
) -> None:
    file = tmp_path / "credentials"
    settings = store.settings(BUCKET__CREDENTIALS="file", BUCKET__CREDENTIALS_FILE=str(file))
    with running(store, tmp_path, RETRY__MAX_SECONDS="1000", **settings) as agent:
        write_mcap(agent.root / "a.mcap")
        agent.wait(lambda logs: logs and "storage_keys" in json.dumps(status(agent)))
        aside = tmp_path / "aside"
        aside.write_text(
            f"[default]\naws_access_key_id = {servers.ACCESS_KEY}\naws_secret_access_key = "
            f"{servers.SECRET_KEY}\n"
        )
        aside.chmod(0o600)
        aside.rename(file)
        (log,) = agent.wait_completed(1, seconds=30)
    assert log.attempt_count == 1


def status(agent: Agent) -> Any:
    output = agent.command("status", "--json").stdout
    return json.loads(output) if output else {}
