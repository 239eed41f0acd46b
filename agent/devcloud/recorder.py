"""The demo's recorder: writes an MCAP file slowly, as a robot does.

The sidecar is written just before the recording is finished. Run this module as a program:
``python -m agent.devcloud.recorder FILE --seconds 4 --mebibytes 48``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mcap.writer import CompressionType, Writer

_STEPS_PER_SECOND = 20
_CHUNK_BYTES = 1024 * 1024

# The largest picture in a recording. A large recording of few seconds gets more steps instead.
_LARGEST_PICTURE_BYTES = 8 * _CHUNK_BYTES

# The JSON topics of the recording, each with the fields of its messages and their JSON types.
_TOPICS = {
    "/imu": {"x": "number", "y": "number", "z": "number"},
    "/joint_states": {"positions": "array"},
}


def record(
    path: Path,
    *,
    seconds: float,
    mebibytes: float,
    episode_id: str = "",
    sidecar: bool = True,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Write an MCAP file of about ``mebibytes`` to ``path`` in about ``seconds``.

    The footer is written at the very end, so until then the file is no complete recording.

    Args:
        path: The file to write. Its folder is created when it is missing.
        seconds: How long to write.
        mebibytes: The size of the recording.
        episode_id: The episode's id; the stem of ``path`` when it is empty.
        sidecar: Whether to write a sidecar, too.
        pause: Waits so many seconds between two steps.
    """
    episode_id = episode_id or path.stem
    noise = random.Random(episode_id)  # noqa: S311 - pictures for a demo
    steps = max(
        1,
        round(seconds * _STEPS_PER_SECOND),
        math.ceil(mebibytes * _CHUNK_BYTES / _LARGEST_PICTURE_BYTES),
    )
    picture_size = max(1, int(mebibytes * 1024 * 1024 / steps))
    begun = time.monotonic()
    started_at = time.time_ns()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = Writer(file, chunk_size=_CHUNK_BYTES, compression=CompressionType.NONE)
        writer.start(profile="", library="keystone-agent demo recorder")
        camera = writer.register_channel("/camera/front", "application/octet-stream", schema_id=0)
        imu, joints = (_json_channel(writer, topic, fields) for topic, fields in _TOPICS.items())
        writer.add_metadata("keystone", {"episode_id": episode_id})
        for step in range(steps):
            at = started_at + int(step / steps * seconds * 1e9)
            angle = step / _STEPS_PER_SECOND
            writer.add_message(camera, at, noise.randbytes(picture_size), at, step)
            writer.add_message(
                imu, at, json.dumps({"x": math.sin(angle), "y": 0.0, "z": 9.81}).encode(), at, step
            )
            writer.add_message(
                joints, at, json.dumps({"positions": [angle, -angle]}).encode(), at, step
            )
            file.flush()
            pause(max(0.0, begun + (step + 1) / steps * seconds - time.monotonic()))
        if sidecar:
            write_sidecar(path, episode_id, seconds)
        writer.finish()  # type: ignore[no-untyped-call]  # the library has no types for it
        file.flush()
        os.fsync(file.fileno())


def write_sidecar(path: Path, episode_id: str, seconds: float) -> None:
    """Write the sidecar of the recording ``path`` beside it, atomically."""
    content = {
        "episode_id": episode_id,
        "duration_seconds": seconds,
        "task": {
            "task_id": episode_id,
            "sop_slug": "demo",
            "scene": "workbench",
            "robot_type": "demo-arm",
        },
        "topics_summary": [{"topic": topic} for topic in ("/camera/front", *_TOPICS)],
    }
    aside = path.with_suffix(".json.part")
    aside.write_text(json.dumps(content, indent=2) + "\n")
    aside.replace(path.with_suffix(".json"))


def _json_channel(writer: Writer, topic: str, fields: dict[str, str]) -> int:
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in fields.items()},
    }
    schema_id = writer.register_schema(topic.strip("/"), "jsonschema", json.dumps(schema).encode())
    return int(writer.register_channel(topic, "json", schema_id=schema_id))


def main(arguments: Sequence[str] | None = None) -> None:
    """Record one file with the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m agent.devcloud.recorder", description="Write an MCAP slowly."
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--mebibytes", type=float, default=48.0)
    parser.add_argument("--episode", default="", help="the episode id (default: the stem of FILE)")
    parser.add_argument("--no-sidecar", action="store_true")
    given = parser.parse_args(arguments)
    record(
        given.file,
        seconds=given.seconds,
        mebibytes=given.mebibytes,
        episode_id=given.episode,
        sidecar=not given.no_sidecar,
    )


if __name__ == "__main__":
    main()
