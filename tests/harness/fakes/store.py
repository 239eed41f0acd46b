"""An object store in memory. Tests can let its calls fail."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.model.digests import (
    b64,
    composite_checksum,
    composite_etags,
    contradiction,
    hasher,
    md5,
    md5_of,
    proves,
    quoted,
)
from agent.model.errors import CloudError, FileChangedError, GateClosedError
from agent.model.transfer import Part, SentPart, StoredObject, Transfer
from agent.model.values import CredentialLease, UploadSession

STORE_CALLS = (
    "CreateMultipartUpload",
    "ListMultipartUploads",
    "UploadPart",
    "ListParts",
    "CompleteMultipartUpload",
    "HeadObject",
    "AbortMultipartUpload",
)

_BLOCK_BYTES = 64 * 1024


@dataclass
class StoreFault:
    """An error that a call raises. With ``lost`` the call takes effect before it."""

    error: Exception
    times: int
    lost: bool


@dataclass
class Multipart:
    """A multipart upload. ``place`` is its bucket and key; parts are kept by their number."""

    place: tuple[str, str]
    parts: dict[int, tuple[bytes, SentPart]] = field(default_factory=dict)


class FakeStore:
    """Implements ``ports.ObjectStore`` in memory.

    Tests may read and change all public attributes. Safe for several threads.
    """

    def __init__(
        self,
        *,
        checksums: bool = True,
        etags: Literal["s3", "oss", "opaque"] = "s3",
        algorithm: str = "SHA256",
    ) -> None:
        """Imitate one kind of store.

        Args:
            checksums: Whether the store returns checksums.
            etags: What ETags are made of: MD5 digests as in S3, in upper case as in OSS, or
                something unknown.
            algorithm: The algorithm of the checksums.
        """
        self.endpoint = ""
        self.offset: float | None = None
        self.checksums = checksums
        self.etags = etags
        self.algorithm = algorithm
        self.objects: dict[tuple[str, str], tuple[bytes, StoredObject]] = {}
        self.multiparts: dict[str, Multipart] = {}
        self.calls: list[str] = []
        self.keys_used: list[str] = []
        self.sent_parts: list[int] = []
        self.before: Callable[[str], None] = lambda _call: None
        self._faults: dict[str, list[StoreFault]] = {}
        self._expired: set[str] = set()
        self._flips = 0
        self._ids = itertools.count(1)
        self._lock = threading.RLock()

    def fail(
        self, call: str, *, error: Exception | None = None, times: int = 1, lost: bool = False
    ) -> None:
        """Let the next ``times`` calls of that name raise ``error``.

        With ``lost`` they raise it only after they have taken effect.
        """
        fault = StoreFault(error or CloudError(call, "ServiceUnavailable", status=503), times, lost)
        self._faults.setdefault(call, []).append(fault)

    def mend(self) -> None:
        """Remove all faults."""
        self._faults.clear()
        self._flips = 0

    def expire(self, access_key_id: str) -> None:
        """Make the lease with that key expire."""
        self._expired.add(access_key_id)

    def flip(self, times: int = 1) -> None:
        """Change a bit of each of the next ``times`` parts on their way."""
        self._flips += times

    def content(self, bucket: str, key: str) -> bytes:
        """Return the bytes of an object. Raises KeyError when there is no such object."""
        return self.objects[bucket, key][0]

    def at(self, session: UploadSession, lease: Callable[[], CredentialLease]) -> FakeTarget:
        """Return the target for the recording of a session."""
        return FakeTarget(self, session, lease)

    def close(self) -> None:
        """Do nothing, because there are no connections."""

    def enter(self, call: str, lease: CredentialLease) -> Callable[[], None]:
        """Begin a call. Call the returned function at its end, because it may raise a fault."""
        self.before(call)
        with self._lock:
            self.calls.append(call)
            self.keys_used.append(lease.access_key_id)
            if lease.access_key_id in self._expired:
                raise CloudError(call, "ExpiredToken", status=403)
            fault = next((fault for fault in self._faults.get(call, []) if fault.times > 0), None)
            if fault is None:
                return lambda: None
            fault.times -= 1
            if fault.lost:
                return lambda: _raise(fault.error)
        raise fault.error

    def arriving(self, data: bytes) -> bytes:
        """Return the bytes as the store receives them, possibly with a changed bit."""
        with self._lock:
            if self._flips == 0 or not data:
                return data
            self._flips -= 1
            return bytes([data[0] ^ 1]) + data[1:]

    def new_id(self) -> str:
        """Return an id that was never used before."""
        return f"multipart-{next(self._ids)}"

    def etag(self, data: bytes) -> str:
        """Return the ETag of a part."""
        digest = md5(data if self.etags != "opaque" else b"key of the store" + data)
        return quoted(digest.hex().upper() if self.etags == "oss" else digest.hex())

    def etag_of_whole(self, parts: Sequence[SentPart]) -> str:
        """Return the ETag of a multipart object."""
        s3, oss = composite_etags([md5_of(part.etag) or b"" for part in parts])
        return quoted(
            {"s3": s3, "oss": oss, "opaque": f"{md5(s3.encode()).hex()}-{len(parts)}"}[self.etags]
        )


class FakeTarget:
    """Implements ``ports.Target`` for one key of a FakeStore."""

    def __init__(
        self, store: FakeStore, session: UploadSession, lease: Callable[[], CredentialLease]
    ) -> None:
        """Use the key of ``session`` in ``store``, with the keys that ``lease`` returns."""
        self._broken = False
        self._store = store
        self._place = (session.bucket, session.object_key)
        self._lease = lease

    def begin(self) -> str:
        """Begin a multipart upload."""
        done = self._enter("CreateMultipartUpload")
        multipart_id = self._store.new_id()
        self._store.multiparts[multipart_id] = Multipart(self._place)
        done()
        return multipart_id

    def multiparts(self) -> Sequence[str]:
        """Return the unfinished multipart uploads of exactly this key."""
        self._enter("ListMultipartUploads")()
        return [
            id_
            for id_, multipart in self._store.multiparts.items()
            if multipart.place == self._place
        ]

    def send(self, multipart_id: str, part: Part, descriptor: int, transfer: Transfer) -> SentPart:
        """Store one part of the file."""
        # Other parts may use the same transfer, so this call takes back only its own bytes.
        handed: list[int] = []
        try:
            return self._take_in(multipart_id, part, descriptor, transfer, handed)
        except BaseException:
            transfer.advance(-sum(handed))
            raise

    def _take_in(
        self, multipart_id: str, part: Part, descriptor: int, transfer: Transfer, handed: list[int]
    ) -> SentPart:
        done = self._enter("UploadPart")
        announced = _read(part, descriptor)
        position = 0
        while position < part.size:
            handed.append(transfer.grant(min(_BLOCK_BYTES, part.size - position)))
            position += handed[-1]
            transfer.advance(handed[-1])
            if transfer.stopped:
                raise GateClosedError("the upload was told to stop")
        data = self._store.arriving(_read(part, descriptor))
        if data != announced:
            raise CloudError("UploadPart", "checksum")
        sent = SentPart(part.number, part.size, self._store.etag(data))
        if self._store.checksums:
            sent = replace(sent, checksum=self._checksum(data), algorithm=self._store.algorithm)
        self._multipart("UploadPart", multipart_id).parts[part.number] = (data, sent)
        self._store.sent_parts.append(part.number)
        done()
        return sent

    def parts(self, multipart_id: str) -> Sequence[SentPart]:
        """Return the stored parts, in order."""
        self._enter("ListParts")()
        multipart = self._multipart("ListParts", multipart_id)
        return [multipart.parts[number][1] for number in sorted(multipart.parts)]

    def matches(self, sent: SentPart, part: Part, descriptor: int) -> bool:
        """Compare a stored part with the file, by checksum if there is one, else by MD5."""
        if (sent.number, sent.size) != (part.number, part.size):
            return False
        data = _read(part, descriptor)
        return (
            sent.checksum == self._checksum(data)
            if sent.checksum
            else md5_of(sent.etag) == md5(data)
        )

    def complete(self, multipart_id: str, parts: Sequence[SentPart]) -> StoredObject:
        """Join the parts to an object."""
        call = "CompleteMultipartUpload"
        done = self._enter(call)
        multipart = self._multipart(call, multipart_id)
        held = [multipart.parts.get(part.number, (b"", None)) for part in parts]
        etags = [have.etag if have else "" for _, have in held]
        if not parts or etags != [part.etag for part in parts]:
            raise CloudError(call, "InvalidPart", status=400)
        stored = StoredObject(sum(part.size for part in parts), self._store.etag_of_whole(parts))
        if self._store.checksums:
            algorithm = self._store.algorithm
            checksum = composite_checksum(algorithm, [part.checksum for part in parts])
            stored = replace(stored, checksum=checksum, algorithm=algorithm)
        self._store.objects[self._place] = (b"".join(data for data, _ in held), stored)
        del self._store.multiparts[multipart_id]
        done()
        digests = self._store.etags != "opaque"
        if reason := contradiction(
            parts, stored.etag, stored.checksum, stored.algorithm, digests=digests
        ):
            raise CloudError(call, "checksum", reason)
        return stored

    def stat(self) -> StoredObject | None:
        """Return size, ETag and checksum of the object, or None."""
        self._enter("HeadObject")()
        return self._store.objects.get(self._place, (b"", None))[1]

    def holds(self, stored: StoredObject, parts: Sequence[Part], descriptor: int) -> bool:
        """Return whether the object has exactly the bytes of the file."""

        def digest(algorithm: str, part: Part) -> bytes:
            taken = hasher(algorithm)
            taken.update(_read(part, descriptor))
            return taken.digest()

        return proves(stored, parts, digest)

    def abort(self, multipart_id: str) -> None:
        """Remove the multipart upload."""
        done = self._enter("AbortMultipartUpload")
        self._store.multiparts.pop(multipart_id, None)
        done()

    def put(self, data: bytes, content_type: str) -> None:
        """Store a small object."""
        del content_type
        done = self._enter("PutObject")
        self._store.objects[self._place] = (data, StoredObject(len(data), self._store.etag(data)))
        done()

    def read(self, limit: int) -> bytes | None:
        """Return at most ``limit`` bytes of the object, or None."""
        self._enter("GetObject")()
        held = self._store.objects.get(self._place)
        return held and held[0][:limit]

    def break_off(self) -> None:
        """Refuse all calls from now on."""
        self._broken = True

    def close(self) -> None:
        """Do nothing, because there are no connections."""

    def _enter(self, call: str) -> Callable[[], None]:
        if self._broken:
            raise GateClosedError("the upload was told to stop")
        return self._store.enter(call, self._lease())

    def _multipart(self, call: str, multipart_id: str) -> Multipart:
        multipart = self._store.multiparts.get(multipart_id)
        if multipart is None or multipart.place != self._place:
            raise CloudError(call, "NoSuchUpload", status=404)
        return multipart

    def _checksum(self, data: bytes) -> str:
        digest = hasher(self._store.algorithm)
        digest.update(data)
        return b64(digest.digest())


def _read(part: Part, descriptor: int) -> bytes:
    data = os.pread(descriptor, part.size, part.offset)
    if len(data) < part.size:
        raise FileChangedError("the file is shorter than it was")
    return data


def _raise(error: Exception) -> None:
    raise error
