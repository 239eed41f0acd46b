"""The lines of the journal: how one line is written, and how the lines of a file are read.

A line is ``CRC-32 of the JSON as 8 hex digits, space, JSON, LF``. The JSON is one of two things:

- A list of entries ``[table, id, document or null]``: one transaction. Null removes a document.
- An object: a remark on the journal itself, such as its format.

The JSON is ASCII, so one character is one byte, and offsets in the text are offsets in the file.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from itertools import islice

# Bytes of a line before its JSON: the checksum and a space.
HEAD_BYTES = 9

_LINE_START = re.compile(rb"[0-9a-f]{8} [\[{]")
_SINGLE_ENTRY = re.compile(rb'\[\["([^"\\]+)",(\d+),')

# The most places at which good lines are searched for inside one bad line. Every pair of places
# is tried, so the limit keeps a file full of nonsense from costing minutes.
_MAX_LINE_STARTS = 50

_READ_BUFFER_BYTES = 1024 * 1024
_ZERO_SEARCH_BYTES = 64 * 1024

encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_decode_at = json.JSONDecoder().raw_decode


def line(payload: bytes) -> bytes:
    """Return the line that holds the JSON ``payload``, its LF included."""
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def payload_of(line: bytes) -> bytes | None:
    """Return the JSON of a line without its LF, or None when its checksum is wrong."""
    payload = line[HEAD_BYTES:]
    if payload and line[:HEAD_BYTES] == b"%08x " % zlib.crc32(payload):
        return payload
    return None


def is_unfinished(raw: bytes) -> bool:
    """Return whether bad bytes at the very end of a file are a line that was never finished.

    The writing of such a line was cut off, so nothing is lost with it. A bad line that was whole
    once is damage. The disk may have written a later page of a line and not an earlier one. Then
    the line has its LF, and zeros stand inside.
    """
    return not raw.endswith(b"\n") or raw.count(0) > 1


def good_lines_inside(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the good lines inside a bad one: the offset of each in ``raw``, and its JSON.

    A flipped bit in an LF makes one bad line of two lines, of which the second is still good.
    """
    found = islice(_LINE_START.finditer(raw, 1), _MAX_LINE_STARTS)
    starts = [0, *(match.start() for match in found), len(raw)]
    first = 0
    while first < len(starts) - 1:
        for last in range(first + 1, len(starts)):
            payload = payload_of(raw[starts[first] : starts[last] - 1])
            if payload is not None:
                yield starts[first], payload
                first = last
                break
        else:
            first += 1


def entries(payload: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Yield table, id, start and length of each entry of a transaction.

    Start and length are bytes within ``payload``. The length of an entry that removes its
    document is 0.
    """
    head = _SINGLE_ENTRY.match(payload)
    # Most transactions have one entry, which can be read without decoding its document. The
    # bytes that are searched for stand between any two entries.
    if head and b'],["' not in payload:
        removal = payload.startswith(b"null", head.end())
        yield head[1].decode("ascii"), int(head[2]), 1, 0 if removal else len(payload) - 2
        return
    text = payload.decode("ascii")
    start = 1
    while start < len(text) - 1:
        (table, id_, document), end = _decode_at(text, start)
        yield table, id_, start, 0 if document is None else end - start
        start = end + 1


def raw_lines(descriptor: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield offset and bytes of each line of an open file before ``end``.

    The bytes include the LF. Only the last line may have none.

    Raises:
        OSError: The file can't be read.
    """
    offset = 0
    with open(descriptor, "rb", buffering=_READ_BUFFER_BYTES, closefd=False) as file:
        file.seek(0)
        while raw := file.readline(end - offset):
            yield offset, raw
            offset += len(raw)


def end_of_content(descriptor: int) -> int:
    """Return the offset from which on an open file holds nothing but zeros.

    Raises:
        OSError: The file can't be read.
    """
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - _ZERO_SEARCH_BYTES)
        content = os.pread(descriptor, end - start, start).rstrip(b"\0")
        if content:
            return start + len(content)
        end = start
    return 0
