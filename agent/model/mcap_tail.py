"""Checks whether a file is a complete MCAP by its head and its tail (https://mcap.dev/spec).

Nothing in the file is trusted before it is checked. Every read is bounded, and every offset is
checked before it is used. Whatever the bytes are, the result is a :class:`Tail` or one of two
errors.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

MAGIC = b"\x89MCAP0\r\n"

# The opcodes of the records that are read.
_HEADER = 1
_FOOTER = 2
_STATISTICS = 11
_METADATA = 12
_METADATA_INDEX = 13
_SUMMARY_OFFSET = 14
_DATA_END = 15

# The head of each record: opcode, and length of the content.
_RECORD = struct.Struct("<BQ")

# The Footer with its head: summary start, summary offset start, CRC.
_FOOTER_RECORD = struct.Struct("<BQQQI")

# The content of a SummaryOffset: opcode, start, length.
_GROUP = struct.Struct("<BQQ")

# The content of Statistics up to the last time. The first number is the count of messages, the last
# two are the times of the first and the last message.
_COUNTS = struct.Struct("<QHIIIIQQ")

_END_SIZE = _FOOTER_RECORD.size + len(MAGIC)
_DATA_END_SIZE = _RECORD.size + 4

# The size of the smallest MCAP, 75 bytes: a Header of two empty texts, and no data.
_LEAST_SIZE = len(MAGIC) + _RECORD.size + 8 + _DATA_END_SIZE + _END_SIZE

# How many bytes are read at once.
_BLOCK = 256 * 1024

_MAX_HEADER = 64 * 1024

# A MetadataIndex is little more than a name.
_MAX_INDEX = 64 * 1024

# The bounds for one Metadata record, and for all wanted records together.
_MAX_METADATA = 512 * 1024
_MAX_METADATA_TOTAL = 1024 * 1024

# Which values of the wanted records are kept. A longer value is cut after so many characters, which
# is still too long for a tag, so it is left out and named. Values are remembered for many files, so
# their number is bounded, too.
_MAX_VALUE_CHARACTERS = 2049
_MAX_KEPT_CHARACTERS = 16 * 1024

# 100 GiB of small chunks and many topics make a summary of some 300 MiB.
_MAX_SUMMARY = 1024**3

# How many records of a section are read one by one.
_MAX_RECORDS = 1_000_000


class NoTailError(Exception):
    """The file has no end yet: the recorder still writes it, or ended early."""


class DamagedError(Exception):
    """The file cannot become a valid MCAP, whatever is appended to it."""


@dataclass(frozen=True, slots=True)
class Tail:
    """What the tail of a complete MCAP says about the file.

    Times are nanoseconds of the recording's own clock. They are None without a Statistics record,
    or without a message. ``metadata`` holds only the wanted names. A value in it that is longer
    than any tag may be is cut.
    """

    start_time: int | None = None
    end_time: int | None = None
    message_count: int | None = None
    metadata: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_tail(
    descriptor: int,
    size: int,
    names: Sequence[str] = ("keystone",),
    prefixes: Sequence[str] = ("axon.",),
    keys: Sequence[str] = ("episode_id", "task_id"),
) -> Tail:
    """Check that the open file of ``size`` bytes is a complete MCAP, and read its tail.

    A file without a summary section has neither statistics nor metadata.

    Args:
        descriptor: The open file.
        size: Its size in bytes.
        names: The names of the wanted metadata records. Records of one name are joined, and later
            values replace earlier ones. A record that is too large appears without its values.
        prefixes: How the names of other wanted records begin.
        keys: Which values of these records are always kept. The others are kept while there is room
            for them.

    Raises:
        NoTailError: The Footer or the trailing magic is missing.
        DamagedError: A magic, a record, an offset or the summary's CRC is wrong.
        OSError: The file cannot be read.
    """
    file = _File(descriptor, size)
    data_start = _check_head(file)
    sections = _sections(file, data_start)
    _check_crc(file, sections)
    wanted = _Wanted(frozenset(names), tuple(prefixes))
    counts: tuple[int, ...] = ()
    metadata: dict[str, dict[str, str]] = {}
    room, kept_room = _MAX_METADATA_TOTAL, _MAX_KEPT_CHARACTERS
    for opcode, start, length in _summary_records(file, sections):
        if opcode == _STATISTICS:
            if length < _COUNTS.size:
                raise DamagedError("its Statistics record is too short")
            counts = _COUNTS.unpack(file.read(start, _COUNTS.size))
        elif opcode == _METADATA_INDEX and room > 0:
            offset, name = _metadata_index(file, start, length)
            if name in wanted:
                spent, values = _metadata(file, offset, name, (data_start, sections.data_end), room)
                kept, kept_room = _kept(values, keys, kept_room)
                metadata.setdefault(name, {}).update(kept)
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
    """The names of the metadata records that are read."""

    names: frozenset[str]
    prefixes: tuple[str, ...]

    def __contains__(self, name: str) -> bool:
        return name in self.names or name.startswith(self.prefixes)


@dataclass(frozen=True, slots=True)
class _Sections:
    """The offsets at which the sections of the file's tail begin, in their order.

    ``offsets`` equals ``footer`` if there is no summary offset section.
    """

    data_end: int
    summary: int
    offsets: int
    footer: int
    crc: int


@dataclass(frozen=True, slots=True)
class _File:
    """The open file, read by offset."""

    descriptor: int
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes. Raises NoTailError if the file has become shorter."""
        content = os.pread(self.descriptor, length, offset)
        if len(content) != length:
            raise NoTailError("it became shorter while it was read")
        return content

    def records(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield opcode, start and length of the content of each record from ``start`` to ``end``.

        Raises DamagedError if the records do not fill this range exactly.
        """
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
    """Check magic and Header as far as they are written, and return the offset behind them."""
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
    _profile, position = _text(header, 0)
    _library, _end = _text(header, position)
    if file.size < _LEAST_SIZE:
        raise NoTailError("it has no Footer")
    return int(start + length)


def _sections(file: _File, data_start: int) -> _Sections:
    """Read the Footer, and check the offsets in it."""
    footer_start = file.size - _END_SIZE
    end = file.read(footer_start, _END_SIZE)
    if end[-len(MAGIC) :] != MAGIC:
        raise NoTailError("it has no trailing magic")
    opcode, length, summary, offsets, crc = _FOOTER_RECORD.unpack_from(end)
    if (opcode, length) != (_FOOTER, _FOOTER_RECORD.size - _RECORD.size):
        raise NoTailError("it has no Footer")
    # The specification wants 0 if a section is missing. Some writers give the offset at which the
    # section would be.
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
    """Check the CRC of the summary, the summary offsets and the Footer's other fields.

    A CRC of 0 means that there is none.
    """
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
    """Yield the records of the summary, only the needed groups if the file has summary offsets."""
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
            # A group that is named very often would take very long to read.
            if group in seen:
                raise DamagedError("its summary offsets name a group twice")
            seen.add(group)
            yield from file.records(group_start, group_start + group_length)


def _metadata_index(file: _File, start: int, length: int) -> tuple[int, str]:
    """Return the offset of a Metadata record, and its name."""
    if not 20 <= length <= _MAX_INDEX:
        raise DamagedError("a metadata index has an impossible length")
    content = file.read(start, length)
    # The name follows the offset and the length of the record, 8 bytes each.
    name, _ = _text(content, 16)
    return int.from_bytes(content[:8], "little"), name


def _metadata(
    file: _File, offset: int, name: str, data: tuple[int, int], room: int
) -> tuple[int, dict[str, str]]:
    """Return how many bytes were read for a Metadata record, and its values.

    ``data`` is the range of the data section. A record of more than ``room`` bytes has no values.
    """
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


def _kept(values: Mapping[str, str], keys: Sequence[str], room: int) -> tuple[dict[str, str], int]:
    """Return the values to keep, cut to their bound, and how many characters of room are left.

    The values of ``keys`` are kept in any case, the others as far as ``room`` allows.
    """
    kept = {key: values[key][:_MAX_VALUE_CHARACTERS] for key in keys if key in values}
    for key, value in values.items():
        cut = value[:_MAX_VALUE_CHARACTERS]
        if key not in kept and len(key) + len(cut) <= room:
            kept[key] = cut
            room -= len(key) + len(cut)
    return kept, room


def _mapping(content: bytes, position: int) -> dict[str, str]:
    """Return the map of texts at ``position``: a length in bytes, then keys and values in turn."""
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
    """Return the text at ``position``, which follows its length, and the offset behind it."""
    start = position + 4
    end = start + int.from_bytes(content[position:start], "little")
    if end > len(content):
        raise DamagedError("a text is longer than its record")
    try:
        return content[start:end].decode(), end
    except UnicodeDecodeError:
        raise DamagedError("a text is not UTF-8") from None
