"""Is this file a complete MCAP? Answered from its head and tail alone (https://mcap.dev/spec).

Nothing in the file is believed before it is checked: every read is bounded, every offset is in range before it is
used, and whatever the bytes are, the answer is a :class:`Tail` or one of two errors.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MAGIC = b"\x89MCAP0\r\n"
_HEADER, _FOOTER, _STATISTICS, _METADATA, _METADATA_INDEX, _SUMMARY_OFFSET, _DATA_END = (
    1,
    2,
    11,
    12,
    13,
    14,
    15,
)

_RECORD = struct.Struct("<BQ")  # opcode, length of what follows
_FOOTER_RECORD = struct.Struct("<BQQQI")  # summary start, summary offset start, CRC
_GROUP = struct.Struct("<BQQ")  # opcode, start, length
_COUNTS = struct.Struct("<QHIIIIQQ")  # messages first, their times last

_END_SIZE = _FOOTER_RECORD.size + len(MAGIC)
_DATA_END_SIZE = _RECORD.size + 4
_LEAST_SIZE = (
    len(MAGIC) + _RECORD.size + 8 + _DATA_END_SIZE + _END_SIZE
)  # 75: a Header of two empty strings, no data

_BLOCK = 256 * 1024
_MAX_HEADER = 64 * 1024
_MAX_INDEX = 64 * 1024  # one MetadataIndex: little more than a name
_MAX_METADATA = 512 * 1024  # one Metadata record
_MAX_METADATA_TOTAL = 1024 * 1024  # all that are asked for, together
_MAX_SUMMARY = 1024**3  # 100 GiB of small chunks and many topics make some 300 MiB
_MAX_RECORDS = 1_000_000  # looked through one by one


class NoTailError(Exception):
    """The file has no end yet: it is still being recorded, or its recorder died."""


class DamagedError(Exception):
    """The file can't be a sound MCAP, whatever is appended to it."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What the end of a complete MCAP says about it. Times are nanoseconds of the recording's own clock."""

    start_time: int | None = None  # None without Statistics, or without a message
    end_time: int | None = None
    message_count: int | None = None
    metadata: Mapping[str, Mapping[str, str]] = field(
        default_factory=dict
    )  # only names that are asked for


def read_tail(
    descriptor: int,
    size: int,
    names: Sequence[str] = ("keystone",),
    prefixes: Sequence[str] = ("axon.",),
    keys: Sequence[str] = ("episode_id", "task_id"),
) -> Tail:
    """Check that the open file of ``size`` bytes is a complete MCAP, and read what its end says.

    ``names`` and ``prefixes`` choose the metadata records, ``keys`` what is kept of them; records of one name are
    joined, later values win, and one too large to be read is there without its values. A file without a summary
    section has neither statistics nor metadata.

    Raises:
        NoTailError: Footer or trailing magic are not there (yet).
        DamagedError: a magic, a record, an offset or the summary's CRC is wrong.
        OSError: the disk does not answer.
    """
    file = _File(descriptor, size)
    data_start = _check_head(file)
    sections = _sections(file, data_start)
    _check_crc(file, sections)
    wanted = _Wanted(frozenset(names), tuple(prefixes))
    counts: tuple[int, ...] = ()
    metadata: dict[str, dict[str, str]] = {}
    room = _MAX_METADATA_TOTAL
    for opcode, start, length in _summary_records(file, sections):
        if opcode == _STATISTICS:
            if length < _COUNTS.size:
                raise DamagedError("its Statistics record is too short")
            counts = _COUNTS.unpack(file.read(start, _COUNTS.size))
        elif opcode == _METADATA_INDEX and room > 0:
            offset, name = _metadata_index(file, start, length)
            if name in wanted:
                spent, values = _metadata(file, offset, name, (data_start, sections.data_end), room)
                metadata.setdefault(name, {}).update(
                    {key: values[key] for key in keys if key in values}
                )
                room -= spent
    if not counts:
        return Tail(metadata=metadata)
    has_messages = counts[0] > 0
    return Tail(
        start_time=counts[-2] if has_messages else None,
        end_time=counts[-1] if has_messages else None,
        message_count=counts[0],
        metadata=metadata,
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    names: frozenset[str]
    prefixes: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.names or name.startswith(self.prefixes)


@dataclass(frozen=True, slots=True)
class _Sections:
    """Where the parts of the file's end lie: DataEnd, summary, its offsets, Footer, in this order."""

    data_end: int
    summary: int
    offsets: int  # equals ``footer`` where there is no summary offset section
    footer: int
    crc: int


@dataclass(frozen=True, slots=True)
class _File:
    descriptor: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        content = os.pread(self.descriptor, length, offset)
        if len(content) != length:
            raise NoTailError("it became shorter while it was read")
        return content

    def records(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Opcode, start and length of the content of each record in [start, end), which they must fill exactly."""
        block, base = b"", start
        for _ in range(_MAX_RECORDS):
            if start == end:
                return
            if end - start < _RECORD.size:
                raise DamagedError("a record of its summary is cut off")
            if start - base + _RECORD.size > len(block):
                base = start
                block = self.read(start, min(_BLOCK, end - start))
            opcode, length = _RECORD.unpack_from(block, start - base)
            content = start + _RECORD.size
            if opcode == 0 or length > end - content:
                raise DamagedError("a record of its summary has an impossible length")
            yield opcode, content, length
            start = content + length
        if start != end:
            raise DamagedError("its summary has more records than any recorder writes")


def _check_head(file: _File) -> int:
    """Check magic and Header, as far as they are written; return where the data section goes on."""
    magic = file.read(0, min(file.size, len(MAGIC)))
    if magic != MAGIC[: len(magic)]:
        raise DamagedError("it does not begin like an MCAP")
    start = len(MAGIC) + _RECORD.size
    if file.size < start:
        raise NoTailError("it ends in its Header")
    opcode, length = _RECORD.unpack(file.read(len(MAGIC), _RECORD.size))
    if opcode != _HEADER or not 8 <= length <= _MAX_HEADER:
        raise DamagedError("its Header record is wrong")
    if length > file.size - start:
        raise NoTailError("it ends in its Header")
    header = file.read(start, length)
    _, position = _text(header, 0)  # the profile
    _text(header, position)  # the library
    if file.size < _LEAST_SIZE:
        raise NoTailError("it has no Footer")
    return int(start + length)


def _sections(file: _File, data_start: int) -> _Sections:
    """Read the Footer, and check what it points to."""
    footer_start = file.size - _END_SIZE
    end = file.read(footer_start, _END_SIZE)
    if end[-len(MAGIC) :] != MAGIC:
        raise NoTailError("it has no trailing magic")
    opcode, length, summary, offsets, crc = _FOOTER_RECORD.unpack_from(end)
    if (opcode, length) != (_FOOTER, _FOOTER_RECORD.size - _RECORD.size):
        raise NoTailError("it has no Footer")
    # Without a section the spec wants 0; some writers give the place where it would be.
    summary = summary or footer_start
    offsets = offsets or footer_start
    data_end = summary - _DATA_END_SIZE
    if not data_start <= data_end or not summary <= offsets <= footer_start:
        raise DamagedError("its Footer points to places that can't be")
    if footer_start - summary > _MAX_SUMMARY:
        raise DamagedError("its summary is larger than any recorder writes")
    if _RECORD.unpack(file.read(data_end, _RECORD.size)) != (_DATA_END, 4):
        raise DamagedError("its data section has no end where the Footer says")
    return _Sections(data_end, summary, offsets, footer_start, crc)


def _check_crc(file: _File, sections: _Sections) -> None:
    """Check the CRC over summary, summary offsets and the Footer's other fields; 0 means that there is none."""
    if sections.crc == 0:
        return
    crc = 0
    position, end = sections.summary, sections.footer + _FOOTER_RECORD.size - 4
    while position < end:
        block = file.read(position, min(_BLOCK, end - position))
        crc = zlib.crc32(block, crc)
        position += len(block)
    if crc != sections.crc:
        raise DamagedError("its summary does not match its checksum")


def _summary_records(file: _File, sections: _Sections) -> Iterator[tuple[int, int, int]]:
    """The records of the summary that matter here, by its offsets where it has them."""
    if sections.offsets == sections.footer:
        yield from file.records(sections.summary, sections.footer)
        return
    seen = set()
    for opcode, start, length in file.records(sections.offsets, sections.footer):
        if opcode != _SUMMARY_OFFSET:
            continue
        if length < _GROUP.size:
            raise DamagedError("a summary offset is too short")
        group, group_start, group_length = _GROUP.unpack(file.read(start, _GROUP.size))
        if not sections.summary <= group_start <= group_start + group_length <= sections.offsets:
            raise DamagedError("a summary offset points out of the summary")
        if group in (_STATISTICS, _METADATA_INDEX):
            if group in seen:  # walking it once for each mention could take for ever
                raise DamagedError("its summary offsets name a group twice")
            seen.add(group)
            yield from file.records(group_start, group_start + group_length)


def _metadata_index(file: _File, start: int, length: int) -> tuple[int, str]:
    """Where a Metadata record lies, and its name."""
    if not 20 <= length <= _MAX_INDEX:
        raise DamagedError("a metadata index has an impossible length")
    content = file.read(start, length)
    name, _ = _text(content, 16)  # behind offset and length
    return int.from_bytes(content[:8], "little"), name


def _metadata(
    file: _File, offset: int, name: str, data: tuple[int, int], room: int
) -> tuple[int, dict[str, str]]:
    """The bytes that a Metadata record took of ``room``, and its values; none if it does not fit."""
    if not data[0] <= offset <= data[1] - _RECORD.size:
        raise DamagedError(f"the metadata {name!r} lies outside of the data")
    opcode, length = _RECORD.unpack(file.read(offset, _RECORD.size))
    start = offset + _RECORD.size
    if opcode != _METADATA or length > data[1] - start:
        raise DamagedError(f"the metadata {name!r} is not where its index says")
    if length > min(room, _MAX_METADATA):
        return _RECORD.size + len(name), {}
    content = file.read(start, length)
    own_name, position = _text(content, 0)
    if own_name != name:
        raise DamagedError(f"the metadata {name!r} is not where its index says")
    return length, _mapping(content, position)


def _mapping(content: bytes, position: int) -> dict[str, str]:
    """The map of texts at ``position``: its length in bytes, then keys and values in turn."""
    start = position + 4
    end = start + int.from_bytes(content[position:start], "little")
    if end > len(content):
        raise DamagedError("a map is longer than its record")
    values = {}
    position = start
    while position < end:
        key, position = _text(content, position)
        values[key], position = _text(content, position)
    return values


def _text(content: bytes, position: int) -> tuple[str, int]:
    """The text at ``position`` with its length before it, and where it ends."""
    start = position + 4
    end = start + int.from_bytes(content[position:start], "little")
    if end > len(content):
        raise DamagedError("a text is longer than its record")
    try:
        return content[start:end].decode(), end
    except UnicodeDecodeError:
        raise DamagedError("a text is not UTF-8") from None
