"""The lines of the journal: how one is written, and what can be learned from a file full of them.

A line is ``CRC-32 of the JSON as 8 hex digits, space, JSON, LF``. The JSON is a list of ``[table, id, document or
null]``, or an object with remarks on the journal itself. It is ASCII, so a character is a byte.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator
from itertools import islice

HEAD = 9  # bytes before the JSON

_LINE_START = re.compile(rb"[0-9a-f]{8} [\[{]")
_SINGLE_ENTRY = re.compile(rb'\[\["([^"\\]+)",(\d+),')
_MOST_PIECES = 50  # a bad line is never one of more good ones

encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_decode_at = json.JSONDecoder().raw_decode


def line(payload: bytes) -> bytes:
    """The line that holds this JSON."""
    return b"%08x %s\n" % (zlib.crc32(payload), payload)


def checked(line: bytes) -> bytes | None:
    """The JSON of a line without its LF; None when its checksum is not right."""
    payload = line[HEAD:]
    return payload if payload and line[:HEAD] == b"%08x " % zlib.crc32(payload) else None


def torn(raw: bytes) -> bool:
    """Whether bad bytes at the very end are a line whose writing was cut off, and not one that was whole once.

    The disk may have written a later page of it and not an earlier one: then zeros stand inside.
    """
    return not raw.endswith(b"\n") or raw.count(0) > 1


def rescue(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Good lines inside a bad one, each with its offset: a flipped LF makes one of two."""
    starts = [0, *(match.start() for match in islice(_LINE_START.finditer(raw, 1), 50)), len(raw)]
    first = 0
    while first < len(starts) - 1:
        for last in range(first + 1, len(starts)):
            payload = checked(raw[starts[first] : starts[last] - 1])
            if payload is not None:
                yield starts[first], payload
                first = last
                break
        else:
            first += 1


def entries(payload: bytes) -> Iterator[tuple[str, int, int, int]]:
    """Table, id, start and length of each entry of a transaction; the length of a removal is 0."""
    head = _SINGLE_ENTRY.match(payload)
    if head and b'],["' not in payload:  # it stands between any two entries
        removal = payload.startswith(b"null", head.end())
        yield head[1].decode("ascii"), int(head[2]), 1, 0 if removal else len(payload) - 2
        return
    text, start = payload.decode("ascii"), 1
    while start < len(text) - 1:
        (table, id_, document), end = _decode_at(text, start)
        yield table, id_, start, 0 if document is None else end - start
        start = end + 1


def raw_lines(descriptor: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each line before ``end``, LF included; the last may have none."""
    offset = 0
    with open(descriptor, "rb", buffering=1024 * 1024, closefd=False) as file:
        file.seek(0)
        while raw := file.readline(end - offset):
            yield offset, raw
            offset += len(raw)


def end_of_content(descriptor: int) -> int:
    """Where the zeros begin that reach to the end of the file."""
    end = os.fstat(descriptor).st_size
    while end:
        start = max(0, end - 65536)
        content = os.pread(descriptor, end - start, start).rstrip(b"\0")
        if content:
            return start + len(content)
        end = start
    return 0
