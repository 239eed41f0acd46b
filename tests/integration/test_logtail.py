"""Reading the log that another process writes and rotates."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.logtail import LogLine, LogTail

_WRITER = """
import logging, sys
from pathlib import Path
from agent.adapters import logs

folder, count, size, files = sys.argv[1:]
logs.start("INFO", Path(folder), float(size), int(files), console=False)
log = logging.getLogger("agent.test")
for number in range(int(count)):
    log.info("line", extra={"event": "written", "number": number})
logs.stop()
"""


def write(
    folder: Path, count: int, *, size: float = 1, files: int = 1000
) -> subprocess.Popen[bytes]:
    """Start a process that logs ``count`` lines as the agent does.

    It rotates the file at ``size`` MiB.
    """
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(folder), str(count), str(size), str(files)]
    )


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[LogTail]:
    (tmp_path / "json").mkdir()
    tail = LogTail(tmp_path / "json" / "agent.jsonl")
    yield tail
    tail.close()


def numbers(lines: Iterator[LogLine] | list[LogLine]) -> list[int]:
    return [line.values["number"] for line in lines]


def test_who_follows_while_a_real_process_rotates_reads_each_line_once(
    tmp_path: Path, tail: LogTail
) -> None:
    nap = threading.Event()
    read: list[int] = []
    writer = write(tmp_path, 5000, size=0.01)
    try:
        while writer.poll() is None:
            read += numbers(tail.news())
            nap.wait(0.001)
        read += numbers(tail.news())
    finally:
        writer.kill()
        writer.wait()
    assert len(list((tmp_path / "json").iterdir())) > 20
    assert read == list(range(5000))


def test_the_last_lines_are_found_across_rotated_files_and_followed_from_there(
    tmp_path: Path, tail: LogTail
) -> None:
    assert write(tmp_path, 600, size=0.01).wait() == 0
    assert len(list((tmp_path / "json").iterdir())) > 5
    found = tail.last(400, lambda _: True)
    assert numbers(list(found)) == list(range(200, 600))
    with (tmp_path / "json" / "agent.jsonl").open("a") as stream:
        stream.write('{"number": 600}\n')
    assert numbers(tail.news()) == [600]
