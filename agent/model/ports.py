"""The ports: what the features of the agent need of the outside world.

Each docstring is the contract. It says what a method raises, whether a call may be repeated, and
who closes what. For each port there is one contract suite in ``tests/contracts``, which runs on the
fake and on every real part. Any thread may call any method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from agent.model.history_ports import (
    Expiry,
    HistoryFiles,
    Orphans,
    ServedMarkers,
    SyncLogs,
    VersionNotes,
)
from agent.model.sync_log import SyncLog
from agent.model.transfer import Part, SentPart, StoredObject, Transfer
from agent.model.values import (
    AccessToken,
    Answer,
    CredentialLease,
    DeviceProfile,
    Enrolled,
    Grant,
    Recovery,
    UploadSession,
)


class Clock(Protocol):
    """Two clocks: a monotonic one for all decisions, and the wall clock for people."""

    def monotonic(self) -> float:
        """Return the seconds since some moment. They never go back, and count while suspended."""
        ...

    def now(self) -> float:
        """Return the wall clock in seconds since 1970. It may be wrong and may jump."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait ``seconds``. Only for the short pauses between the tries within one upload."""
        ...

    def stop(self) -> None:
        """End all waiting. After this :meth:`wait` returns at once."""
        ...


class JobScheduler(Protocol):
    """Runs jobs again and again."""

    @property
    def running(self) -> bool:
        """Whether the scheduler runs jobs."""
        ...

    def set(self, jobs: Iterable[tuple[Callable[[], Any], float]]) -> None:
        """Run these jobs from now on, and no others.

        ``jobs`` are functions with the seconds between their runs. No job runs beside itself. A job
        that replaces another one of the same qualified name does not run beside that one.
        """
        ...

    def start(self) -> None:
        """Begin to run the jobs."""
        ...

    def stop(self) -> None:
        """Run no more jobs. A job that is running is not waited for."""
        ...

    def pull_back(self) -> None:
        """Run those jobs now whose next run lies too far ahead because the clock was set back."""
        ...


class Profiles(Protocol):
    """Reads the platform's device profile file."""

    def load(self) -> Mapping[str, DeviceProfile]:
        """Return the profiles by asset id. The file is read again when it has changed.

        Raises CloudError("profile_file") if the file is missing, unusable or readable by others.
        """
        ...


class ProfileKeeper(Profiles, Protocol):
    """Reads the device profile file, and writes devices into it that enrol."""

    def device_init(self) -> str:
        """Return the address at which devices enrol, or "" if the file names none.

        Raises what :meth:`load` raises.
        """
        ...

    def stamp(self) -> object:
        """Return a value that changes when the file, its path or the right to read it changes."""
        ...

    def changing(self) -> AbstractContextManager[None]:
        """Keep every other process from enrolling while the block lasts.

        Raises OSError, before the block begins, if the file cannot be written.
        """
        ...

    def put(self, asset_id: str, enrolled: Enrolled) -> None:
        """Write a device's key and tags, and keep everything else in the file.

        The file is durable on return. Raises OSError, and what :meth:`load` raises.
        """
        ...


class DeviceInit(Protocol):
    """The platform's service for enrolment."""

    def enrol(self, endpoint: str, device_id: str, *, rotate: bool) -> Enrolled:
        """Return a key for a device that has none.

        With ``rotate`` the device has a key already. It gets a new one, and the old one becomes
        invalid. Raises CloudError.
        """
        ...


class Assets(Protocol):
    """Which robot is which asset of the platform."""

    def known(self) -> Mapping[str, str]:
        """Return the asset id in force for each robot id. "" stands for a robot without an asset.

        Raises WaitingError("asset_file") if the file of the bindings cannot be used.
        """
        ...

    def change(self) -> AbstractContextManager[dict[str, str]]:
        """Give the operators' bindings to the block to be changed.

        No other process changes them while the block lasts. The change is durable at its end.
        Raises WaitingError("asset_file") and OSError. Then nothing has changed.
        """
        ...


class Gateway(Protocol):
    """The platform's data gateway and token service.

    Every method raises CloudError and nothing else. Each call has its own deadline.
    """

    def exchange(self, profile: DeviceProfile) -> AccessToken:
        """Return an access token for the profile's API key. May be repeated."""
        ...

    def create(
        self, profile: DeviceProfile, token: AccessToken, log: SyncLog, restart_from: str = ""
    ) -> Grant:
        """Open an upload session for what ``log`` describes.

        The call is not idempotent. It must not simply be repeated if its outcome is unknown.
        """
        ...

    def reissue(self, profile: DeviceProfile, token: AccessToken, upload_id: str) -> Grant:
        """Return new storage keys for a running session. May be repeated."""
        ...

    def recover(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str
    ) -> Recovery:
        """Return how far the session has come. May be repeated.

        Raises CloudError("UPLOAD_NOT_FOUND") if the platform does not know the session.
        """
        ...

    def abort(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str, reason: str
    ) -> None:
        """Give the session up. May be repeated."""
        ...

    def complete(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> None:
        """Report that the object is stored as ``log`` says. Idempotent for the same document."""
        ...

    def stored(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> bool:
        """Return whether the bucket holds the object of the completed ``log`` now, unchanged.

        May be repeated.
        """
        ...

    def rest(self) -> None:
        """Close connections that were not used for a while. May be repeated.

        The next call opens a new connection.
        """
        ...

    def close(self) -> None:
        """Close all connections. Calls that still run end with CloudError."""
        ...


class StorageKeys(Protocol):
    """The source of the keys to a bucket if no gateway issues them."""

    def lease(self) -> CredentialLease:
        """Fetch or read the keys anew. The lease has no end if the source names none.

        May be repeated. Raises CloudError("storage_keys") if the source has no keys, otherwise the
        error of the token service or of the network.
        """
        ...

    def stamp(self) -> object:
        """Return a value that changes when the file of the keys changes; None for no file."""
        ...


class ObjectStore(Protocol):
    """S3-compatible storage."""

    @property
    def endpoint(self) -> str:
        """The address of the store that was used last, or "" before the first use."""
        ...

    @property
    def offset(self) -> float | None:
        """By how many seconds the store's clock is ahead of the local one, or None if unknown."""
        ...

    def at(self, session: UploadSession, lease: Callable[[], CredentialLease]) -> Target:
        """Return the target of one recording.

        ``lease`` is called before each request, so the keys may change at any time.
        """
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class Target(Protocol):
    """One key in one bucket.

    Methods raise CloudError and GateClosedError. ``send`` also raises FileChangedError. All methods
    except ``complete`` may be repeated.
    """

    def begin(self) -> str:
        """Begin a multipart upload and return its id."""
        ...

    def multiparts(self) -> Sequence[str]:
        """Return the ids of the multipart uploads begun under exactly this key."""
        ...

    def send(self, multipart_id: str, part: Part, descriptor: int, transfer: Transfer) -> SentPart:
        """Send one part of the open file, and return when the store has proven that it holds it.

        The method needs the memory of one small block, whatever the size of the part. It sends
        bytes as ``transfer`` grants them.

        Raises:
            CloudError: "checksum" if the store holds or received other bytes.
            FileChangedError: The file ended before the part did.
            GateClosedError: ``transfer`` was stopped.
        """
        ...

    def parts(self, multipart_id: str) -> Sequence[SentPart]:
        """Return the parts that the store holds, in order.

        Raises CloudError("NoSuchUpload") if the multipart upload does not exist.
        """
        ...

    def matches(self, sent: SentPart, part: Part, descriptor: int) -> bool:
        """Return whether a part listed by the store holds the bytes of that part of the file.

        The checksum decides, or the MD5 if there is no checksum.
        """
        ...

    def complete(self, multipart_id: str, parts: Sequence[SentPart]) -> StoredObject:
        """Join the parts, and prove the object from the store's answer and the parts' digests.

        The call is not idempotent. After a lost answer, call ``stat`` before anything else.
        Raises CloudError("checksum") if the store joined something else.
        """
        ...

    def stat(self) -> StoredObject | None:
        """Return what is stored under the key now, or None if nothing is."""
        ...

    def holds(self, stored: StoredObject, parts: Sequence[Part], descriptor: int) -> bool:
        """Return whether a stored object has the bytes of the file, sent in these parts.

        The checksum decides, or the ETag if there is no checksum. The file is read once. The answer
        is no for an object of another size, and for one whose digests prove nothing.
        """
        ...

    def abort(self, multipart_id: str) -> None:
        """Abort the multipart upload. One that does not exist is no error."""
        ...

    def put(self, data: bytes, content_type: str) -> None:
        """Store a small object as a whole. It replaces what was stored before."""
        ...

    def read(self, limit: int) -> bytes | None:
        """Return the first ``limit`` bytes (above 0) of a small object, None if there is none."""
        ...

    def break_off(self) -> None:
        """End all requests of other threads, even on a socket that hangs, and allow no new ones.

        Requests that were ended or come later raise GateClosedError.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class History(SyncLogs, Orphans, ServedMarkers, Expiry, VersionNotes, HistoryFiles, Protocol):
    """The history as a whole: all groups of its tables.

    The rules of all groups are in ``agent.model.history_ports``.
    """


class Operator(Protocol):
    """What commands may ask a running agent to do. What a method did is durable on return."""

    def status(self) -> Mapping[str, Any]:
        """Return the agent's part of ``status --json``, as JSON."""
        ...

    def resync(self, targets: Sequence[str], reason: str) -> Sequence[Answer]:
        """Upload these recordings again: absolute paths of files or folders, or episode ids."""
        ...

    def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
        """Try all failed recordings again, or those with the error ``code`` if it is not ""."""
        ...

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        """Put these recordings ahead of the queue, in the order in which they are named."""
        ...

    def pause(self) -> None:
        """Start no new part until :meth:`resume` is called, also after a restart."""
        ...

    def resume(self) -> None:
        """End the pause."""
        ...

    def rescan(self) -> None:
        """Scan all watched folders now."""
        ...

    def assets(self) -> Mapping[str, str]:
        """Return the asset id in force for each robot id, "" for a robot without an asset."""
        ...

    def set_asset(self, robot: str, asset: str) -> None:
        """Bind a robot to an asset. Raises AgentError if the binding is refused."""
        ...

    def unset_asset(self, robot: str) -> None:
        """Remove the asset of a robot. The robot stays in the list."""
        ...
