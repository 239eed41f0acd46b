"""Computes what a store must answer if it holds exactly the bytes of a file.

The functions are pure and work on digests that were computed elsewhere. ETags are compared without
their quotes and without regard to the case of their letters.
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
    """The methods of hashlib's objects that the agent uses."""

    def update(self, data: memoryview | bytes, /) -> None:
        """Add more bytes."""
        ...

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        ...


class Crc32:
    """CRC-32 with the methods of hashlib. The digest has four bytes, big-endian, as S3 wants it."""

    def __init__(
        self, data: bytes = b"", *, crc32: Callable[[memoryview | bytes, int], int] = zlib.crc32
    ) -> None:
        """Begin with ``data``. ``crc32`` may be a faster function than the standard library's."""
        self._crc32 = crc32
        self._crc = crc32(data, 0)

    def update(self, data: memoryview | bytes, /) -> None:
        """Add more bytes."""
        self._crc = self._crc32(data, self._crc)

    def digest(self) -> bytes:
        """Return the digest of all bytes so far."""
        return self._crc.to_bytes(4, "big")


_HASHERS: dict[str, Callable[[], Hasher]] = {
    "SHA256": hashlib.sha256,
    "CRC32": Crc32,
    "MD5": partial(hashlib.md5, usedforsecurity=False),
}


def hasher(algorithm: str) -> Hasher:
    """Return a new hasher for "SHA256", "CRC32" or "MD5". Raises KeyError for any other name."""
    return _HASHERS[algorithm]()


def md5(data: bytes) -> bytes:
    """Return the MD5 of ``data``."""
    return hashlib.md5(data, usedforsecurity=False).digest()


def b64(digest: bytes) -> str:
    """Return a digest in base64, as HTTP headers carry it."""
    return base64.b64encode(digest).decode()


def bare(etag: str) -> str:
    """Return an ETag without its quotes."""
    return etag.strip().strip('"')


def quoted(etag: str) -> str:
    """Return an ETag with its quotes, as a header has it."""
    return f'"{bare(etag)}"'


def same_etag(one: str, other: str) -> bool:
    """Return whether two ETags are the same. An empty ETag equals none."""
    return bare(one) != "" and bare(one).lower() == bare(other).lower()


def md5_of(etag: str) -> bytes | None:
    """Return the MD5 that a part's ETag seems to be, or None if it cannot be one."""
    return binascii.unhexlify(bare(etag)) if _DIGEST.fullmatch(bare(etag)) else None


def parts_in_etag(etag: str) -> int | None:
    """Return the number of parts whose MD5s an ETag joins, or 0 for an MD5 of all bytes.

    The form of the ETag tells the number. Return None if the ETag cannot be a digest. The ETag of a
    store that encrypts may only look like one.
    """
    if _COMPOSITE.fullmatch(bare(etag)):
        return int(bare(etag).partition("-")[2][:9])
    return None if md5_of(etag) is None else 0


def parts_in_checksum(checksum: str) -> tuple[str, int]:
    """Return the algorithm of a composite checksum and the number of its parts.

    Return "" and 0 for any other text.
    """
    found = _COMPOSITE_CHECKSUM.fullmatch(checksum)
    if found is None:
        return "", 0
    try:
        algorithm = _ALGORITHMS.get(len(base64.b64decode(found[1])), "")
    except ValueError:
        return "", 0
    return algorithm, int(found[2]) if algorithm else 0


def composite_etags(md5s: Sequence[bytes]) -> tuple[str, str]:
    """Return what the ETag of a multipart object may be, given the MD5s of its parts.

    The first ETag is the one of S3, the second the one of Alibaba OSS.
    """
    s3 = md5(b"".join(md5s)).hex()
    oss = md5("".join(part_md5.hex().upper() for part_md5 in md5s).encode()).hex().upper()
    return f"{s3}-{len(md5s)}", f"{oss}-{len(md5s)}"


def composite_checksum(algorithm: str, checksums: Sequence[str]) -> str:
    """Return the checksum of a multipart object, given the checksums of its parts in base64.

    It is the digest of their digests, followed by their number.
    """
    whole = hasher(algorithm)
    for checksum in checksums:
        whole.update(base64.b64decode(checksum))
    return f"{b64(whole.digest())}-{len(checksums)}"


def contradiction(
    parts: Sequence[SentPart], etag: str, checksum: str, algorithm: str, *, digests: bool
) -> str:
    """Return why the object cannot consist of these parts, in words, or "" if it may.

    A composite checksum decides if there is one. Otherwise the ETag decides if it is a digest of
    digests. ``digests`` says whether the parts' ETags are MD5s as far as is known. Those of a store
    that encrypts only look like MD5s.
    """
    checksums = [part.checksum for part in parts if part.checksum and part.algorithm == algorithm]
    if "-" in checksum and len(checksums) == len(parts):
        if checksum == composite_checksum(algorithm, checksums):
            return ""
        return f"{algorithm} of the whole differs"
    md5s = [found for part in parts if (found := md5_of(part.etag)) is not None]
    if not (digests and _COMPOSITE.fullmatch(bare(etag)) and len(md5s) == len(parts)):
        return ""
    return "" if _is_composite_of(etag, md5s) else "ETag of the whole differs"


def proves(
    stored: StoredObject, parts: Sequence[Part], digest: Callable[[str, Part], bytes]
) -> bool:
    """Return whether it is proven that ``stored`` is the file, sent in these parts.

    Args:
        stored: What the store says that it holds.
        parts: All parts of the file, in order.
        digest: Returns the digest of one part by the algorithm with this name. It is called at most
            once for each byte of the file.
    """
    size = sum(part.size for part in parts)
    if stored.size != size or not parts:
        return False
    if "-" in stored.checksum:
        checksums = [b64(digest(stored.algorithm, part)) for part in parts]
        return stored.checksum == composite_checksum(stored.algorithm, checksums)
    if _COMPOSITE.fullmatch(bare(stored.etag)):
        return _is_composite_of(stored.etag, [digest("MD5", part) for part in parts])
    # Some stores give the MD5 of all bytes as the ETag.
    expected = md5_of(stored.etag)
    return expected is not None and expected == digest("MD5", Part(1, parts[0].offset, size))


def _is_composite_of(etag: str, md5s: Sequence[bytes]) -> bool:
    return any(same_etag(etag, composite) for composite in composite_etags(md5s))
