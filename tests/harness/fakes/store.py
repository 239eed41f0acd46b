"""A store in memory, with a script of faults."""

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
    "CreateMultipartUpload", "ListMultipartUploads", "UploadPart", "ListParts", "CompleteMultipartUpload", "HeadObject",
    "AbortMultipartUpload",
)  # fmt: skip

_BLOCK = 64 * 1024


@dataclass
class Fault:
    """An error that a call raises; ``lost``: only after it has taken effect."""

    error: Exception
    times: int
    lost: bool


@dataclass
class Multipart:
    """Parts on their way to one place."""

    place: tuple[str, str]
    parts: dict[int, tuple[bytes, SentPart]] = field(default_factory=dict)


class FakeStore:
    """Implements ``ports.ObjectStore``. Everything it holds may be looked into and changed by tests."""

    def __init__(
        self,
        *,
        checksums: bool = True,
        etags: Literal["s3", "oss", "opaque"] = "s3",
        algorithm: str = "SHA256",
    ) -> None:
        """``checksums``: the store echoes them; ``etags``: what its ETags are made of."""
        self.checksums = checksums
        self.etags = etags
        self.algorithm = algorithm
        self.objects: dict[tuple[str, str], tuple[bytes, StoredObject]] = {}
        self.multiparts: dict[str, Multipart] = {}
        self.calls: list[str] = []
        self.keys_used: list[str] = []
        self.sent_parts: list[int] = []
        self.before: Callable[[str], None] = lambda _call: None
        self._faults: dict[str, list[Fault]] = {}
        self._expired: set[str] = set()
        self._flips = 0
        self._ids = itertools.count(1)
        self._lock = threading.RLock()

    def fail(
        self, call: str, *, error: Exception | None = None, times: int = 1, lost: bool = False
    ) -> None:
        """Let the next ``times`` calls of that name raise ``error``; ``lost``: only after they have taken effect."""
        fault = Fault(error or CloudError(call, "ServiceUnavailable", status=503), times, lost)
        self._faults.setdefault(call, []).append(fault)

    def mend(self) -> None:
        """Forget all faults."""
        self._faults.clear()
        self._flips = 0

    def expire(self, access_key_id: str) -> None:
        """End the lease with that key."""
        self._expired.add(access_key_id)

    def flip(self, times: int = 1) -> None:
        """Damage a bit of the next ``times`` parts on their way."""
        self._flips += times

    def content(self, bucket: str, key: str) -> bytes:
        """The bytes under a key; raises KeyError where nothing lies."""
        return self.objects[bucket, key][0]

    def at(self, session: UploadSession, lease: Callable[[], CredentialLease]) -> FakeTarget:
        """The place of one recording."""
        return FakeTarget(self, session, lease)

    def close(self) -> None:
        """Nothing to let go of."""

    def enter(self, call: str, lease: CredentialLease) -> Callable[[], None]:
        """Begin a call; the answer must be called at its end, where an answer may be lost."""
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
        """The bytes as they come in: flipped, if that was asked for."""
        with self._lock:
            if self._flips == 0 or not data:
                return data
            self._flips -= 1
            return bytes([data[0] ^ 1]) + data[1:]

    def new_id(self) -> str:
        """An id that was never used before."""
        return f"multipart-{next(self._ids)}"

    def etag(self, data: bytes) -> str:
        """A part's ETag."""
        digest = md5(data if self.etags != "opaque" else b"key of the store" + data)
        return quoted(digest.hex().upper() if self.etags == "oss" else digest.hex())

    def etag_of_whole(self, parts: Sequence[SentPart]) -> str:
        """A multipart object's ETag."""
        s3, oss = composite_etags([md5_of(part.etag) or b"" for part in parts])
        return quoted(
            {"s3": s3, "oss": oss, "opaque": f"{md5(s3.encode()).hex()}-{len(parts)}"}[self.etags]
        )


class FakeTarget:
    """Implements ``ports.Target``."""

    def __init__(
        self, store: FakeStore, session: UploadSession, lease: Callable[[], CredentialLease]
    ) -> None:
        """One key in the store's memory."""
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
        """Multiparts of exactly this key."""
        self._enter("ListMultipartUploads")()
        return [
            id_
            for id_, multipart in self._store.multiparts.items()
            if multipart.place == self._place
        ]

    def send(self, multipart_id: str, part: Part, descriptor: int, transfer: Transfer) -> SentPart:
        """Take in one window."""
        handed: list[int] = []  # other parts may go by the same transfer
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
            handed.append(transfer.grant(min(_BLOCK, part.size - position)))
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
        """The parts in order."""
        self._enter("ListParts")()
        multipart = self._multipart("ListParts", multipart_id)
        return [multipart.parts[number][1] for number in sorted(multipart.parts)]

    def matches(self, sent: SentPart, part: Part, descriptor: int) -> bool:
        """Compare by checksum, else by MD5."""
        if (sent.number, sent.size) != (part.number, part.size):
            return False
        data = _read(part, descriptor)
        return (
            sent.checksum == self._checksum(data)
            if sent.checksum
            else md5_of(sent.etag) == md5(data)
        )

    def complete(self, multipart_id: str, parts: Sequence[SentPart]) -> StoredObject:
        """Join the parts."""
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
        """What lies under the key."""
        self._enter("HeadObject")()
        return self._store.objects.get(self._place, (b"", None))[1]

    def holds(self, stored: StoredObject, parts: Sequence[Part], descriptor: int) -> bool:
        """Compare with the whole file."""

        def digest(algorithm: str, part: Part) -> bytes:
            taken = hasher(algorithm)
            taken.update(_read(part, descriptor))
            return taken.digest()

        return proves(stored, parts, digest)

    def abort(self, multipart_id: str) -> None:
        """Forget the multipart."""
        done = self._enter("AbortMultipartUpload")
        self._store.multiparts.pop(multipart_id, None)
        done()

    def put(self, data: bytes, content_type: str) -> None:
        """Keep a small object."""
        del content_type
        done = self._enter("PutObject")
        self._store.objects[self._place] = (data, StoredObject(len(data), self._store.etag(data)))
        done()

    def read(self, limit: int) -> bytes | None:
        """What lies under the key."""
        self._enter("GetObject")()
        held = self._store.objects.get(self._place)
        return held and held[0][:limit]

    def break_off(self) -> None:
        """Refuse everything from now on."""
        self._broken = True

    def close(self) -> None:
        """Nothing to let go of."""

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
