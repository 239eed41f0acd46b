"""A whole file is compared with the digests of its upload.

The tests show what each digest proves and what a comparison costs.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.files.fingerprint import fingerprint
from agent.model.digests import b64, composite_checksum, composite_etags, md5
from agent.model.sync_log import DocumentSession, SyncLog
from agent.model.transfer import parts_of
from agent.model.values import utc_text
from agent.retention import verify as verify_module
from agent.retention.deletion import Deletion, NotDeletableError, VerifiedFile
from agent.retention.verify import Finding, Verify

SIZE = 1_000_000
PART = 300_000
CONTENT = random.Random(15).randbytes(SIZE)
PIECES = [CONTENT[part.offset : part.offset + part.size] for part in parts_of(SIZE, PART)]
SHA256 = composite_checksum("SHA256", [b64(hashlib.sha256(piece).digest()) for piece in PIECES])
CRC32 = composite_checksum("CRC32", [b64(zlib.crc32(piece).to_bytes(4, "big")) for piece in PIECES])
S3_ETAG, OSS_ETAG = composite_etags([md5(piece) for piece in PIECES])
OPAQUE_ETAG = f"{'0' * 32}-{len(PIECES)}"
OWNER = os.getuid()

# The polynomial of CRC-32, with its first bit in the lowest place. Flipping these bits in a file
# leaves its CRC-32 the same.
POLYNOMIAL = int(f"{0x104C11DB7:033b}"[::-1], 2).to_bytes(5, "little")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recordings" / "a.mcap"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of bytes that each read of a comparison returned."""
    counts: list[int] = []
    read = os.preadv

    def counted(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        counts.append(read(descriptor, buffers, offset))
        return counts[-1]

    monkeypatch.setattr(os, "preadv", counted)
    return counts


def document(path: Path, *, owner: int | None = None, **fields: Any) -> SyncLog:
    """Return a document that was completed with the file at ``path``.

    Its session holds only the digests in ``fields``.
    """
    with path.open("rb") as file:
        mark = str(fingerprint(file.fileno(), SIZE))
    mtime = utc_text(path.stat().st_mtime_ns / 1e9)
    session = DocumentSession(**{"part_size_bytes": PART, **fields})
    return SyncLog(
        1, "ep", str(path), SIZE, mtime, mark, status="completed", owner=owner, session=session
    )


@contextmanager
def opened(path: Path, log: SyncLog) -> Iterator[VerifiedFile]:
    """The file as retention opens it for a comparison."""
    with Deletion([path.parent], with_sidecar=True).verified_file(
        path, log.fingerprint, log.mtime
    ) as verified:
        yield verified


def never() -> bool:
    return False


def found(
    path: Path, log: SyncLog, verify: Verify | None = None, stopped: Callable[[], bool] = never
) -> Finding | None:
    with opened(path, log) as verified:
        return (verify or Verify(lambda: 0.0)).compare(verified, log, stopped)


def change(path: Path, at: int = 200_000, pattern: bytes = b"\xff") -> None:
    """Flip bits that the fingerprint does not read.

    The size and the time of the last change stay.
    """
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        bytes_there = file.read(len(pattern))
        file.seek(at)
        file.write(bytes(one ^ other for one, other in zip(bytes_there, pattern, strict=True)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# The tests below show which digests prove an upload.


@pytest.mark.parametrize(
    ("fields", "otherwise"),
    [
        ({"checksum": SHA256, "etag": OPAQUE_ETAG}, "differs"),
        ({"etag": f'"{S3_ETAG}"', "checksum": CRC32}, "differs"),
        ({"etag": f'"{S3_ETAG}"'}, "unclear"),
        ({"etag": f'"{OSS_ETAG}"'}, "unclear"),
        ({"etag": f'"{md5(CONTENT).hex()}"'}, "unclear"),
        ({"etag": f'"{md5(CONTENT).hex()}"', "part_size_bytes": 0}, "unclear"),
        ({"etag": OPAQUE_ETAG, "checksum": CRC32, "owner": OWNER}, "differs"),
        ({"etag": '"opaque"', "checksum": CRC32, "owner": OWNER}, "differs"),
    ],
)
def test_all_bytes_are_compared_with_the_strongest_digest_that_is_known(
    path: Path, fields: dict[str, Any], otherwise: Finding
) -> None:
    log = document(path, **fields)
    assert found(path, log) == "same"
    change(path)
    assert found(path, log) == otherwise


@pytest.mark.parametrize("at", [70_000, 465_000, 535_000, 930_000])
def test_a_single_bit_is_seen_wherever_it_is(path: Path, at: int) -> None:
    log = document(path, checksum=SHA256)
    change(path, at, b"\x01")
    assert found(path, log) == "differs"


@pytest.mark.parametrize("owner", [None, OWNER + 1])
@pytest.mark.parametrize("etag", [OPAQUE_ETAG, '"opaque"', ""])
def test_a_crc_counts_only_together_with_the_owner(
    path: Path, owner: int | None, etag: str
) -> None:
    assert found(path, document(path, etag=etag, checksum=CRC32, owner=owner)) == "other_owner"


def test_an_owner_that_the_kernel_cannot_name_is_not_the_same_one(path: Path) -> None:
    log = document(path, checksum=CRC32, owner=65_534)
    with opened(path, log) as verified:
        state = list(verified.state)
        state[4] = 65_534
        unowned = replace(verified, state=os.stat_result(state))
        assert Verify(lambda: 0.0).known(unowned, log) == "other_owner"


def test_a_forged_crc_proves_nothing_for_another_owner(path: Path) -> None:
    log = document(path, etag=OPAQUE_ETAG, checksum=CRC32, owner=OWNER)
    change(path, pattern=POLYNOMIAL)
    assert path.read_bytes() != CONTENT
    assert found(path, log) == "same", "the test forges the CRC-32"
    assert found(path, replace(log, owner=OWNER + 1)) == "other_owner"
    session = replace(log.require_session(), etag=S3_ETAG, checksum="")
    assert found(path, replace(log, session=session)) == "unclear"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"etag": '"opaque"'},
        {"checksum": "no checksum"},
        {"checksum": "q2hl-4"},
        {"checksum": "====-4"},
        {"checksum": CRC32.replace("-4", "-5"), "owner": OWNER},
        {"checksum": SHA256, "part_size_bytes": PART + 100_000},
        {"checksum": SHA256, "part_size_bytes": 0},
        {"etag": f'"{S3_ETAG}"', "part_size_bytes": PART + 100_000},
        {"checksum": b64(hashlib.sha256(CONTENT).digest())},
    ],
)
def test_where_nothing_is_left_to_compare_with_nothing_is_read(
    path: Path, reads: list[int], fields: dict[str, Any]
) -> None:
    assert found(path, document(path, **fields)) == "no_digest"
    assert reads == []


def test_a_weaker_digest_is_taken_where_the_stronger_one_has_other_parts(path: Path) -> None:
    checksum = SHA256.replace("-4", "-5")
    assert base64.b64decode(checksum.partition("-")[0])
    assert found(path, document(path, etag=S3_ETAG, checksum=checksum)) == "same"


# The tests below cover the cost of a comparison.


def test_a_file_is_read_once_in_small_blocks_as_long_as_it_stays_as_it_is(
    path: Path, reads: list[int]
) -> None:
    log, verify = document(path, etag=S3_ETAG, checksum=CRC32), Verify(lambda: 0.0)
    assert [found(path, log, verify) for _ in range(3)] == ["same"] * 3
    assert sum(reads) == SIZE
    assert max(reads) <= 128 * 1024
    change(path)
    assert [found(path, log, verify) for _ in range(3)] == ["differs"] * 3
    assert sum(reads) == 2 * SIZE


def test_another_name_of_the_same_file_is_not_read_again_and_another_file_is(
    path: Path, reads: list[int]
) -> None:
    (path.parent / "link.mcap").hardlink_to(path)
    log, verify = document(path, checksum=SHA256), Verify(lambda: 0.0)
    assert [found(name, log, verify) for name in (path, path.parent / "link.mcap")] == [
        "same",
        "same",
    ]
    assert sum(reads) == SIZE
    copy = path.parent / "copy.mcap"
    copy.write_bytes(CONTENT)
    os.utime(copy, ns=(0, path.stat().st_mtime_ns))
    assert found(copy, log, verify) == "same"
    assert sum(reads) == 2 * SIZE


def test_what_was_changed_a_moment_ago_is_not_remembered_as_uploaded(
    path: Path, reads: list[int]
) -> None:
    log = document(path, checksum=SHA256)
    now = path.stat().st_ctime
    early, late = Verify(lambda: now + 2), Verify(lambda: now + 4)
    for verify in (early, early, late, late):
        assert found(path, log, verify) == "same"
    assert sum(reads) == 3 * SIZE


def test_a_stop_ends_the_reading_at_once(path: Path, reads: list[int]) -> None:
    log, verify = document(path, checksum=SHA256), Verify(lambda: 0.0)
    assert found(path, log, verify, lambda: len(reads) == 2) is None
    assert len(reads) == 2
    assert found(path, log, verify) == "same", "nothing was concluded from a part of it"


def test_a_program_that_wants_to_write_does_not_wait_until_all_is_read(
    path: Path, reads: list[int]
) -> None:
    log = document(path, checksum=SHA256)
    writers: list[threading.Thread] = []

    def write() -> None:
        # This open breaks the lease, and waits until the lease is released.
        with path.open("r+b") as file:
            file.write(b"new")

    def begin() -> bool:
        if not writers:
            with pytest.raises(BlockingIOError):
                os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            writers.append(threading.Thread(target=write))
            writers[0].start()
        return False

    with pytest.raises(NotDeletableError, match="wants to write"):
        found(path, log, None, begin)
    assert len(reads) == 1
    writers[0].join(timeout=30)
    assert path.read_bytes()[:3] == b"new"


def test_a_file_that_becomes_shorter_while_it_is_read_stays(path: Path) -> None:
    log = document(path, checksum=SHA256)
    with opened(path, log) as verified:
        shorter = path.parent / "shorter"
        shorter.write_bytes(CONTENT[:-1])
        with shorter.open("rb") as file, pytest.raises(NotDeletableError, match="shorter"):
            Verify(lambda: 0.0).compare(
                replace(verified, descriptor=file.fileno(), leased=False), log, never
            )


# The tests below cover the report on recordings that stay.


def test_files_that_stay_are_counted_by_what_was_found(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "_NAMED", 1)
    verify = Verify(lambda: 0.0)
    proven = document(path, checksum=SHA256)
    (path.parent / "copy.mcap").write_bytes(CONTENT)
    for name in (path, path.parent / "copy.mcap"):
        assert found(name, replace(document(name), id=2), verify) == "no_digest"
    assert found(path, proven, verify) == "same"
    (told,) = verify.kept()
    assert (told["code"], told["count"], told["paths"]) == ("no_digest", 2, [str(path)])
    assert "no digest" in told["message"]
    assert "compared" in told["hint"]
    verify.keep_names(2, [path])
    assert verify.kept()[0]["count"] == 1
    verify.keep([1])
    assert verify.kept() == []
