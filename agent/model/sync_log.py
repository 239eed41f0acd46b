"""The documents of the history, and the small records that the history keeps beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict

from agent.model.error_table import Kind, Trait, has_trait

Status = Literal["pending", "in_progress", "completed", "failed"]
Phase = Literal["", "opening", "uploading", "stored", "completing"]
Trigger = Literal["discovered", "marker", "cli", "cause-changed", "upgrade", "sidecar"]


@dataclass(frozen=True, slots=True)
class Fault:
    """The last error of a document, as the contract and the history show it."""

    kind: Kind
    code: str
    message: str
    hint: str

    def means(self, trait: Trait) -> bool:
        """Return whether the table of errors says that this error means what ``trait`` names."""
        return has_trait(self.code, trait)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A multipart upload that this robot gave up and that must still be aborted in the bucket.

    ``since`` is a time as :func:`agent.model.values.utc_text` writes it.
    """

    id: int
    asset_id: str
    logical_upload_id: str
    upload_id: str
    multipart_upload_id: str
    object_key: str
    reason: str
    since: str


@dataclass(frozen=True, slots=True)
class Marker:
    """A marker file that was handled, or is handled in part.

    Its inode and its time tell it from a marker file that is created at the same path later.
    ``through`` is the last recording of a folder that was handled, in the order of the paths. None
    means that all were. ``said`` is set when the log has told that the file cannot be deleted.
    """

    path: str
    inode: int
    mtime_ns: int
    through: str | None = None
    said: bool = False


@dataclass(frozen=True, slots=True)
class Absences:
    """Which documents have recordings that are no longer on the disk, and since when.

    Time is counted in days on which the agent could search the disk. ``day`` is the number of the
    last such day, and ``date`` is its UTC date. ``since`` maps the ids of the documents to the
    numbers of days. It may hold ids of documents that were removed from the history.
    """

    day: int = 0
    date: str = ""
    since: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The version of the agent that runs on this history, and the version before it.

    ``before`` is "" if the version before did not note itself. ``again`` holds the ids of the
    documents that had failed for good when this version started. This version tries them again.
    """

    version: str
    before: str = ""
    again: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class DocumentSession:
    """The upload session of a document, and how far the upload has come in it.

    A text is "" and a number is 0 until it is known. ``etag`` and ``checksum`` are those of the
    stored object.
    """

    phase: Phase = ""
    logical_upload_id: str = ""
    upload_id: str = ""
    multipart_upload_id: str = ""
    bucket: str = ""
    object_key: str = ""
    etag: str = ""
    checksum: str = ""
    part_size_bytes: int = 0
    part_count: int = 0

    @property
    def stored(self) -> bool:
        """Whether the object is known to be in the bucket."""
        return self.phase in ("stored", "completing")


@dataclass(frozen=True, slots=True)
class SyncLog:
    """One document of the history: all attempts to upload one recording.

    Times are text of :func:`agent.model.values.utc_text`. ``ahead`` is above 0 if an operator asked
    for this recording to go before the others. The highest value goes first. ``session`` is None
    until the first session is opened, and after a session was given up.

    ``owner`` is the uid of the user whose file was sent. It is None in documents of 0.1.0, and
    where parts may come from files of several users.

    ``sidecar_fault`` says why the recording was sent without its sidecar, and is "" where it was
    not. ``manifest_revision`` says which manifest of the object this document writes in bucket
    mode. It is 1 for the first one.
    """

    id: int
    episode_id: str
    path: str
    file_size: int
    mtime: str
    fingerprint: str
    sidecar_sha256: str = ""
    trigger: Trigger = "discovered"
    reason: str = ""
    resync: bool = False
    status: Status = "pending"
    attempt_count: int = 0
    queued_at: str = ""
    started_at: str | None = None
    completed_at: str | None = None
    next_retry_at: str | None = None
    error: Fault | None = None
    device_id: str = ""
    asset_id: str = ""
    raw_tags: Mapping[str, str] = field(default_factory=dict)
    left_out_tags: Sequence[str] = ()
    session: DocumentSession | None = None
    bytes_sent: int = 0
    duration_seconds: float = 0.0
    credential_refreshes: int = 0
    restarts: int = 0
    source_deleted: bool = False
    ahead: int = 0
    owner: int | None = None
    sidecar_fault: str = ""
    manifest_revision: int = 1

    @property
    def open(self) -> bool:
        """Whether the status may still change."""
        return self.status in ("pending", "in_progress") or (
            self.status == "failed" and self.next_retry_at is not None
        )

    @property
    def synced(self) -> bool:
        """Whether the document says that the recording is in the bucket."""
        return self.status == "completed"

    def has_error(self, code: str) -> bool:
        """Return whether the last error has this ``code``; "" stands for any code."""
        return not code or (self.error is not None and self.error.code == code)

    @property
    def is_asked_for(self) -> bool:
        """Whether a person has asked for this upload."""
        return self.trigger in ("marker", "cli")

    @property
    def is_revision(self) -> bool:
        """Whether only the manifest of an object that is stored already is written anew."""
        return self.trigger == "sidecar"

    @property
    def object_key(self) -> str:
        """The key of the object in the bucket, "" where no session has chosen one."""
        return self.session.object_key if self.session else ""

    def require_session(self) -> DocumentSession:
        """Return the upload session. Raises LookupError where the document has none."""
        if self.session is None:
            raise LookupError(f"document {self.id} has no upload session")
        return self.session

    def as_revision(self) -> SyncLog:
        """Return a new document that writes the manifest of this one's object anew.

        It keeps the time at which the object was uploaded. Raises LookupError where this document
        has no upload session.
        """
        return replace(
            self,
            trigger="sidecar",
            reason="its sidecar came or changed after the upload",
            resync=True,
            status="pending",
            session=replace(self.require_session(), phase="stored"),
            attempt_count=0,
            started_at=None,
            next_retry_at=None,
            error=None,
            bytes_sent=0,
            duration_seconds=0.0,
            credential_refreshes=0,
            restarts=0,
            ahead=0,
            manifest_revision=self.manifest_revision + 1,
        )


class IdentityChanges(TypedDict, total=False):
    """Fields of a document that are fixed when an upload session is opened."""

    sidecar_sha256: str
    asset_id: str
    raw_tags: Mapping[str, str]
    left_out_tags: Sequence[str]
    owner: int | None
    sidecar_fault: str


class SyncLogChanges(IdentityChanges, total=False):
    """Fields of a document that may change at any time before the document has ended.

    The other fields either never change, or follow from a move in ``agent.model.states``.
    """

    episode_id: str
    reason: str
    error: Fault | None
    session: DocumentSession | None
    bytes_sent: int
    duration_seconds: float
    credential_refreshes: int
    restarts: int
    source_deleted: bool
    ahead: int


class MoveChanges(SyncLogChanges, total=False):
    """Fields of a document that may change together with its status."""

    next_retry_at: str | None
