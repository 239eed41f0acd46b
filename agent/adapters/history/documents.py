"""Turns documents of the sync log into JSON and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from operator import attrgetter
from typing import Any

from agent.model.sync_log import Fault, SyncLog

# The fields of a document, in the order in which they are stored and shown.
FIELDS = tuple(field.name for field in fields(SyncLog))

_FIELD_SET = frozenset(FIELDS)
_values = attrgetter(*FIELDS)

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
    """Return a document as it is stored and shown, its fields in the order of :class:`SyncLog`."""
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
    whole = document.keys() <= _FIELD_SET
    known = dict(document) if whole else known_fields(document, SyncLog)
    error = known.get("error")
    known["error"] = Fault(**known_fields(error, Fault)) if error else None
    known["left_out_tags"] = tuple(known.get("left_out_tags", ()))
    return SyncLog(**known)


def known_fields(document: Mapping[str, Any], class_: type) -> dict[str, Any]:
    """Return those entries of ``document`` that are fields of the dataclass ``class_``."""
    return {field.name: document[field.name] for field in fields(class_) if field.name in document}
