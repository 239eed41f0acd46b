"""The words of the agent: one noun, one frozen value, the same word everywhere.

Sizes are bytes, durations and monotonic times are seconds. What is written down for people and other
programs is a UTC time as ISO 8601 text with ``Z``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from agent.model.bandwidth import Bandwidth
from agent.model.mcap_tail import Tail

Status = Literal["pending", "in_progress", "completed", "failed"]
Phase = Literal["", "opening", "uploading", "stored", "completing"]
Trigger = Literal["discovered", "marker", "cli", "cause-changed", "upgrade"]
Kind = Literal["offline", "blocked", "counted", "final", "lease_lost"]
Action = Literal["continue", "complete_only", "restart", "abort", "unspecified"]
Stage = Literal["active", "completing", "completed", "terminal", "unspecified"]
Ask = Literal["resync", "first"]
Reply = Literal["accepted", "already_queued", "not_found", "rejected"]

DEFAULT_PART_SIZE = 8 * 1024 * 1024  # what part_size_bytes <= 0 means on the wire
_YEAR_1, _YEAR_9999 = (
    -62_135_596_800.0,
    253_402_300_799.0,
)  # file systems know times beyond ISO 8601
MAX_PARTS = 10_000  # of one S3 multipart upload


def utc_text(seconds: float) -> str:
    """The UTC wall time ``seconds`` since 1970 as ISO 8601 text with milliseconds and ``Z``; years 1 to 9999."""
    moment = datetime.fromtimestamp(min(max(seconds, _YEAR_1), _YEAR_9999), tz=timezone.utc)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_seconds(text: str) -> float:
    """The inverse of :func:`utc_text`; raises ValueError for other text."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@dataclass(frozen=True, slots=True)
class Sighting:
    """Something happened at a path, or (a folder) somewhere below it. It proves nothing."""

    path: Path


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The identity of a recording's bytes: its size, and SHA-256 over the first, middle and last 64 KiB."""

    size: int
    sha256: str  # 64 lower-case hex digits

    def __str__(self) -> str:
        return f"{self.size}-{self.sha256}"

    @property
    def short(self) -> str:
        """The first 8 hex digits, for names."""
        return self.sha256[:8]


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The ``.json`` file beside a recording. ``content`` is None when it is no JSON object; ``fault`` then says why."""

    path: Path
    sha256: str
    content: Mapping[str, Any] | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished MCAP on this robot's disk, as it was when it was looked at.

    ``owner`` is the uid of the file's owner; None: not known.
    """

    path: Path
    root: Path
    fingerprint: Fingerprint
    mtime_ns: int
    device: int
    inode: int
    tail: Tail
    sidecar: Sidecar | None = None
    own_tags: Mapping[str, str] = field(
        default_factory=dict
    )  # of its completeness: compression, mcap_complete
    owner: int | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.fingerprint.size

    @property
    def sidecar_sha256(self) -> str:
        """Of the sidecar's bytes; "" where there is none."""
        return self.sidecar.sha256 if self.sidecar else ""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that can never become a recording, and why."""

    path: Path
    fingerprint: Fingerprint
    mtime_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What the platform gave one asset id: where to call, the key to call with, and its tags."""

    asset_id: str
    api_key: str = field(repr=False)
    tags: Mapping[str, str]
    auth: str
    gateway: str

    @property
    def ready(self) -> bool:
        """Whether it may upload: a key, tags, and no empty tag key (the platform's own rule)."""
        return bool(self.api_key and self.tags) and "" not in self.tags


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What the platform answers a device that enrols: its key, told only this once, and its tags."""

    api_key: str = field(repr=False)
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """The proof of one device that each gateway call carries."""

    value: str = field(repr=False)
    expires_at: float  # wall clock of the platform, seconds since 1970


@dataclass(frozen=True, slots=True)
class CredentialLease:
    """Storage keys with an end.

    ``expires_at`` is the platform's wall clock. ``life`` and ``deadline`` are set on arrival, on the monotonic
    clock, where the local clock can be trusted to tell them; a lease without a deadline ends when the store
    refuses it.
    """

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: float
    life: float = 0.0
    deadline: float | None = None

    def due(self, now: float) -> bool:
        """Whether it is time to refresh it: a quarter of its life is left, 30 to 330 s, yet at most half of it."""
        if self.deadline is None:
            return False
        margin = min(max(30.0, min(330.0, self.life / 4)), self.life / 2)
        return self.deadline - now <= margin

    def usable(self, now: float) -> bool:
        """Whether a request may still be signed with it."""
        return self.deadline is None or now < self.deadline


@dataclass(frozen=True, slots=True)
class UploadSession:
    """The gateway's permission to store one recording at one place, in parts of one size."""

    logical_upload_id: str
    upload_id: str
    bucket: str
    endpoint: str
    object_key: str
    region: str
    part_size_bytes: int  # above 0


@dataclass(frozen=True, slots=True)
class Grant:
    """A session together with the keys that were issued for it."""

    session: UploadSession
    lease: CredentialLease


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the gateway knows of a session, and what it asks the agent to do next."""

    logical_upload_id: str
    upload_id: str
    stage: Stage
    action: Action
    part_count: int
    etag: str
    reason: str


@dataclass(frozen=True, slots=True)
class Part:
    """A window on the file. Numbers start at 1."""

    number: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part as the store holds it. ``checksum`` is the store's own (base64), "" where it has none."""

    number: int
    size: int
    etag: str
    checksum: str = ""
    algorithm: str = ""  # "SHA256", "CRC32" or ""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the bucket says it holds under the key."""

    size: int
    etag: str  # in double quotes, letters as the store gave them
    checksum: str = ""
    algorithm: str = ""


def parts_of(size: int, part_size: int) -> Sequence[Part]:
    """Cut a file of ``size`` bytes into windows of ``part_size``; the last one may be shorter."""
    return [
        Part(number, offset, min(part_size, size - offset))
        for number, offset in enumerate(range(0, size, part_size), start=1)
    ]


class Transfer:
    """Progress and pace of one upload and the way to stop it; handed to the store, asked by those who show it."""

    def __init__(self, total: int, bandwidth: Bandwidth | None = None) -> None:
        """``total`` bytes are to be sent, within a ``bandwidth`` that is shared with other uploads."""
        self.total = total
        self.kept = 0  # bytes that the store had already when this claim began
        self._sent = self._passed = 0
        self._bandwidth = bandwidth
        self._turn = threading.Lock()
        self._stop = threading.Event()
        self._at_stop: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    @property
    def sent(self) -> int:
        """Bytes handed to the network so far, less what had to be taken back."""
        return self._sent

    @property
    def passed(self) -> int:
        """The same with what had to be taken back: what the way let through."""
        return self._passed

    @property
    def stopped(self) -> bool:
        """Whether the upload was told to stop at once."""
        return self._stop.is_set()

    def advance(self, count: int) -> None:
        """Count bytes that went out; a negative count takes back those of a part that is sent again."""
        with self._lock:
            self._sent += count
            self._passed += max(count, 0)

    def grant(self, count: int) -> int:
        """Wait until some of the next ``count`` bytes may go; returns how many, all where there is no cap.

        A transfer that is stopped waits no longer: who asked must look at :attr:`stopped` then.
        """
        if self._bandwidth is None or not self._bandwidth.turn or count == 0:
            return count
        # Parts of one upload queue here, so that each upload has one place in the queue of all, however many parts.
        with self._turn:
            if not self.stopped:
                count = min(count, self._bandwidth.turn or count)
                self._stop.wait(self._bandwidth.reserve(count))
        return count

    def at_stop(self, act: Callable[[], None]) -> None:
        """Have ``act`` called when the upload is told to stop; at once if it was."""
        with self._lock:
            self._at_stop.append(act)
            late = self.stopped
        if late:
            act()

    def stop(self) -> None:
        """Drop what is in flight."""
        with self._lock:
            self._stop.set()
            acts = list(self._at_stop)
        for act in acts:
            act()


@dataclass(frozen=True, slots=True)
class Link:
    """How this robot's requests leave it now."""

    interfaces: (
        frozenset[str] | None
    )  # on the way to the cloud; empty: there is no way; None: that can't be told
    metered: bool = False  # somebody pays for each byte


@dataclass(frozen=True, slots=True)
class Fault:
    """The last error of a document, as contract and history show it."""

    kind: Kind
    code: str
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Orphan:
    """A session that was given up here but not yet out there: its multipart may still lie in the bucket."""

    id: int
    asset_id: str
    logical_upload_id: str
    upload_id: str
    multipart_upload_id: str
    object_key: str
    reason: str
    since: str  # utc_text


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one target (path, folder or episode id) that an operator asked something for."""

    target: str
    status: Reply
    message: str = ""
    episode_id: str = ""


@dataclass(frozen=True, slots=True)
class Marker:
    """A touch file that is served, told by inode and time from one that is dropped at the same path later.

    ``through`` is the last recording of a folder that was dealt with, in the order of their paths; None: all were.
    ``said``: somebody was told that it can't be removed.
    """

    path: str
    inode: int
    mtime_ns: int
    through: str | None = None
    said: bool = False


@dataclass(frozen=True, slots=True)
class Absences:
    """Which documents are of recordings that are no longer on the disk, and since when.

    Time is counted in days on which the agent could look; ``day`` is the number of the last one and ``date`` its UTC
    date. ``since`` maps the ids of those documents to such days; it may hold ids of documents that are forgotten.
    """

    day: int = 0
    date: str = ""
    since: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Upgrade:
    """The version of the agent that runs on this history, and the one before it, "" for one that told nobody.

    ``again`` holds the ids of the documents that had failed for good by then and get another try by this version.
    """

    version: str
    before: str = ""
    again: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class SyncLog:
    """One document of the history: one attempt chain of one recording. Times are :func:`utc_text`.

    ``owner`` is the uid of the user whose file was sent. It is None in documents of 0.1.0, and where
    parts may come from files of several users.
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
    phase: Phase = ""
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
    bucket: str = ""
    object_key: str = ""
    etag: str = ""
    checksum: str = ""
    logical_upload_id: str = ""
    upload_id: str = ""
    multipart_upload_id: str = ""
    part_size_bytes: int = 0
    part_count: int = 0
    bytes_sent: int = 0
    duration_seconds: float = 0.0
    credential_refreshes: int = 0
    restarts: int = 0
    source_deleted: bool = False
    ahead: int = 0  # above 0: asked to go before the queue, the highest first
    # New fields stand behind all others: 0.1.0 passes over fields that it does not know.
    owner: int | None = None

    @property
    def open(self) -> bool:
        """Whether something may still happen to it."""
        return self.status in ("pending", "in_progress") or (
            self.status == "failed" and self.next_retry_at is not None
        )

    @property
    def synced(self) -> bool:
        """Whether it says that the recording is in the bucket."""
        return self.status == "completed"

    def forget_session(self) -> SyncLog:
        """The same document without its session: the next claim opens a new one."""
        return replace(self, **NO_SESSION)


NO_SESSION: Mapping[str, Any] = {
    "phase": "",
    "logical_upload_id": "",
    "upload_id": "",
    "multipart_upload_id": "",
    "bucket": "",
    "object_key": "",
    "etag": "",
    "checksum": "",
    "part_size_bytes": 0,
    "part_count": 0,
}
