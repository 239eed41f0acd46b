"""Writes the recordings of the tests with the recorders' own libraries.

Also imitates the order in which recorders close their files.
"""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import foxglove
import zstandard
from foxglove.mcap import MCAPCompression, MCAPWriteOptions
from mcap.writer import CompressionType, IndexType, Writer
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as BagWriter
from rosbags.typesys import Stores, get_typestore

# The log time of the first message, in nanoseconds.
START_TIME = 1_790_000_000_000_000_000

# The bytes of the footer record and the closing magic.
TAIL_SIZE = 37

Metadata = Mapping[str, Mapping[str, str]]


def dated(path: Path, seconds: int) -> Path:
    """Give a file this modification time, in seconds since 1970.

    Fails when the file system cannot store that time.
    """
    os.utime(path, ns=(0, seconds * 10**9))
    assert path.stat().st_mtime_ns == seconds * 10**9, "the file system holds no such date"
    return path


def write_mcap(
    path: Path,
    *,
    size: int = 64 * 1024,
    seed: int = 0,
    metadata: Metadata | None = None,
    chunked: bool = True,
    summary: bool = True,
    summary_offsets: bool = True,
    statistics: bool = True,
    crc: bool = True,
    messages: int | None = None,
    compression: CompressionType = CompressionType.NONE,
) -> Path:
    """Write a complete MCAP of about ``size`` bytes that cannot be compressed. Return ``path``.

    The same seed gives the same bytes. ``metadata`` holds metadata records by name. Without
    ``summary`` the file has neither a summary nor a summary offset section. ``messages`` is how
    many messages share the bytes; by default there is one for each MiB. Overwrites ``path``.
    """
    rng = random.Random(seed)
    count = max(1, size >> 20) if messages is None else messages
    with path.open("wb") as stream:
        writer = Writer(
            stream,
            compression=compression,
            index_types=IndexType.ALL if summary else IndexType.NONE,
            repeat_channels=summary,
            repeat_schemas=summary,
            use_chunking=chunked,
            use_statistics=summary and statistics,
            use_summary_offsets=summary and summary_offsets,
            enable_crcs=crc,
        )
        writer.start(profile="ros2")
        schema = writer.register_schema("test/Noise", "ros2msg", b"uint8[] data")
        channel = writer.register_channel("/noise", "cdr", schema)
        for name, values in (metadata or {}).items():
            writer.add_metadata(name, dict(values))
        for number in range(count):
            moment = START_TIME + number * 1_000_000
            writer.add_message(channel, moment, rng.randbytes(size // count), moment, number)
        writer.finish()  # type: ignore[no-untyped-call]  # mcap has no types for it
    return path


def unfinished(path: Path, *, size: int = 64 * 1024, seed: int = 0) -> Path:
    """Write what a recorder leaves behind after a power cut: a proper start and no tail."""
    write_mcap(path, size=size, seed=seed)
    os.truncate(path, path.stat().st_size * 9 // 10)
    return path


def damaged(path: Path, *, size: int = 64 * 1024, seed: int = 0) -> Path:
    """Write a finished MCAP with one flipped bit in its summary, so its CRC does not match."""
    write_mcap(path, size=size, seed=seed)
    content = bytearray(path.read_bytes())
    (summary_start,) = struct.unpack_from("<Q", content, len(content) - TAIL_SIZE + 9)
    content[summary_start + 20] ^= 0x10
    path.write_bytes(content)
    return path


def write_sidecar(recording: Path, content: Any = None) -> Path:
    """Write the sidecar of ``recording``, and return its path.

    By default its content is an object with an episode id made from the recording's name.
    """
    sidecar = recording.with_suffix(".json")
    sidecar.write_text(
        json.dumps({"episode_id": f"ep-{recording.stem}"} if content is None else content)
    )
    return sidecar


def write_foxglove(
    path: Path, *, messages: int = 100, metadata: Metadata | None = None, **options: Any
) -> Path:
    """Write a complete MCAP with foxglove-sdk. ``options`` are those of MCAPWriteOptions."""
    context = foxglove.Context()
    options.setdefault("compression", MCAPCompression.Zstd)
    with foxglove.open_mcap(
        path, context=context, writer_options=MCAPWriteOptions(**options)
    ) as writer:
        channel = foxglove.Channel("/noise", context=context)
        for number in range(messages):
            channel.log({"number": number}, log_time=START_TIME + number)
        for name, values in (metadata or {}).items():
            writer.write_metadata(name, dict(values))
    return path


def write_bag(folder: Path, *, messages: int = 100) -> Path:
    """Write a rosbag2 folder with rosbags' own writer. Return its only split."""
    typestore = get_typestore(Stores.ROS2_HUMBLE)
    with BagWriter(folder, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        connection = bag.add_connection("/noise", "std_msgs/msg/String", typestore=typestore)
        message = typestore.types["std_msgs/msg/String"]
        for number in range(messages):
            raw = typestore.serialize_cdr(message(data=f"number {number}"), "std_msgs/msg/String")
            bag.write(connection, START_TIME + number, raw)
    return folder / f"{folder.name}.mcap"


def axon_steps(path: Path, *, size: int = 64 * 1024, seed: int = 0) -> Iterator[str]:
    """Close a recording in Axon's order, one step at each ``next``.

    The steps are footer, metadata, sidecar, done. Axon adds the metadata to the finished file, so
    the end of the file is written again after the new records.
    """
    write_mcap(path, size=size, seed=seed)
    yield "footer"
    aside = path.with_suffix(".aside")
    write_mcap(
        aside, size=size, seed=seed, metadata={"axon.task": {"task_id": f"task-{path.stem}"}}
    )
    with path.open("r+b") as stream:
        stream.write(aside.read_bytes())
    aside.unlink()
    yield "metadata"
    write_sidecar(path, {"task": {"task_id": f"task-{path.stem}"}})
    yield "sidecar"
    path.with_name(path.name + ".done").touch()
    yield "done"


def rosbag2_steps(folder: Path, *, splits: int = 2, size: int = 64 * 1024) -> Iterator[str]:
    """Record a bag in rosbag2's order, with the CRC 0 of its preset fastwrite.

    The order is: each split, metadata.yaml, and then the end of the last split. Yields the name of
    the file that has just become complete, or "open" while the last split has no end.
    """
    folder.mkdir(parents=True)
    for number in range(splits - 1):
        yield write_mcap(
            folder / f"{folder.name}_{number}.mcap", size=size, seed=number, crc=False
        ).name
    last = folder / f"{folder.name}_{splits - 1}.mcap"
    write_mcap(last, size=size, seed=splits - 1, crc=False)
    whole = last.read_bytes()
    os.truncate(last, len(whole) - 1000)
    yield "open"
    (folder / "metadata.yaml").write_text("rosbag2_bagfile_information:\n  version: 5\n")
    yield "metadata.yaml"
    with last.open("r+b") as stream:
        stream.write(whole)
    yield last.name


def compression_steps(path: Path, *, size: int = 64 * 1024, seed: int = 0) -> Iterator[str]:
    """Compress a split in rosbag2's order, one step at each ``next``.

    The steps are closed, compressing, compressed, deleted.
    """
    write_mcap(path, size=size, seed=seed, crc=False)
    yield "closed"
    compressed = path.with_name(path.name + ".zstd")
    content = zstandard.compress(path.read_bytes())
    compressed.write_bytes(content[: len(content) // 2])
    yield "compressing"
    compressed.write_bytes(content)
    yield "compressed"
    path.unlink()
    yield "deleted"
