"""Frozen values that describe recordings, profiles of devices and upload sessions.

Values of the history are in ``agent.model.sync_log``, values of the transfer of bytes in
``agent.model.transfer``.

Sizes are bytes. Durations and monotonic times are seconds. Times that people and other programs
read are UTC, written as ISO 8601 text that ends with ``Z``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from agent.model.mcap_tail import Tail

Action = Literal["continue", "complete_only", "restart", "abort", "unspecified"]
Stage = Literal["active", "completing", "completed", "terminal", "unspecified"]
Ask = Literal["resync", "first"]
Reply = Literal["accepted", "already_queued", "not_found", "rejected"]

# The first and the last second that ISO 8601 text can say, as seconds since 1970. File systems
# know earlier and later times.
_YEAR_1_SECONDS = -62_135_596_800.0
_YEAR_9999_SECONDS = 253_402_300_799.0


def utc_text(seconds: float) -> str:
    """Return the time ``seconds`` after 1970 as ISO 8601 text with milliseconds and ``Z``.

    Times before the year 1 or after the year 9999 become the first or the last second of this
    range.
    """
    moment = datetime.fromtimestamp(
        min(max(seconds, _YEAR_1_SECONDS), _YEAR_9999_SECONDS), tz=timezone.utc
    )
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def utc_seconds(text: str) -> float:
    """Return the seconds since 1970 that ``text`` of :func:`utc_text` stands for.

    Raises ValueError if ``text`` is no such time.
    """
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@dataclass(frozen=True, slots=True)
class Sighting:
    """A notification that something happened at a path, or somewhere below a folder.

    A sighting is only a hint. It does not prove that a file is there.
    """

    path: Path


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The identity of a recording's bytes.

    It is the size and the SHA-256 of the first, the middle and the last 64 KiB. ``sha256`` has 64
    lower-case hexadecimal digits.
    """

    size: int
    sha256: str

    def __str__(self) -> str:
        return f"{self.size}-{self.sha256}"

    @property
    def short(self) -> str:
        """The first 8 hexadecimal digits of the digest, for names."""
        return self.sha256[:8]


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The ``.json`` file beside a recording.

    ``content`` is None if the file holds no JSON object, or if the agent has no right to read it.
    Then ``fault`` says why, and ``readable`` which of the two it is.
    """

    path: Path
    sha256: str
    content: Mapping[str, Any] | None
    fault: str = ""
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished MCAP on this robot's disk, as the file was when the agent last examined it.

    ``own_tags`` say how complete the file is: ``compression`` and ``mcap_complete``. ``owner`` is
    the uid of the file's owner, or None if it is not known.
    """

    path: Path
    root: Path
    fingerprint: Fingerprint
    mtime_ns: int
    device: int
    inode: int
    tail: Tail
    sidecar: Sidecar | None = None
    own_tags: Mapping[str, str] = field(default_factory=dict)
    owner: int | None = None

    @property
    def size(self) -> int:
        """The size of the file in bytes."""
        return self.fingerprint.size

    @property
    def sidecar_sha256(self) -> str:
        """The SHA-256 of the sidecar's bytes, or "" if there is no sidecar."""
        return self.sidecar.sha256 if self.sidecar else ""


@dataclass(frozen=True, slots=True)
class Damaged:
    """A file that can never become a recording, and the reason."""

    path: Path
    fingerprint: Fingerprint
    mtime_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What the platform gave one asset id: its API key, its tags and the addresses to call."""

    asset_id: str
    api_key: str = field(repr=False)
    tags: Mapping[str, str]
    auth: str
    gateway: str

    @property
    def ready(self) -> bool:
        """Whether the device may upload.

        The platform demands a key, at least one tag, and no tag whose name is empty.
        """
        return bool(self.api_key and self.tags) and "" not in self.tags


@dataclass(frozen=True, slots=True)
class Enrolled:
    """The platform's answer to a device that enrols: an API key and tags.

    The platform tells a key only once.
    """

    api_key: str = field(repr=False)
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """The proof of one device's identity that each call to the gateway carries.

    ``expires_at`` is on the platform's wall clock, in seconds since 1970.
    """

    value: str = field(repr=False)
    expires_at: float


# A lease is refreshed when a quarter of its life is left, but never earlier and never later than
# these bounds say.
_LEASE_MARGIN_MIN_SECONDS = 30.0
_LEASE_MARGIN_MAX_SECONDS = 330.0


@dataclass(frozen=True, slots=True)
class CredentialLease:
    """Storage keys that are valid for a limited time.

    ``expires_at`` is on the platform's wall clock, in seconds since 1970. ``life`` and ``deadline``
    are set when the lease arrives, in seconds of the monotonic clock, if the local clock can be
    trusted. A lease without a deadline ends when the store refuses it.
    """

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    expires_at: float
    life: float = 0.0
    deadline: float | None = None

    def due(self, now: float) -> bool:
        """Return whether the lease should be refreshed at the monotonic time ``now``.

        That is when a quarter of its life is left, but at least 30 and at most 330 seconds before
        its end. A lease with a short life is refreshed after half of its life.
        """
        if self.deadline is None:
            return False
        quarter = min(_LEASE_MARGIN_MAX_SECONDS, self.life / 4)
        margin = min(max(_LEASE_MARGIN_MIN_SECONDS, quarter), self.life / 2)
        return self.deadline - now <= margin

    def usable(self, now: float) -> bool:
        """Return whether a request may still be signed at the monotonic time ``now``."""
        return self.deadline is None or now < self.deadline


@dataclass(frozen=True, slots=True)
class UploadSession:
    """The gateway's permission to store one recording under one key, in parts of one size.

    ``part_size_bytes`` is above 0.
    """

    logical_upload_id: str
    upload_id: str
    bucket: str
    endpoint: str
    object_key: str
    region: str
    part_size_bytes: int


@dataclass(frozen=True, slots=True)
class Grant:
    """An upload session together with the storage keys that were issued for it."""

    session: UploadSession
    lease: CredentialLease


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the gateway knows of an upload session, and what the agent should do next."""

    logical_upload_id: str
    upload_id: str
    stage: Stage
    action: Action
    part_count: int
    etag: str
    reason: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an operator's request for one target.

    ``target`` is a path, a folder or an episode id.
    """

    target: str
    status: Reply
    message: str = ""
    episode_id: str = ""
