"""Compares a whole file with what the history knows of the bytes that were uploaded.

A fingerprint sees three windows of a file. So two files can have one fingerprint though their bytes
differ in between, and only the digests of the upload can distinguish them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.model.digests import hasher, parts_in_checksum, parts_in_etag, proves
from agent.model.sync_log import SyncLog
from agent.model.transfer import Part, StoredObject, parts_of
from agent.retention.deletion import NotDeletableError, VerifiedFile

Finding = Literal["same", "differs", "unclear", "no_digest", "other_owner"]

# How many files with one finding are named in the status.
_NAMED = 20

# Bytes that are read from the disk at once.
_BLOCK = 128 * 1024

# After so many bytes the kernel may use their place in its cache for other files.
_UNCACHE_BYTES = 8 * 1024 * 1024

# Some file systems count time in steps of two seconds. A file that was changed twice within one
# step has the same times after both changes.
_COARSEST_SECONDS = 3.0

# Where the kernel can't name the owner of a file, it names this one for every owner.
_NOBODY = 65_534

_UPLOAD_OR_DELETE = (
    "if it has the right bytes, `touch PATH.resync` or `keystone-agent resync PATH` uploads them; "
    "else delete it yourself"
)

_REASONS: Mapping[Finding, str] = {
    "differs": "its bytes are not those that were uploaded",
    "unclear": "its bytes are not those that were uploaded, or the ETags of this store are no MD5s",
    "no_digest": (
        "the history has no digest of what was uploaded, so its bytes can't be compared with that"
    ),
    "other_owner": (
        "only a CRC-32 of what was uploaded is known, which can be forged, "
        "and the history does not say that this file has the same owner"
    ),
}

_REMEDIES: Mapping[Finding, str] = {
    "differs": _UPLOAD_OR_DELETE,
    "unclear": _UPLOAD_OR_DELETE,
    "no_digest": "delete it yourself, once you have compared it with its object in the bucket",
    "other_owner": (
        "`touch PATH.resync` or `keystone-agent resync PATH` uploads it again, "
        "and writes down its owner"
    ),
}


def reason_of(finding: Finding) -> str:
    """Return why a file with this finding, any but "same", is not deleted."""
    return _REASONS[finding]


def remedy_of(finding: Finding, path: Path | str = "PATH") -> str:
    """Return what the operator can do about a file with this finding."""
    return _REMEDIES[finding].replace("PATH", str(path))


@dataclass(frozen=True, slots=True)
class _Digests:
    """The digests in a document that a file can be compared with; "" for a missing one."""

    sha256: str
    etag: str
    crc32: str


class Verify:
    """Compares files with the bytes that were uploaded, and remembers the findings.

    Reading gigabytes takes long, so a file is read again only after it has changed.

    Used by the thread of the retention; any thread may call :meth:`kept`.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """``now`` returns the wall clock, in seconds since 1970."""
        self._now = now
        self._lock = threading.Lock()
        # By document and path: the key that the file had, and what was found.
        self._found: dict[int, dict[Path, tuple[tuple[int, ...], Finding]]] = {}

    def known(self, file: VerifiedFile, log: SyncLog) -> Finding | None:
        """Return the finding about an open file without reading it; None where it must be read."""
        with self._lock:
            for key, finding in self._found.get(log.id, {}).values():
                if key == file.key:
                    self._note(file, log, finding)
                    return finding
            unread = _finding_without_reading(log, file.state.st_uid)
            if unread is not None:
                self._note(file, log, unread)
            return unread

    def compare(
        self, file: VerifiedFile, log: SyncLog, stopped: Callable[[], bool]
    ) -> Finding | None:
        """Compare an open file with the upload that ``log`` describes.

        Args:
            file: The file. All of it is read unless the finding is known.
            log: The document of the upload.
            stopped: Returns whether to end the comparison early. Then the result is None.

        Raises:
            NotDeletableError: A program wants to write to the file, or the file became shorter.
            OSError: The file can't be read.
        """
        finding = self.known(file, log)
        if finding is None:
            finding = _compare(file, log, stopped)
            # A change in the same step of the file system's clock would leave no trace in the key.
            is_settled = abs(self._now() - file.state.st_ctime_ns / 1e9) > _COARSEST_SECONDS
            if finding is not None and (finding != "same" or is_settled):
                with self._lock:
                    self._note(file, log, finding)
        return finding

    def keep(self, ids: Collection[int]) -> None:
        """Keep the findings of these documents only."""
        with self._lock:
            self._found = {id_: found for id_, found in self._found.items() if id_ in ids}

    def keep_names(self, id_: int, names: Collection[Path]) -> None:
        """Keep the findings of this document for the files at these paths only."""
        with self._lock:
            found = self._found.get(id_, {})
            for path in found.keys() - set(names):
                del found[path]

    def kept(self) -> Sequence[dict[str, Any]]:
        """Return the files that stay because of a finding: number, first paths, and why; JSON."""
        paths: dict[Finding, list[str]] = {finding: [] for finding in _REASONS}
        with self._lock:
            for found in self._found.values():
                for path, (_, finding) in found.items():
                    if finding != "same":
                        paths[finding].append(str(path))
        return [
            {
                "code": finding,
                "message": reason_of(finding),
                "hint": remedy_of(finding),
                "count": len(names),
                "paths": names[:_NAMED],
            }
            for finding, names in paths.items()
            if names
        ]

    def _note(self, file: VerifiedFile, log: SyncLog, finding: Finding) -> None:
        self._found.setdefault(log.id, {})[file.path] = file.key, finding


def _digests_of(log: SyncLog) -> _Digests:
    """Return the digests that can be computed from the file: their parts are the document's."""
    session = log.session
    if session is None:
        return _Digests(sha256="", etag="", crc32="")
    windows = -(-log.file_size // session.part_size_bytes) if session.part_size_bytes > 0 else 0
    algorithm, parts = parts_in_checksum(session.checksum)
    checksum = session.checksum if windows and parts == windows else ""
    parts_joined = parts_in_etag(session.etag)
    is_digest = parts_joined == 0 or (windows > 0 and parts_joined == windows)
    return _Digests(
        sha256=checksum if algorithm == "SHA256" else "",
        etag=session.etag if is_digest else "",
        crc32=checksum if algorithm == "CRC32" else "",
    )


def _finding_without_reading(log: SyncLog, owner: int) -> Finding | None:
    """Return the finding about a file of this owner that holds whatever its bytes are."""
    digests = _digests_of(log)
    if digests.sha256 or digests.etag:
        return None
    if not digests.crc32:
        return "no_digest"
    return None if _is_owner(log, owner) else "other_owner"


def _is_owner(log: SyncLog, owner: int) -> bool:
    """Return whether the uploaded file had the same known owner."""
    return log.owner is not None and log.owner == owner != _NOBODY


def _compare(file: VerifiedFile, log: SyncLog, stopped: Callable[[], bool]) -> Finding | None:
    """Read the file once and compare it with the strongest digest; None when stopped."""
    digests = _digests_of(log)
    size, part_size = log.file_size, log.require_session().part_size_bytes
    parts = parts_of(size, part_size if part_size > 0 else max(size, 1))
    if not parts:
        return "no_digest"
    # The ETag of some stores is the MD5 of all bytes.
    is_whole = not digests.sha256 and parts_in_etag(digests.etag) == 0
    if digests.sha256:
        algorithms = ["SHA256"]
    else:
        algorithms = ["MD5"] if digests.etag and not is_whole else []
        algorithms += ["CRC32"] if digests.crc32 else []
    computed = _compute(file, parts, algorithms, stopped, with_whole_md5=is_whole)
    if computed is None:
        return None
    return _judge(digests, parts, computed, is_owner=_is_owner(log, file.state.st_uid))


def _judge(
    digests: _Digests,
    parts: Sequence[Part],
    computed: Mapping[tuple[str, Part], bytes],
    *,
    is_owner: bool,
) -> Finding:
    """Compare the digests in the document with those ``computed`` from the file.

    An ETag that differs may be no digest at all, so a CRC-32 is compared, too.
    """

    def fits(etag: str, checksum: str, algorithm: str) -> bool:
        stored = StoredObject(sum(part.size for part in parts), etag, checksum, algorithm)
        return proves(stored, parts, lambda name, part: computed[name, part])

    if digests.sha256:
        return "same" if fits("", digests.sha256, "SHA256") else "differs"
    if digests.etag and fits(digests.etag, "", ""):
        return "same"
    if not digests.crc32:
        return "unclear"
    if not fits("", digests.crc32, "CRC32"):
        return "differs"
    return "same" if is_owner else "other_owner"


def _compute(
    file: VerifiedFile,
    parts: Sequence[Part],
    algorithms: Sequence[str],
    stopped: Callable[[], bool],
    *,
    with_whole_md5: bool,
) -> dict[tuple[str, Part], bytes] | None:
    """Compute the digests of each part by these algorithms.

    ``with_whole_md5`` adds the MD5 of all bytes, as of one part. Returns None as soon as
    ``stopped`` returns true. Memory is one block and the digests. Raises what
    :meth:`Verify.compare` raises.
    """
    computed: dict[tuple[str, Part], bytes] = {}
    whole = hasher("MD5")
    size = 0
    for part in parts:
        hashers = {algorithm: hasher(algorithm) for algorithm in algorithms}
        every = [*hashers.values(), whole] if with_whole_md5 else list(hashers.values())
        for block in _blocks(file, part):
            if stopped():
                return None
            file.refuse_waiting_writer()
            for each in every:
                each.update(block)
        computed.update({(algorithm, part): each.digest() for algorithm, each in hashers.items()})
        size += part.size
    if with_whole_md5:
        computed["MD5", Part(1, 0, size)] = whole.digest()
    return computed


def _blocks(file: VerifiedFile, part: Part) -> Iterator[memoryview]:
    """Yield the bytes of a part; each block is valid until the next one is requested."""
    buffer = memoryview(bytearray(_BLOCK))
    position, end = part.offset, part.offset + part.size
    cached_from = position
    while position < end:
        count = os.preadv(file.descriptor, [buffer[: end - position]], position)
        if count == 0:
            raise NotDeletableError("it became shorter while it was compared with its upload")
        yield buffer[:count]
        position += count
        # A recorder needs the cache more than a file that is deleted in a moment.
        if position - cached_from >= _UNCACHE_BYTES or position == end:
            os.posix_fadvise(
                file.descriptor, cached_from, position - cached_from, os.POSIX_FADV_DONTNEED
            )
            cached_from = position
