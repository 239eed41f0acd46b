"""The digests that prove an upload, compared with values that other tools computed."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest

from agent.model.digests import (
    Crc32,
    b64,
    bare,
    composite_checksum,
    composite_etags,
    contradiction,
    hasher,
    md5,
    md5_of,
    parts_in_checksum,
    parts_in_etag,
    proves,
    quoted,
    same_etag,
)
from agent.model.transfer import Part, SentPart, StoredObject, parts_of

DATA = bytes(range(256)) * 10
WINDOWS = parts_of(len(DATA), 1000)
PIECES = [DATA[part.offset : part.offset + part.size] for part in WINDOWS]
MD5S = [md5(piece) for piece in PIECES]
S3_ETAG = f'"{md5(b"".join(MD5S)).hex()}-3"'
OSS_ETAG = f'"{md5("".join(each.hex().upper() for each in MD5S).encode()).hex().upper()}-3"'
CRC32S = [b64(zlib.crc32(piece).to_bytes(4, "big")) for piece in PIECES]
CHECKSUM = (
    b64(zlib.crc32(b"".join(base64.b64decode(crc) for crc in CRC32S)).to_bytes(4, "big")) + "-3"
)
SENT = [
    SentPart(part.number, part.size, quoted(piece_md5.hex()), crc, "CRC32")
    for part, piece_md5, crc in zip(WINDOWS, MD5S, CRC32S, strict=True)
]


def digest(algorithm: str, part: Part) -> bytes:
    taken = hasher(algorithm)
    taken.update(DATA[part.offset : part.offset + part.size])
    return taken.digest()


def test_both_flavours_of_a_composite_etag_are_known() -> None:
    # The expected values are for one empty part and come from md5sum. The first is over the 16
    # bytes of the part's MD5, the second over its 32 upper-case letters.
    assert composite_etags([md5(b"")]) == (
        "59adb24ef3cdbe0297f05b395827453f-1",
        "80404D0C6D24E87F650FF7D1985CD762-1",
    )
    assert composite_etags(MD5S) == (bare(S3_ETAG), bare(OSS_ETAG))


def test_a_composite_checksum_is_the_digest_of_the_parts_digests() -> None:
    assert composite_checksum("CRC32", CRC32S) == CHECKSUM
    sums = [b64(hashlib.sha256(piece).digest()) for piece in PIECES]
    whole = hashlib.sha256(b"".join(base64.b64decode(each) for each in sums)).digest()
    assert composite_checksum("SHA256", sums) == f"{b64(whole)}-3"


def test_the_form_of_an_etag_tells_how_many_parts_it_joins() -> None:
    assert parts_in_etag(S3_ETAG) == 3
    assert parts_in_etag(OSS_ETAG) == 3
    assert parts_in_etag(quoted(md5(DATA).hex())) == 0
    assert [parts_in_etag(etag) for etag in ("", '"opaque"', f"{'g' * 32}-3", f"{'0' * 32}-")] == [
        None
    ] * 4


def test_the_length_of_a_composite_checksum_tells_its_algorithm() -> None:
    sha256 = b64(hashlib.sha256(DATA).digest())
    assert parts_in_checksum(CHECKSUM) == ("CRC32", 3)
    assert parts_in_checksum(f"{sha256}-10000") == ("SHA256", 10_000)
    assert [
        parts_in_checksum(text) for text in ("", sha256, f"{sha256}-", f"{b64(b'12345')}-3")
    ] == [("", 0)] * 4


def test_crc32_goes_on_over_blocks() -> None:
    crc = Crc32(b"1234")
    crc.update(memoryview(b"56789"))
    # The check value of CRC-32/ISO-HDLC.
    assert crc.digest().hex() == "cbf43926"


@pytest.mark.parametrize(
    ("etag", "found"),
    [
        ('"d41d8cd98f00b204e9800998ecf8427e"', md5(b"")),
        ("D41D8CD98F00B204E9800998ECF8427E", md5(b"")),
        ('"d41d8cd98f00b204e9800998ecf8427e-1"', None),
        ('"opaque"', None),
        ("", None),
    ],
)
def test_an_etag_is_taken_for_an_md5_only_where_it_looks_like_one(
    etag: str, found: bytes | None
) -> None:
    assert md5_of(etag) == found


def test_etags_are_the_same_in_any_case_and_with_or_without_quotes() -> None:
    assert same_etag('"AB-1"', "ab-1")
    assert not same_etag('"AB-1"', "ab-2")
    assert not same_etag("", '""')


@pytest.mark.parametrize(
    "etag", [S3_ETAG, OSS_ETAG, bare(S3_ETAG), '"something else"', '"' + md5(DATA).hex() + '"']
)
def test_nothing_speaks_against_a_whole_made_of_its_parts(etag: str) -> None:
    assert contradiction(SENT, etag, "", "CRC32", digests=True) == ""


@pytest.mark.parametrize("etag", [S3_ETAG.replace("-3", "-2"), f'"{md5(b"other").hex()}-3"'])
def test_a_composite_etag_of_other_parts_speaks_against_it(etag: str) -> None:
    assert contradiction(SENT, etag, "", "CRC32", digests=True)


def test_etags_that_are_no_digests_say_nothing() -> None:
    assert contradiction(SENT, f'"{md5(b"other").hex()}-3"', "", "CRC32", digests=False) == ""


def test_a_composite_checksum_decides_whatever_the_etag_says() -> None:
    other = f'"{md5(b"other").hex()}-3"'
    assert contradiction(SENT, other, CHECKSUM, "CRC32", digests=True) == ""
    assert contradiction(SENT, S3_ETAG, CHECKSUM.replace("-3", "-2"), "CRC32", digests=True)


def test_a_checksum_that_is_no_composite_leaves_it_to_the_etag() -> None:
    assert contradiction(SENT, S3_ETAG, "AAAAAA==", "CRC32", digests=True) == ""


@pytest.mark.parametrize(
    ("stored", "proven"),
    [
        (StoredObject(len(DATA), S3_ETAG), True),
        (StoredObject(len(DATA), OSS_ETAG), True),
        (StoredObject(len(DATA), quoted(md5(DATA).hex())), True),
        (StoredObject(len(DATA), '"opaque"', CHECKSUM, "CRC32"), True),
        (StoredObject(len(DATA), S3_ETAG, CHECKSUM.replace("-3", "-2"), "CRC32"), False),
        (StoredObject(len(DATA), '"opaque"'), False),
        (StoredObject(len(DATA), f'"{md5(b"other").hex()}-3"'), False),
        (StoredObject(len(DATA), quoted(md5(b"other").hex())), False),
        (StoredObject(len(DATA) + 1, S3_ETAG), False),
    ],
)
def test_a_stored_object_is_proven_by_its_checksum_or_else_its_etag(
    stored: StoredObject, proven: bool
) -> None:
    assert proves(stored, WINDOWS, digest) is proven


def test_no_windows_prove_nothing() -> None:
    assert not proves(StoredObject(0, S3_ETAG), [], digest)


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(KeyError):
        hasher("CRC64NVME")
