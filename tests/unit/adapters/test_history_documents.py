"""The JSON of documents, as it is on the disk and in `history --json`."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from agent.adapters.history.documents import FIELDS, from_json, to_json
from agent.model.sync_log import DocumentSession, SyncLog
from tests.harness.journal_upgrade_steps import OLD

NEW = SyncLog(7, "episode-a", "/data/a.mcap", 1000, "2026-09-21T14:13:20.000Z", "1000-a")
STORED = replace(
    NEW,
    status="in_progress",
    attempt_count=1,
    asset_id="robot-1",
    raw_tags={"site": "here"},
    session=DocumentSession(
        phase="stored",
        logical_upload_id="l",
        upload_id="u",
        multipart_upload_id="m",
        bucket="b",
        object_key="robot-1/a.mcap",
        etag='"0b-3"',
        checksum="q83v-3",
        part_size_bytes=400,
        part_count=3,
    ),
)

NEW_JSON = (
    '{"id":7,"episode_id":"episode-a","path":"/data/a.mcap","file_size":1000,'
    '"mtime":"2026-09-21T14:13:20.000Z","fingerprint":"1000-a","sidecar_sha256":"",'
    '"trigger":"discovered","reason":"","resync":false,"status":"pending","phase":"",'
    '"attempt_count":0,"queued_at":"","started_at":null,"completed_at":null,'
    '"next_retry_at":null,"error":null,"device_id":"","asset_id":"","raw_tags":{},'
    '"left_out_tags":[],"bucket":"","object_key":"","etag":"","checksum":"",'
    '"logical_upload_id":"","upload_id":"","multipart_upload_id":"","part_size_bytes":0,'
    '"part_count":0,"bytes_sent":0,"duration_seconds":0.0,"credential_refreshes":0,'
    '"restarts":0,"source_deleted":false,"ahead":0,"owner":null,"sidecar_fault":"",'
    '"manifest_revision":1}'
)
STORED_JSON = (
    '{"id":7,"episode_id":"episode-a","path":"/data/a.mcap","file_size":1000,'
    '"mtime":"2026-09-21T14:13:20.000Z","fingerprint":"1000-a","sidecar_sha256":"",'
    '"trigger":"discovered","reason":"","resync":false,"status":"in_progress","phase":"stored",'
    '"attempt_count":1,"queued_at":"","started_at":null,"completed_at":null,'
    '"next_retry_at":null,"error":null,"device_id":"","asset_id":"robot-1",'
    '"raw_tags":{"site":"here"},"left_out_tags":[],"bucket":"b","object_key":"robot-1/a.mcap",'
    r'"etag":"\"0b-3\"","checksum":"q83v-3","logical_upload_id":"l","upload_id":"u",'
    '"multipart_upload_id":"m","part_size_bytes":400,"part_count":3,"bytes_sent":0,'
    '"duration_seconds":0.0,"credential_refreshes":0,"restarts":0,"source_deleted":false,'
    '"ahead":0,"owner":null,"sidecar_fault":"","manifest_revision":1}'
)


@pytest.mark.parametrize(
    ("log", "text"), [(NEW, NEW_JSON), (STORED, STORED_JSON)], ids=["no session", "session"]
)
def test_a_document_has_the_same_json_with_and_without_an_upload_session(
    log: SyncLog, text: str
) -> None:
    assert json.dumps(to_json(log), separators=(",", ":")) == text
    assert from_json(json.loads(text)) == log


@pytest.mark.parametrize("name", [field.name for field in fields(DocumentSession)])
def test_no_field_of_a_session_is_lost_even_if_it_stands_alone(name: str) -> None:
    alone = {**json.loads(NEW_JSON), name: json.loads(STORED_JSON)[name]}
    assert to_json(from_json(alone)) == alone


def test_the_documents_of_0_1_0_keep_their_fields() -> None:
    rows = [row for line in OLD.splitlines()[1:] for row in json.loads(line[9:])]
    documents = [row[-1] for row in rows if row[0] == "sync_logs" and isinstance(row[-1], dict)]
    assert {document["phase"] for document in documents} == {"", "opening"}
    for document in documents:
        assert to_json(from_json(document)).items() >= document.items()


def test_every_field_of_a_document_and_its_session_is_stored() -> None:
    own = [field.name for field in fields(SyncLog) if field.name != "session"]
    of_session = [field.name for field in fields(DocumentSession)]
    assert sorted(FIELDS) == sorted([*own, *of_session])
