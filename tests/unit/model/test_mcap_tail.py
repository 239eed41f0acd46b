"""The end of an MCAP file: what it tells of the recording, and how damage is found."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from foxglove.mcap import MCAPCompression
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcap.writer import IndexType, Writer

from agent.model.mcap_tail import MAGIC, DamagedError, NoTailError, Tail, read_tail
from tests.harness import recorders

METADATA = {"keystone": {"episode_id": "e1"}, "axon.task": {"task_id": "t1"}, "other": {"a": "b"}}
EMPTY_HEADER = MAGIC + struct.pack("<BQII", 1, 8, 0, 0)
DATA_END = struct.pack("<BQI", 15, 4, 0)


def tail_of(path: Path) -> Tail:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return read_tail(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def tail_of_bytes(content: bytes, size: int | None = None) -> Tail:
    descriptor = os.memfd_create("mcap")
    try:
        os.write(descriptor, content)
        if size is not None:
            os.ftruncate(descriptor, size)
        return read_tail(descriptor, len(content) if size is None else size)
    finally:
        os.close(descriptor)


def footer(summary: int, offsets: int, crc: int = 0) -> bytes:
    return struct.pack("<BQQQI", 2, 20, summary, offsets, crc) + MAGIC


WRITERS: dict[str, Callable[[Path], Path]] = {
    "mcap chunked": lambda path: recorders.write_mcap(path, metadata=METADATA),
    "mcap unchunked": lambda path: recorders.write_mcap(path, metadata=METADATA, chunked=False),
    "mcap without CRC": lambda path: recorders.write_mcap(path, metadata=METADATA, crc=False),
    "mcap without offsets": lambda path: recorders.write_mcap(
        path, metadata=METADATA, summary_offsets=False
    ),
    "foxglove": lambda path: recorders.write_foxglove(path, metadata=METADATA),
    "foxglove lz4": lambda path: recorders.write_foxglove(
        path, metadata=METADATA, compression=MCAPCompression.Lz4
    ),
    "foxglove unchunked": lambda path: recorders.write_foxglove(
        path, metadata=METADATA, use_chunks=False
    ),
    "foxglove without offsets": lambda path: recorders.write_foxglove(
        path, metadata=METADATA, emit_summary_offsets=False, calculate_summary_section_crc=False
    ),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
def test_every_writer_s_file_is_complete_and_says_what_it_holds(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    tail = tail_of(write(tmp_path / "a.mcap"))
    assert tail.start_time == recorders.START_TIME
    assert tail.end_time is not None
    assert tail.message_count in (1, 100)
    assert tail.metadata == {name: METADATA[name] for name in ("keystone", "axon.task")}


def test_a_bag_by_rosbags_is_complete(tmp_path: Path) -> None:
    assert tail_of(recorders.write_bag(tmp_path / "bag")).message_count == 100


@pytest.mark.parametrize(
    "options", [{"summary": False}, {"summary": False, "crc": False}, {"statistics": False}]
)
@pytest.mark.parametrize("chunked", [True, False])
def test_a_file_without_statistics_is_complete_and_says_nothing(
    tmp_path: Path, options: dict[str, Any], chunked: bool
) -> None:
    tail = tail_of(recorders.write_mcap(tmp_path / "a.mcap", chunked=chunked, **options))
    assert tail == Tail()


def test_a_place_named_for_an_absent_section_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.mcap"
    with path.open("wb") as stream:
        writer = Writer(
            stream,
            index_types=IndexType.NONE,
            repeat_channels=False,
            repeat_schemas=False,
            use_statistics=False,
        )
        writer.start()
        writer.finish()  # type: ignore[no-untyped-call]  # mcap annotates it only in part
    # This writer always gives an offset in the footer, even when the section is missing.
    assert struct.unpack_from("<Q", path.read_bytes()[-20:])[0] != 0
    assert tail_of(path) == Tail()


def test_a_recording_without_a_message_has_no_times(tmp_path: Path) -> None:
    tail = tail_of(recorders.write_foxglove(tmp_path / "a.mcap", messages=0))
    assert (tail.message_count, tail.start_time, tail.end_time) == (0, None, None)


def test_the_smallest_mcap_is_complete_and_a_byte_less_is_not() -> None:
    content = EMPTY_HEADER + DATA_END + footer(0, 0)
    assert tail_of_bytes(content) == Tail()
    with pytest.raises(NoTailError):
        tail_of_bytes(content[:-1])


def test_the_checksum_of_an_absent_summary_covers_the_footer() -> None:
    content = EMPTY_HEADER + DATA_END
    assert tail_of_bytes(content + footer(0, 0, 1875167664)) == Tail()
    with pytest.raises(DamagedError, match="checksum"):
        tail_of_bytes(content + footer(0, 0, 1875167665))


@pytest.mark.parametrize(
    "content", [b"", MAGIC[:3], MAGIC, MAGIC + b"\x01", EMPTY_HEADER, EMPTY_HEADER + bytes(100)]
)
def test_a_proper_start_without_an_end_is_still_recording(content: bytes) -> None:
    with pytest.raises(NoTailError):
        tail_of_bytes(content)


@pytest.mark.parametrize(
    "content",
    [
        b"PK",
        b"\x89MCAP1\r\n" + bytes(100),
        MAGIC + struct.pack("<BQ", 2, 8) + bytes(100),
        MAGIC + struct.pack("<BQ", 1, 2**63) + bytes(100),
        MAGIC + struct.pack("<BQI", 1, 8, 2**31) + bytes(100),
        MAGIC + struct.pack("<BQI2sI", 1, 10, 2, b"\xff\xff", 0) + bytes(100),
        EMPTY_HEADER + DATA_END + footer(2**64 - 1, 0),
        EMPTY_HEADER + DATA_END + footer(5, 0),
        EMPTY_HEADER + DATA_END + footer(0, 12),
        EMPTY_HEADER + DATA_END + b"\x0b" * 30 + footer(38, 0),
        EMPTY_HEADER + bytes(13) + footer(0, 0),
        EMPTY_HEADER
        + DATA_END
        + struct.pack("<BQBQQ", 14, 17, 11, 2**64 - 1, 2**64 - 1)
        + footer(38, 38),
        EMPTY_HEADER + DATA_END + struct.pack("<BQQ", 11, 8, 1) + footer(38, 0),
        EMPTY_HEADER
        + DATA_END
        + struct.pack("<BQQQI8s", 13, 28, 2**63, 1, 8, b"keystone")
        + footer(38, 0),
        EMPTY_HEADER
        + DATA_END
        + struct.pack("<BQQQI8s", 13, 28, 25, 1, 8, b"keystone")
        + footer(38, 0),
    ],
)
def test_nonsense_is_damaged(content: bytes) -> None:
    with pytest.raises(DamagedError):
        tail_of_bytes(content)


def test_a_flipped_bit_in_the_summary_is_damage(tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="checksum"):
        tail_of(recorders.damaged(tmp_path / "a.mcap"))


def with_metadata(count: int, length: int) -> bytes:
    """Return a file with ``count`` metadata records of one name.

    Each value has ``length`` bytes.
    """
    values = struct.pack("<II", 8 + length, 0) + struct.pack("<I", length) + bytes(length)
    record = struct.pack("<I8s", 8, b"axon.big") + values
    data = (struct.pack("<BQ", 12, len(record)) + record) * count
    index = b"".join(
        struct.pack(
            "<BQQQI8s", 13, 28, 25 + number * (len(record) + 9), len(record) + 9, 8, b"axon.big"
        )
        for number in range(count)
    )
    content = EMPTY_HEADER + data + DATA_END
    return content + index + footer(len(content), 0)


def test_metadata_too_large_to_be_read_is_known_by_its_name() -> None:
    assert tail_of_bytes(with_metadata(1, 4 << 20)).metadata == {"axon.big": {}}


def test_a_hostile_file_takes_no_memory() -> None:
    content = with_metadata(100, 400_000)
    tracemalloc.start()
    try:
        tail = tail_of_bytes(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert list(tail.metadata) == ["axon.big"]
    assert peak < 4 << 20


def test_an_endless_summary_is_damage_before_it_is_read() -> None:
    # The file is sparse, so it takes no space on the disk.
    size = 1 << 41
    descriptor = os.memfd_create("mcap")
    try:
        os.pwrite(descriptor, EMPTY_HEADER + DATA_END, 0)
        os.pwrite(descriptor, footer(38, 0, 1), size - 37)
        with pytest.raises(DamagedError, match="larger"):
            read_tail(descriptor, size)
    finally:
        os.close(descriptor)


def test_a_summary_of_countless_records_is_damage() -> None:
    content = EMPTY_HEADER + DATA_END + struct.pack("<BQ", 200, 0) * 1_000_001 + footer(38, 0)
    with pytest.raises(DamagedError, match="more records"):
        tail_of_bytes(content)


def test_a_large_summary_is_checked_in_small_blocks() -> None:
    summary = struct.pack("<BQ", 200, 32 << 20) + random.Random(0).randbytes(32 << 20)
    crc = zlib.crc32(summary + footer(38, 0)[:25])
    content = EMPTY_HEADER + DATA_END + summary + footer(38, 0, crc)
    tracemalloc.start()
    try:
        assert tail_of_bytes(content) == Tail()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_a_file_that_shrinks_while_it_is_read_has_no_end_yet(tmp_path: Path) -> None:
    path = recorders.write_mcap(tmp_path / "a.mcap")
    size = path.stat().st_size
    os.truncate(path, size // 2)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(NoTailError):
            read_tail(descriptor, size)
    finally:
        os.close(descriptor)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("samples")
    paths = [write(folder / f"{number}.mcap") for number, write in enumerate(WRITERS.values())]
    paths += [
        recorders.write_mcap(folder / "small.mcap", size=100, metadata=METADATA),
        recorders.write_mcap(folder / "bare.mcap", size=100, summary=False, crc=False),
        recorders.write_bag(folder / "bag"),
    ]
    return [path.read_bytes() for path in paths]


every_sample = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@every_sample
@given(st.data())
def test_a_finished_file_cut_off_anywhere_is_never_complete(
    samples: list[bytes], data: st.DataObject
) -> None:
    content = data.draw(st.sampled_from(samples))
    end = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(NoTailError):
        tail_of_bytes(content[:end])


@every_sample
@given(st.data())
def test_flipped_bits_raise_nothing_but_the_two_errors(
    samples: list[bytes], data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(samples)))
    near_an_end = st.one_of(
        st.integers(0, 200), st.integers(-600, -1), st.integers(0, len(content) - 1)
    )
    for place in data.draw(st.lists(near_an_end, min_size=1, max_size=8)):
        content[place % len(content)] ^= 1 << data.draw(st.integers(0, 7))
    try:
        tail = tail_of_bytes(bytes(content))
    except (NoTailError, DamagedError):
        return
    assert isinstance(tail, Tail)


@every_sample
@given(st.binary(max_size=300), st.booleans(), st.booleans())
def test_noise_between_a_head_and_a_footer_raises_nothing_but_the_two_errors(
    noise: bytes, summary: bool, offsets: bool
) -> None:
    end = footer(38 * summary, (38 + len(noise) // 2) * offsets)
    try:
        tail = tail_of_bytes(EMPTY_HEADER + DATA_END + noise + end)
    except (NoTailError, DamagedError):
        return
    assert isinstance(tail, Tail)


def test_the_metadata_that_is_remembered_of_one_file_is_bounded(tmp_path: Path) -> None:
    values = {f"key-{number}": "v" * 1000 for number in range(400)}
    path = recorders.write_mcap(
        tmp_path / "a.mcap", metadata={"axon.device": {**values, "task_id": "t" * 10_000}}
    )
    kept = tail_of(path).metadata["axon.device"]
    assert len(kept["task_id"]) == 2049
    assert sum(map(len, kept.values())) < 20_000
