"""The seams between what decides (flow) and what touches the world (edges).

Each docstring is the contract: what may raise, what may be repeated, who closes. One contract suite per seam in
``tests/contracts`` runs against the fake and every real part alike. All methods may be called from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from agent.model.states import Event
from agent.model.values import (
    Absences,
    AccessToken,
    Answer,
    CredentialLease,
    DeviceProfile,
    Enrolled,
    Grant,
    Marker,
    Orphan,
    Part,
    Recovery,
    SentPart,
    Status,
    StoredObject,
    SyncLog,
    Transfer,
    Upgrade,
    UploadSession,
)


class Clock(Protocol):
    """Two clocks: one that only goes forward and decides, one that people read."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back, goes on while the robot sleeps."""
        ...

    def now(self) -> float:
        """Wall clock, seconds since 1970; may be wrong and may jump."""
        ...

    def wait(self, seconds: float) -> None:
        """Let ``seconds`` pass. For the short pauses between tries within one upload only."""
        ...


class Profiles(Protocol):
    """The device profile file of the platform."""

    def load(self) -> Mapping[str, DeviceProfile]:
        """The profiles by asset id, read again when the file changed.

        Raises CloudError("profile_file") when the file is missing, unusable, or readable by others.
        """
        ...


class ProfileKeeper(Profiles, Protocol):
    """The same file, where devices that enrol are written down."""

    def device_init(self) -> str:
        """Where devices enrol, "" where the file does not say. Raises what :meth:`load` raises."""
        ...

    def stamp(self) -> object:
        """Something that changes whenever the file, its place or the right to read it does."""
        ...

    def changing(self) -> AbstractContextManager[None]:
        """Nobody else enrols while the block lasts. Raises OSError, before it begins, where nothing can be written."""
        ...

    def put(self, asset_id: str, enrolled: Enrolled) -> None:
        """Write a device's key and tags; all else in the file stays. Durable on return.

        Raises OSError, and what :meth:`load` raises.
        """
        ...


class DeviceInit(Protocol):
    """The platform's enrolment."""

    def enrol(self, endpoint: str, device_id: str, *, rotate: bool) -> Enrolled:
        """A key for a device that has none; ``rotate``: another one for a device that has, whose old one ends.

        Raises CloudError.
        """
        ...


class Assets(Protocol):
    """Which robot is which asset."""

    def known(self) -> Mapping[str, str]:
        """Robot id to asset id as it is in force; "" is a robot unbound.

        Raises WaitingError("asset_file") when what was left there can't be used.
        """
        ...

    def change(self) -> AbstractContextManager[dict[str, str]]:
        """What operators have bound, to be changed; nobody else changes it meanwhile, and it is durable at the end.

        Raises WaitingError("asset_file") and OSError; nothing has changed then.
        """
        ...


class Gateway(Protocol):
    """The platform's data gateway and token service.

    Every method raises CloudError and nothing else. Each call has a deadline of its own.
    """

    def exchange(self, profile: DeviceProfile) -> AccessToken:
        """Trade the profile's API key for an access token. May be repeated."""
        ...

    def create(
        self, profile: DeviceProfile, token: AccessToken, log: SyncLog, restart_from: str = ""
    ) -> Grant:
        """Open a session for what ``log`` describes.

        Not idempotent: after an unknown outcome it is not simply called again.
        """
        ...

    def reissue(self, profile: DeviceProfile, token: AccessToken, upload_id: str) -> Grant:
        """Fresh keys for a running session. May be repeated."""
        ...

    def recover(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str
    ) -> Recovery:
        """How far the session has come. May be repeated. CloudError("UPLOAD_NOT_FOUND") when it is gone."""
        ...

    def abort(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str, reason: str
    ) -> None:
        """Give the session up. May be repeated."""
        ...

    def complete(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> None:
        """Say that the object is stored as ``log`` has it. Idempotent for the same document."""
        ...

    def stored(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> bool:
        """Whether the object of the completed ``log`` is in the bucket now, as the document has it. May be repeated."""
        ...

    def rest(self) -> None:
        """Let go of connections that nobody has used for a while; the next call makes its own. May be repeated."""
        ...

    def close(self) -> None:
        """Let go of connections; calls that still run end with CloudError."""
        ...


class StorageKeys(Protocol):
    """Where the keys to a bucket come from when no gateway issues them."""

    def lease(self) -> CredentialLease:
        """Keys fetched or read anew; without an end where the source names none.

        May be repeated. Raises CloudError: "storage_keys" when the source has none, else what the token service or
        the network said.
        """
        ...


class ObjectStore(Protocol):
    """S3-compatible storage."""

    def at(self, session: UploadSession, lease: Callable[[], CredentialLease]) -> Target:
        """The place of one recording. ``lease`` is asked before each request, so keys may change at any time."""
        ...


class Target(Protocol):
    """One key in one bucket. Methods raise CloudError and GateClosedError; ``send`` also FileChangedError.

    All but ``complete`` may be repeated.
    """

    def begin(self) -> str:
        """Begin a multipart upload and return its id."""
        ...

    def multiparts(self) -> Sequence[str]:
        """Ids of the multipart uploads begun under exactly this key."""
        ...

    def send(self, multipart_id: str, part: Part, descriptor: int, transfer: Transfer) -> SentPart:
        """Send one window of the open file, and return only when the store has proven that it holds those bytes.

        Memory is one small block, whatever the part's size. The bytes go as ``transfer`` grants them.
        CloudError("checksum") when the store holds or saw other bytes; FileChangedError on a short read;
        GateClosedError as soon as ``transfer`` is stopped.
        """
        ...

    def parts(self, multipart_id: str) -> Sequence[SentPart]:
        """The parts the store holds, in order. CloudError("NoSuchUpload") when the multipart is gone."""
        ...

    def matches(self, sent: SentPart, part: Part, descriptor: int) -> bool:
        """Whether a part listed by the store holds the bytes of that window: by its checksum, else by MD5."""
        ...

    def complete(self, multipart_id: str, parts: Sequence[SentPart]) -> StoredObject:
        """Join the parts, and prove the whole from the store's answer and the parts' own digests.

        CloudError("checksum") when the store joined something else. Not idempotent: after a lost answer ask
        ``stat`` before anything else.
        """
        ...

    def stat(self) -> StoredObject | None:
        """What lies under the key now; None when nothing does."""
        ...

    def holds(self, stored: StoredObject, parts: Sequence[Part], descriptor: int) -> bool:
        """Whether a stored object has the file's bytes, sent in these windows: by its checksum, else its ETag.

        Reads the file once. An object of another size, or whose digests prove nothing, does not count.
        """
        ...

    def abort(self, multipart_id: str) -> None:
        """Give the multipart up; one that is gone already is no error."""
        ...

    def put(self, data: bytes, content_type: str) -> None:
        """Store a small object whole, in the place of what lay there. May be repeated."""
        ...

    def read(self, limit: int) -> bytes | None:
        """The first ``limit`` bytes (above 0) of a small object; None where nothing lies."""
        ...

    def break_off(self) -> None:
        """End all that is under way on other threads, even where a socket is stuck; nothing can begin any more.

        What is ended so, and what is asked for afterwards, raises GateClosedError.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class History(Protocol):
    """The sync log. What a method returned is on the disk: it survives power loss.

    Writers raise HistoryFullError when nothing can be written any more; nothing has changed then. Unknown ids raise
    KeyError, forbidden moves IllegalMoveError. Documents come as frozen values; ids go up and are never reused.
    """

    def add(self, log: SyncLog) -> SyncLog:
        """Write a new document; its ``id`` is ignored and given here."""
        ...

    def move(self, id_: int, event: Event, **changes: Any) -> SyncLog:
        """Change a status through the state table (``agent.model.states.move``)."""
        ...

    def amend(self, id_: int, **changes: Any) -> SyncLog:
        """Change other fields of a document that has not ended."""
        ...

    def transaction(self) -> AbstractContextManager[None]:
        """All writes of this thread inside become durable together, when the block ends; all or none."""
        ...

    def owe(self, debt: Orphan) -> None:
        """Remember what is still to be given up; its ``id`` is ignored and given here."""
        ...

    def debts(self) -> Sequence[Orphan]:
        """What is owed, oldest first."""
        ...

    def settle(self, debt_id: int) -> None:
        """Forget a debt that is paid or can't be paid any more; one that is gone already is no error."""
        ...

    def mark_served(self, marker: Marker) -> None:
        """Remember how far ``marker`` is served, in the place of what was remembered of its path."""
        ...

    def marker(self, path: str) -> Marker | None:
        """What is remembered of the marker at ``path``."""
        ...

    def known_markers(self) -> Sequence[Marker]:
        """All that is remembered of markers: those still there though they are served, or half served."""
        ...

    def forget_marker(self, path: str) -> None:
        """The marker at ``path`` is gone; one that is unknown is no error."""
        ...

    def forget(self, fingerprints: Sequence[str]) -> int:
        """Remove all documents of these recordings, and return how many; what was uploaded stays :meth:`synced`.

        A recording to which something may still happen keeps all of its documents.
        """
        ...

    def absences(self) -> Absences:
        """Whose recordings are no longer on the disk, as noted last."""
        ...

    def note_absences(self, absences: Absences) -> None:
        """Replace what :meth:`absences` tells."""
        ...

    def upgrade(self) -> Upgrade | None:
        """The version that runs on this history, as noted last."""
        ...

    def note_upgrade(self, upgrade: Upgrade) -> None:
        """Replace what :meth:`upgrade` tells."""
        ...

    def get(self, id_: int) -> SyncLog:
        """One document."""
        ...

    def newest(self, fingerprint: str) -> SyncLog | None:
        """The live document of these bytes: the newest one. Costs no scan."""
        ...

    def synced(self, fingerprint: str) -> bool:
        """Whether these bytes were ever uploaded, also by documents that are forgotten. Costs no scan."""
        ...

    def open(self) -> Sequence[SyncLog]:
        """Documents to which something may still happen, oldest id first, from memory."""
        ...

    def at_path(self, path: Path) -> Sequence[SyncLog]:
        """Documents queued from this path, newest first. Costs no scan."""
        ...

    def of_episode(self, episode_id: str) -> Sequence[SyncLog]:
        """Documents of this episode, newest first. Costs no scan."""
        ...

    def newest_first(self, status: Status | None = None) -> Iterator[SyncLog]:
        """All documents, or all with this status; read one by one."""
        ...

    def counts(self) -> Mapping[Status, int]:
        """How many documents stand in each status. Costs no scan."""
        ...

    def changes(self) -> int:
        """Another number after each write: while it is the same, whatever was read of the history still holds."""
        ...

    def room(self) -> bool:
        """Whether the room set aside for a full disk is still there in full."""
        ...

    def damage(self) -> int:
        """Bad lines that were set aside when the history was opened."""
        ...

    def close(self) -> None:
        """Let go of the files. Nothing else may be called afterwards."""
        ...


class Operator(Protocol):
    """What the commands ask of a running agent. What a method returned is durable."""

    def status(self) -> Mapping[str, Any]:
        """What ``status --json`` shows of the agent; JSON."""
        ...

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        """Upload these recordings again: absolute paths of files or folders, or episode ids."""
        ...

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Try again all that failed, with this error code where it is not ""."""
        ...

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        """Put these ahead of the queue, the last named one last."""
        ...

    def pause(self) -> None:
        """Start no new part until :meth:`resume`, also after a restart."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...

    def rescan(self) -> None:
        """Look at everything now."""
        ...

    def assets(self) -> Mapping[str, str]:
        """Robot id to asset id as it is in force; "" is a robot unbound."""
        ...

    def set_asset(self, robot: str, asset: str) -> None:
        """Bind a robot to an asset. Raises AgentError when that is refused."""
        ...

    def unset_asset(self, robot: str) -> None:
        """Leave the robot known but unbound."""
        ...
