"""Bucket mode: a gateway that is no server. Sessions are keys in a bucket, and a manifest announces what is stored.

A session's ids name its place, ``s3://BUCKET/KEY``, so that nothing needs to be remembered between two calls. How far
a session has come is what the store says of its multipart: recovery always asks to continue, and an upload that finds
its multipart gone looks for the object itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from agent.files.below_root import open_regular_file, opened_folder, root_of
from agent.model.digests import same_etag
from agent.model.errors import CloudError, RecordingError
from agent.model.object_key import MANIFEST, is_spare, object_key, spare_key
from agent.model.ports import Clock, History, ObjectStore, StorageKeys, Target
from agent.model.sync_log import SyncLog
from agent.model.transfer import MAX_PARTS, StoredObject
from agent.model.values import (
    AccessToken,
    CredentialLease,
    DeviceProfile,
    Grant,
    Recovery,
    UploadSession,
    utc_text,
)

_log = logging.getLogger(__name__)

_MIB = 1024 * 1024
_MANY_PARTS = 128  # 1 GiB at 8 MiB: half as many cost robot and store a sixth less
_DOUBLINGS = 2  # at most: what a cut makes the agent send again grows with a part
_LARGEST_PART = 5 * 1024 * _MIB  # of S3
_SCHEMA = 1  # of the manifest
_LONGEST_KEY = 1024 - len(MANIFEST) - len("-01234567")  # bytes; S3 takes 1024
_LARGEST_MANIFEST = 4 * _MIB
_LARGEST_METADATA = 16 * _MIB
_BAG_METADATA = "metadata.yaml"  # what rosbag2 calls it
_REMEMBERED = 1000  # keys just given; more than uploads can be between their first call and their durable session
_FORBIDDEN = frozenset({"AccessDenied", "HTTP_403", "MethodNotAllowed", "NotImplemented"})


class BucketGateway:
    """Implements ``ports.Gateway`` on a bucket that this robot has keys to."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        keys: StorageKeys,
        history: History,
        clock: Clock,
        endpoint: str,
        name: str,
        region: str,
        template: str,
        part_size: int,
        roots: Sequence[Path],
        follow_symlinks: bool = False,
    ) -> None:
        """Ask for nothing yet.

        Args:
            store: Holds the bucket.
            keys: Where leases come from.
            history: Tells which keys earlier and other documents have.
            clock: Dates the manifests.
            endpoint: Of the store.
            name: Of the bucket.
            region: "" where the endpoint says enough.
            template: bucket.key.
            part_size: Bytes; grown for files that would have too many parts.
            roots: The watched folders.
            follow_symlinks: Whether links below them are followed.
        """
        self._store = store
        self._keys = keys
        self._history = history
        self._clock = clock
        self._endpoint = endpoint
        self._name = name
        self._region = region
        self._template = template
        self._part_size = part_size
        self._roots = roots
        self._follow_symlinks = follow_symlinks
        self._lock = threading.Lock()
        self._given: OrderedDict[str, str] = (
            OrderedDict()
        )  # key → fingerprint, until the history has it

    # -- the gateway

    def exchange(self, profile: DeviceProfile) -> AccessToken:
        """Nobody asks for a token here."""
        del profile
        return AccessToken("", float("inf"))

    def create(
        self, profile: DeviceProfile, token: AccessToken, log: SyncLog, restart_from: str = ""
    ) -> Grant:
        """Choose the key. It is asked for nothing but that, so a call whose answer was lost leaves nothing behind."""
        del profile, token, restart_from
        with _called("CreateLogicalUpload"):
            lease = self._keys.lease()
            key = self._choose(log, lease)
            return Grant(self._session(key, _grown(self._part_size, log.file_size)), lease)

    def reissue(self, profile: DeviceProfile, token: AccessToken, upload_id: str) -> Grant:
        """Fresh keys for the same place."""
        del profile, token
        call = "ReissueUploadCredentials"
        with _called(call):
            return Grant(
                self._session(self._key_in(upload_id, call), self._part_size), self._keys.lease()
            )

    def recover(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str
    ) -> Recovery:
        """Always to be continued, unless it was begun in another bucket or on a platform."""
        del profile, token
        self._key_in(logical_upload_id, "GetUploadRecovery")
        return Recovery(logical_upload_id, logical_upload_id, "active", "continue", 0, "", "")

    def abort(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str, reason: str
    ) -> None:
        """Nobody keeps sessions here."""

    def complete(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> None:
        """Put what belongs to the recording beside it; last its manifest, which announces it."""
        del profile, token
        with _called("CompleteUpload"):
            lease = self._keys.lease()
            self._put_bag_metadata(log, lease)
            with self._at(log.object_key + MANIFEST, lease) as target:
                target.put(_manifest(log, self._clock.now()), "application/json")

    def stored(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> bool:
        """Whether that object lies under its key now."""
        del profile, token
        with _called("HeadObject"):
            key, lease = self._key_in(log.logical_upload_id, "HeadObject"), self._keys.lease()
            with self._at(key, lease) as target:
                found = target.stat()
        return found is not None and found.size == log.file_size and same_etag(found.etag, log.etag)

    def rest(self) -> None:
        """Connections are the store's."""

    def close(self) -> None:
        """Connections are the store's."""

    # -- keys

    def _choose(self, log: SyncLog, lease: CredentialLease) -> str:
        """The first of its keys that is free or holds this recording already, else a spare one of its own.

        A key that the recording had before comes first: a resync replaces what it once stored.
        """
        fingerprint8 = log.fingerprint.partition("-")[2][:8]
        wanted = object_key(self._template, log, self._roots)
        if len(wanted.encode()) > _LONGEST_KEY:
            raise CloudError(
                "CreateLogicalUpload", "INVALID_ARGUMENT", f"the key has over {_LONGEST_KEY} bytes"
            )
        before = [
            old
            for old in self._history.of_episode(log.episode_id)
            if old.fingerprint == log.fingerprint and old.bucket == self._name and old.object_key
        ]
        had = list(dict.fromkeys(old.object_key for old in before))
        for key in dict.fromkeys([*had, wanted]):
            if not self._reserve(key, log):
                continue
            try:
                with self._at(key, lease) as target:
                    found = target.stat()
            except CloudError as error:
                if error.code not in _FORBIDDEN:
                    raise
                break  # where nobody may look, no key is known to be free
            if found is None or self._is_own(found, key, log, before, lease):
                return key
        return next(
            (key for key in had if is_spare(key, fingerprint8)), spare_key(wanted, fingerprint8)
        )

    def _reserve(self, key: str, log: SyncLog) -> bool:
        """Whether no other recording of this robot is on its way to that key; from now on none will be."""
        with self._lock:
            others = (
                other.fingerprint for other in self._history.open() if other.object_key == key
            )
            if any(
                fingerprint != log.fingerprint
                for fingerprint in (*others, self._given.get(key, log.fingerprint))
            ):
                return False
            self._given[key] = log.fingerprint
            self._given.move_to_end(key)
            if len(self._given) > _REMEMBERED:
                self._given.popitem(last=False)
            return True

    def _is_own(
        self,
        found: StoredObject,
        key: str,
        log: SyncLog,
        before: Sequence[SyncLog],
        lease: CredentialLease,
    ) -> bool:
        """Whether what lies there is this recording: by the history, else by the manifest beside it."""
        if any(old.object_key == key and same_etag(old.etag, found.etag) for old in before):
            return True
        with self._at(key + MANIFEST, lease) as target:
            told = _object(target.read(_LARGEST_MANIFEST))
        return told.get("fingerprint") == log.fingerprint and same_etag(
            str(told.get("etag", "")), found.etag
        )

    def _session(self, key: str, part_size: int) -> UploadSession:
        place = f"s3://{self._name}/{key}"
        return UploadSession(place, place, self._name, self._endpoint, key, self._region, part_size)

    def _key_in(self, place: str, call: str) -> str:
        head = f"s3://{self._name}/"
        if not place.startswith(head):
            raise CloudError(
                call, "UPLOAD_NOT_FOUND", f"{place} is no place in bucket {self._name}"
            )
        return place.removeprefix(head)

    @contextmanager
    def _at(self, key: str, lease: CredentialLease) -> Iterator[Target]:
        with closing(self._store.at(self._session(key, self._part_size), lambda: lease)) as target:
            yield target

    # -- what goes with a recording

    def _put_bag_metadata(self, log: SyncLog, lease: CredentialLease) -> None:
        """A bag's metadata.yaml goes beside its splits; another bag's there is not overwritten."""
        data = self._bag_metadata(Path(log.path).with_name(_BAG_METADATA))
        if data is None:
            return
        key = log.object_key[: log.object_key.rfind("/") + 1] + _BAG_METADATA
        with self._at(key, lease) as target:
            try:
                there = target.read(len(data) + 1)
            except CloudError as error:
                if error.code not in _FORBIDDEN:
                    raise
                there = b""
            if there is None:
                target.put(data, "application/yaml")
            elif there != data:
                with self._at(spare_key(key, hashlib.sha256(data).hexdigest()[:8]), lease) as spare:
                    spare.put(data, "application/yaml")

    def _bag_metadata(self, path: Path) -> bytes | None:
        """Return what the file says; None where there is none that can be sent.

        A link there could lead to any file that the agent can read, its own keys among them.
        """
        root = root_of(path, self._roots)
        if root is None:
            return None
        try:
            with opened_folder(path.parent, root, follow_symlinks=self._follow_symlinks) as folder:
                descriptor = open_regular_file(path, folder, follow_symlinks=self._follow_symlinks)
            with os.fdopen(descriptor, "rb") as file:
                if os.fstat(descriptor).st_size <= _LARGEST_METADATA:
                    return file.read(_LARGEST_METADATA)
            why = "it is too large"
        except FileNotFoundError:
            return None
        except RecordingError as error:
            why = error.message
        except OSError as error:
            why = error.strerror or "it can't be read"
        _log.warning(
            "%s is not sent: %s", path, why, extra={"event": "bag_metadata", "path": str(path)}
        )
        return None


class AnyAsset(Mapping[str, DeviceProfile]):
    """A profile for whatever asset id: without a platform there is nothing that one could lack."""

    def __getitem__(self, asset_id: str) -> DeviceProfile:
        return DeviceProfile(asset_id, "", {}, "", "")

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


class NoProfiles:
    """Implements ``ports.Profiles`` where there is no platform."""

    def load(self) -> Mapping[str, DeviceProfile]:
        """A profile for every asset id, "" among them."""
        return AnyAsset()


@contextmanager
def _called(call: str) -> Iterator[None]:
    """Let what fails inside count as that call: the gate opens by its success."""
    try:
        yield
    except CloudError as error:
        error.call = call
        raise


def _grown(part_size: int, size: int) -> int:
    """``part_size``, doubled while there would be many, or the next whole MiB with which MAX_PARTS parts suffice."""
    wanted = part_size
    for _ in range(_DOUBLINGS):
        if size >= _MANY_PARTS * wanted:
            wanted = min(2 * wanted, _LARGEST_PART)
    least = -(-size // MAX_PARTS)
    return wanted if wanted >= least else -(-least // _MIB) * _MIB


def _manifest(log: SyncLog, now: float) -> bytes:
    told = {
        "schema": _SCHEMA,
        "key": log.object_key,
        "size": log.file_size,
        "etag": log.etag,
        "checksum": log.checksum,
        "part_size_bytes": log.part_size_bytes,
        "fingerprint": log.fingerprint,
        "device_id": log.device_id,
        "asset_id": log.asset_id,
        "episode_id": log.episode_id,
        "tags": dict(log.raw_tags),
        "uploaded_at": utc_text(now),
    }
    return json.dumps(told, indent=2).encode()


def _object(data: bytes | None) -> Mapping[str, object]:
    """The JSON object in ``data``; an empty one where there is none."""
    try:
        told = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
