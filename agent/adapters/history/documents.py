"""Turns documents of the sync log into JSON and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from operator import attrgetter
from typing import Any

from agent.model.sync_log import DocumentSession, Fault, SyncLog

# The fields of a document, in the order in which they are stored and shown.
# New fields stand behind all others, because 0.1.0 skips fields that it does not know.
FIELDS = (
    "id", "episode_id", "path", "file_size", "mtime", "fingerprint", "sidecar_sha256", "trigger",
    "reason", "resync", "status", "phase", "attempt_count", "queued_at", "started_at",
    "completed_at", "next_retry_at", "error", "device_id", "asset_id", "raw_tags", "left_out_tags",
    "bucket", "object_key", "etag", "checksum", "logical_upload_id", "upload_id",
    "multipart_upload_id", "part_size_bytes", "part_count", "bytes_sent", "duration_seconds",
    "credential_refreshes", "restarts", "source_deleted", "ahead", "owner",
    "sidecar_fault", "manifest_revision",
)  # fmt: skip

_FIELD_SET = frozenset(FIELDS)

# In JSON the fields of the session stand among the others. They are blank where there is none.
_SESSION_FIELDS = tuple(field.name for field in fields(DocumentSession))
_BLANK_SESSION = DocumentSession()
_BLANKS = attrgetter(*_SESSION_FIELDS)(_BLANK_SESSION)

_values = attrgetter(*(f"session.{name}" if name in _SESSION_FIELDS else name for name in FIELDS))

_TEXT = r'"[^"\\]*"'

# Matches the JSON of most completed documents, and finds all that memory needs of them. At start
# this is much faster than decoding the JSON. A document that it does not match is decoded.
_COMPLETED = re.compile(
    r'\{"id":\d+,"episode_id":"(?P<episode_id>[^"\\]*)","path":"(?P<path>[^"\\]*)",'
    rf'"file_size":\d+,"mtime":{_TEXT},"fingerprint":"(?P<fingerprint>[^"\\]*)",'
    rf'"sidecar_sha256":{_TEXT},"trigger":{_TEXT},"reason":{_TEXT},"resync":\w+,'
    r'"status":"completed"'
)

# Fingerprint, path and episode id of a document: the texts by which documents are looked up.
IndexedTexts = tuple[str, str, str]


def indexed_texts(log: SyncLog) -> IndexedTexts:
    """Return the texts by which a document is looked up."""
    return log.fingerprint, log.path, log.episode_id


def completed_texts(text: str) -> IndexedTexts | None:
    """Return the texts by which a document is looked up, from its stored JSON.

    The result is None when the document is not completed, and when this can't be told without
    decoding the JSON.
    """
    match = _COMPLETED.match(text)
    return (match["fingerprint"], match["path"], match["episode_id"]) if match else None


def to_json(log: SyncLog) -> dict[str, Any]:
    """Return a document as it is stored and shown, its fields in the order of ``FIELDS``."""
    if log.session is None:
        log = replace(log, session=_BLANK_SESSION)
    document = dict(zip(FIELDS, _values(log), strict=True))
    document["error"] = asdict(log.error) if log.error else None
    document["raw_tags"] = dict(log.raw_tags)
    document["left_out_tags"] = list(log.left_out_tags)
    return document


def from_json(document: Mapping[str, Any]) -> SyncLog:
    """Return the document that :func:`to_json` has made.

    Fields that only a newer version of the agent knows are left out.
    """
    # Most documents have no other fields. Copying them whole is faster than picking single ones.
    known = dict(document)
    if not known.keys() <= _FIELD_SET:
        known = {name: value for name, value in known.items() if name in _FIELD_SET}
    session = tuple(map(known.pop, _SESSION_FIELDS, _BLANKS))
    known["session"] = DocumentSession(*session) if any(session) else None
    error = known.get("error")
    known["error"] = Fault(**known_fields(error, Fault)) if error else None
    known["left_out_tags"] = tuple(known.get("left_out_tags", ()))
    return SyncLog(**known)


def known_fields(document: Mapping[str, Any], class_: type) -> dict[str, Any]:
    """Return those entries of ``document`` that are fields of the dataclass ``class_``."""
    return {field.name: document[field.name] for field in fields(class_) if field.name in document}
