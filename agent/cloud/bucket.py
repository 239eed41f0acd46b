"""Bucket mode: a gateway without a server.

An upload session is a key in a bucket, and a manifest beside the object announces that it is
stored. The ids of a session are its place, ``s3://BUCKET/KEY``, so nothing needs to be remembered
between two calls. The store knows how far a session has come: recovery always says "continue", and
an upload whose multipart upload is gone checks the object itself.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from agent.files.bag_metadata import BAG_METADATA, open_bag_metadata
from agent.files.below_root import opened_folder, root_of
from agent.files.reading import reading
from agent.model.digests import same_etag
from agent.model.errors import CloudError, RecordingError
from agent.model.object_key import MANIFEST, is_spare, object_key, spare_key
from agent.model.ports import Clock, History, ObjectStore, StorageKeys, Target
from agent.model.sync_log import DocumentSession, SyncLog
from agent.model.transfer import S3_MAX_PARTS, StoredObject
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

# From this number of parts on, larger parts are used. 128 parts of 8 MiB are 1 GiB; half as many
# parts cost robot and store a sixth less.
_MANY_PARTS = 128

# How often the size of a part is doubled at most. After a cut connection a whole part is sent
# again, so parts must not be too large.
_DOUBLINGS = 2

# The largest part that S3 allows.
_PART_MAX_BYTES = 5 * 1024 * _MIB

_MANIFEST_SCHEMA = 1

_MANIFEST_MAX_BYTES = 4 * _MIB

# How many keys that were just chosen are remembered. It is more than there can be uploads between
# their first call and their session in the history.
_CHOSEN_KEYS = 1000


class BucketGateway:
    """Implements ``ports.Gateway`` on a bucket for which this robot has keys.

    Any thread may call the methods.
    """

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
        """Join the parts.

        Args:
            store: Has the bucket.
            keys: Gives leases.
            history: Knows the object keys of earlier and other documents.
            clock: Dates the manifests.
            endpoint: The address of the store.
            name: The name of the bucket.
            region: The region of the bucket, "" where the endpoint says enough.
            template: The setting bucket.key.
            part_size: Bytes. It grows for files that would have too many parts.
            roots: The watched folders.
            follow_symlinks: Whether links below the watched folders are followed.
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
        # The fingerprint for each key that was just chosen, until the history has the key.
        self._chosen: OrderedDict[str, str] = OrderedDict()

    # -- the gateway

    def exchange(self, profile: DeviceProfile) -> AccessToken:
        """Return an empty token without an end: a bucket needs none."""
        del profile
        return AccessToken("", float("inf"))

    def create(
        self, profile: DeviceProfile, token: AccessToken, log: SyncLog, restart_from: str = ""
    ) -> Grant:
        """Choose the object key. This changes nothing in the bucket, so it may be repeated."""
        del profile, token, restart_from
        with _called("CreateLogicalUpload"):
            lease = self._keys.lease()
            key = self._choose(log, lease)
            return Grant(self._session(key, _grown(self._part_size, log.file_size)), lease)

    def reissue(self, profile: DeviceProfile, token: AccessToken, upload_id: str) -> Grant:
        """Return fresh keys for the same place."""
        del profile, token
        call = "ReissueUploadCredentials"
        with _called(call):
            return Grant(
                self._session(self._key_in(upload_id, call), self._part_size), self._keys.lease()
            )

    def recover(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str
    ) -> Recovery:
        """Say that the session continues, unless it belongs to another bucket or to a platform."""
        del profile, token
        self._key_in(logical_upload_id, "GetUploadRecovery")
        return Recovery(logical_upload_id, logical_upload_id, "active", "continue", 0, "", "")

    def abort(
        self, profile: DeviceProfile, token: AccessToken, logical_upload_id: str, reason: str
    ) -> None:
        """Do nothing: a bucket keeps no sessions."""

    def complete(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> None:
        """Store what belongs to the recording beside it; last the manifest, which announces it."""
        del profile, token
        with _called("CompleteUpload"):
            lease = self._keys.lease()
            self._put_bag_metadata(log, lease)
            with self._at(log.object_key + MANIFEST, lease) as target:
                target.put(_manifest(log, self._clock.now()), "application/json")

    def stored(self, profile: DeviceProfile, token: AccessToken, log: SyncLog) -> bool:
        """Return whether the object is under its key now, as the document says."""
        del profile, token
        session = log.session
        if session is None:
            return False
        with _called("HeadObject"):
            key = self._key_in(session.logical_upload_id, "HeadObject")
            with self._at(key, self._keys.lease()) as target:
                found = target.stat()
        if found is None or found.size != log.file_size:
            return False
        return same_etag(found.etag, session.etag)

    def rest(self) -> None:
        """Do nothing: the connections belong to the store."""

    def close(self) -> None:
        """Do nothing: the connections belong to the store."""

    def can_revise(self, log: SyncLog) -> bool:
        """Return whether the object of a completed document lies in this bucket."""
        session = log.session
        if session is None or session.part_size_bytes == 0:
            return False
        return session.logical_upload_id == self._session(session.object_key, 1).logical_upload_id

    # -- keys

    def _choose(self, log: SyncLog, lease: CredentialLease) -> str:
        """Return the object key of a recording.

        The key is the first candidate that is free or has this recording already, else a spare key
        that only this recording uses. A key that the recording had before comes first, so that a
        resync replaces the object.
        """
        fingerprint8 = log.fingerprint.partition("-")[2][:8]
        wanted = object_key(self._template, log, self._roots)
        before = self._earlier_sessions(log)
        earlier_keys = list(dict.fromkeys(old.object_key for old in before))
        for key in dict.fromkeys([*earlier_keys, wanted]):
            if not self._reserve(key, log):
                continue
            try:
                with self._at(key, lease) as target:
                    found = target.stat()
            except CloudError as error:
                if not error.means("reading_refused"):
                    raise
                # Where objects may not be read, no key is known to be free.
                break
            if found is None or self._is_own(found, key, log, before, lease):
                return key
        spare_keys = (key for key in earlier_keys if is_spare(key, fingerprint8))
        return next(spare_keys, spare_key(wanted, fingerprint8))

    def _earlier_sessions(self, log: SyncLog) -> list[DocumentSession]:
        """Return the upload sessions that the recording had in this bucket."""
        return [
            old.session
            for old in self._history.of_episode(log.episode_id)
            if old.fingerprint == log.fingerprint
            and old.session
            and old.session.bucket == self._name
            and old.session.object_key
        ]

    def _reserve(self, key: str, log: SyncLog) -> bool:
        """Reserve the key; False where another recording of this robot is on its way to it."""
        with self._lock:
            others = (
                other.fingerprint for other in self._history.open() if other.object_key == key
            )
            if any(
                fingerprint != log.fingerprint
                for fingerprint in (*others, self._chosen.get(key, log.fingerprint))
            ):
                return False
            self._chosen[key] = log.fingerprint
            self._chosen.move_to_end(key)
            if len(self._chosen) > _CHOSEN_KEYS:
                self._chosen.popitem(last=False)
            return True

    def _is_own(
        self,
        found: StoredObject,
        key: str,
        log: SyncLog,
        before: Sequence[DocumentSession],
        lease: CredentialLease,
    ) -> bool:
        """Return whether the object is this recording, by the history or by its manifest."""
        if any(old.object_key == key and same_etag(old.etag, found.etag) for old in before):
            return True
        with self._at(key + MANIFEST, lease) as target:
            manifest = _object(target.read(_MANIFEST_MAX_BYTES))
        has_etag = same_etag(str(manifest.get("etag", "")), found.etag)
        return manifest.get("fingerprint") == log.fingerprint and has_etag

    def _session(self, key: str, part_size: int) -> UploadSession:
        place = f"s3://{self._name}/{key}"
        return UploadSession(place, place, self._name, self._endpoint, key, self._region, part_size)

    def _key_in(self, place: str, call: str) -> str:
        """Return the object key in the id of a session.

        Raises CloudError("UPLOAD_NOT_FOUND") of ``call`` where the place is not in this bucket.
        """
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
        """Store the metadata.yaml of a bag beside its files, but not over that of another bag."""
        data = self._bag_metadata(Path(log.path).with_name(BAG_METADATA))
        if data is None:
            return
        key = log.object_key[: log.object_key.rfind("/") + 1] + BAG_METADATA
        with self._at(key, lease) as target:
            try:
                stored = target.read(len(data) + 1)
            except CloudError as error:
                if not error.means("reading_refused"):
                    raise
                stored = b""
            if stored is None:
                target.put(data, "application/yaml")
            elif stored != data:
                with self._at(spare_key(key, hashlib.sha256(data).hexdigest()[:8]), lease) as spare:
                    spare.put(data, "application/yaml")

    def _bag_metadata(self, path: Path) -> bytes | None:
        """Return the content of the file; None where there is none that can be sent.

        A link could lead to any file that the agent can read, its own keys included. So links are
        followed only where the settings say so. Any other error of the disk ends the attempt,
        because retention deletes the file once the recording is uploaded.

        Raises:
            AgentError: The file can't be read now.
            OSError: The robot lacks something.
        """
        root = root_of(path, self._roots)
        if root is None:
            return None
        follow = self._follow_symlinks
        try:
            with (
                reading(path),
                suppress(FileNotFoundError, NotADirectoryError),
                opened_folder(path.parent, root, follow_symlinks=follow) as folder,
                os.fdopen(open_bag_metadata(path, folder, follow_symlinks=follow), "rb") as file,
            ):
                return file.read()
        except RecordingError as error:
            _log.warning(
                "%s is not sent: %s",
                path,
                error.message,
                extra={"event": "bag_metadata", "path": str(path)},
            )
        return None


@contextmanager
def _called(call: str) -> Iterator[None]:
    """Let an error inside count as an error of ``call``: the gate opens when ``call`` succeeds."""
    try:
        yield
    except CloudError as error:
        error.call = call
        raise


def _grown(part_size: int, size: int) -> int:
    """Return the size of the parts of a file of ``size`` bytes.

    ``part_size`` is doubled while there would be many parts. Where this is not enough, the size is
    the next whole MiB with which S3_MAX_PARTS parts suffice.
    """
    wanted = part_size
    for _ in range(_DOUBLINGS):
        if size >= _MANY_PARTS * wanted:
            wanted = min(2 * wanted, _PART_MAX_BYTES)
    least = -(-size // S3_MAX_PARTS)
    return wanted if wanted >= least else -(-least // _MIB) * _MIB


def _manifest(log: SyncLog, now: float) -> bytes:
    """Return the manifest of a stored recording, as JSON."""
    session = log.require_session()
    manifest: dict[str, Any] = {
        "schema": _MANIFEST_SCHEMA,
        "key": session.object_key,
        "size": log.file_size,
        "etag": session.etag,
        "checksum": session.checksum,
        "part_size_bytes": session.part_size_bytes,
        "fingerprint": log.fingerprint,
        "device_id": log.device_id,
        "asset_id": log.asset_id,
        "episode_id": log.episode_id,
        "tags": dict(log.raw_tags),
        "uploaded_at": log.completed_at or utc_text(now),
    }
    if log.manifest_revision > 1:
        manifest["revision"] = log.manifest_revision
    if log.sidecar_fault:
        manifest["warnings"] = [log.sidecar_fault]
    return json.dumps(manifest, indent=2).encode()


def _object(data: bytes | None) -> Mapping[str, object]:
    """Return the JSON object in ``data``; an empty one where there is none."""
    try:
        content = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
