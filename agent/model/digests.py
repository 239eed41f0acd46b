"""The arithmetic of proof: what a store must answer when it holds exactly our bytes.

Pure functions on digests that were taken elsewhere. An ETag is compared without its quotes and without regard to the
case of its letters.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from agent.model.transfer import Part, SentPart, StoredObject

_DIGEST = re.compile(r"[0-9a-fA-F]{32}")
_COMPOSITE = re.compile(r"[0-9a-fA-F]{32}-[0-9]+")
_COMPOSITE_CHECKSUM = re.compile(r"([A-Za-z0-9+/]+=*)-([0-9]{1,5})")
# The number of bytes in a digest tells which algorithm made it.
_ALGORITHMS = {32: "SHA256", 4: "CRC32"}


class Hasher(Protocol):
    """The part of hashlib's objects that is used here."""

    def update(self, data: memoryview | bytes, /) -> None:
        """Take in more bytes."""
        ...

    def digest(self) -> bytes:
        """The digest of all bytes so far."""
        ...


class Crc32:
    """CRC-32 in the manner of hashlib: four bytes, big-endian, as S3 wants it."""

    def __init__(
        self, data: bytes = b"", *, crc32: Callable[[memoryview | bytes, int], int] = zlib.crc32
    ) -> None:
        """Begin with ``data``; ``crc32`` may be a faster one than the standard library's."""
        self._crc32 = crc32
        self._crc = crc32(data, 0)

    def update(self, data: memoryview | bytes, /) -> None:
        """Take in more bytes."""
        self._crc = self._crc32(data, self._crc)

    def digest(self) -> bytes:
        """The digest of all bytes so far."""
        return self._crc.to_bytes(4, "big")


_HASHERS: dict[str, Callable[[], Hasher]] = {
    "SHA256": hashlib.sha256,
    "CRC32": Crc32,
    "MD5": partial(hashlib.md5, usedforsecurity=False),
}


def hasher(algorithm: str) -> Hasher:
    """A new hasher for "SHA256", "CRC32" or "MD5"; raises KeyError for any other name."""
    return _HASHERS[algorithm]()


def md5(data: bytes) -> bytes:
    """The MD5 of a few bytes."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def b64(digest: bytes) -> str:
    """A digest as HTTP headers carry it."""
    return base64.b64encode(digest).decode()


def bare(etag: str) -> str:
    """An ETag without its quotes."""
    return etag.strip().strip('"')


def quoted(etag: str) -> str:
    """An ETag with its quotes, as a header has it."""
    return f'"{bare(etag)}"'


def same_etag(one: str, other: str) -> bool:
    """Whether two ETags are the same one; an empty ETag is nobody's."""
    return bare(one) != "" and bare(one).lower() == bare(other).lower()


def md5_of(etag: str) -> bytes | None:
    """The MD5 that a part's ETag seems to be; None where it is certainly something else."""
    return binascii.unhexlify(bare(etag)) if _DIGEST.fullmatch(bare(etag)) else None


def parts_in_etag(etag: str) -> int | None:
    """The number of parts whose MD5s an ETag joins, told by its form; 0 for an MD5 of all bytes.

    None where the ETag is certainly no digest. An encrypting store's ETag may only look like one.
    """
    if _COMPOSITE.fullmatch(bare(etag)):
        return int(bare(etag).partition("-")[2][:9])
    return None if md5_of(etag) is None else 0


def parts_in_checksum(checksum: str) -> tuple[str, int]:
    """The algorithm of a composite checksum and the number of its parts; "" and 0 for any other text."""
    found = _COMPOSITE_CHECKSUM.fullmatch(checksum)
    if found is None:
        return "", 0
    try:
        algorithm = _ALGORITHMS.get(len(base64.b64decode(found[1])), "")
    except ValueError:
        return "", 0
    return algorithm, int(found[2]) if algorithm else 0


def composite_etags(md5s: Sequence[bytes]) -> tuple[str, str]:
    """What a multipart object's ETag may be, given its parts' MD5s: as S3 makes it, and as Alibaba OSS does."""
    s3 = hashlib.md5(b"".join(md5s), usedforsecurity=False).hexdigest()
    oss = (
        hashlib.md5("".join(md5.hex().upper() for md5 in md5s).encode(), usedforsecurity=False)
        .hexdigest()
        .upper()
    )
    return f"{s3}-{len(md5s)}", f"{oss}-{len(md5s)}"


def composite_checksum(algorithm: str, checksums: Sequence[str]) -> str:
    """What a multipart object's checksum is, given its parts' (base64): the digest of their digests, and how many."""
    whole = hasher(algorithm)
    for checksum in checksums:
        whole.update(base64.b64decode(checksum))
    return f"{b64(whole.digest())}-{len(checksums)}"


def contradiction(
    parts: Sequence[SentPart], etag: str, checksum: str, algorithm: str, *, digests: bool
) -> str:
    """Why the object can't be these parts joined, in words; "" when nothing speaks against it.

    A composite checksum decides where there is one. Else the ETag does where it is a digest of digests; ``digests``
    says whether the parts' ETags are MD5s as far as is known (an encrypting store's only look so).
    """
    checksums = [part.checksum for part in parts if part.checksum and part.algorithm == algorithm]
    if "-" in checksum and len(checksums) == len(parts):
        return (
            ""
            if checksum == composite_checksum(algorithm, checksums)
            else f"{algorithm} of the whole differs"
        )
    md5s = [found for part in parts if (found := md5_of(part.etag)) is not None]
    if not (digests and _COMPOSITE.fullmatch(bare(etag)) and len(md5s) == len(parts)):
        return ""
    return "" if _is_composite_of(etag, md5s) else "ETag of the whole differs"


def proves(
    stored: StoredObject, parts: Sequence[Part], digest: Callable[[str, Part], bytes]
) -> bool:
    """Whether ``stored`` is the file, cut into these windows; what proves nothing is no.

    Args:
        stored: What the store says it holds.
        parts: All windows of the file, in order.
        digest: The digest of one window by the algorithm of that name; asked once for each byte of the file.
    """
    size = sum(part.size for part in parts)
    if stored.size != size or not parts:
        return False
    if "-" in stored.checksum:
        checksums = [b64(digest(stored.algorithm, part)) for part in parts]
        return stored.checksum == composite_checksum(stored.algorithm, checksums)
    if _COMPOSITE.fullmatch(bare(stored.etag)):
        return _is_composite_of(stored.etag, [digest("MD5", part) for part in parts])
    expected = md5_of(stored.etag)  # some stores show the MD5 of all bytes
    return expected is not None and expected == digest("MD5", Part(1, parts[0].offset, size))


def _is_composite_of(etag: str, md5s: Sequence[bytes]) -> bool:
    return any(same_etag(etag, composite) for composite in composite_etags(md5s))
