"""Reading the log back.

No line is lost and none is read twice when files are rotated or deleted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.adapters.logtail import LogLine, LogTail


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "json").mkdir()
    return tmp_path / "json" / "agent.jsonl"


@pytest.fixture
def tail(file: Path) -> Iterator[LogTail]:
    tail = LogTail(file)
    yield tail
    tail.close()


def append(file: Path, *numbers: int) -> None:
    with file.open("a") as stream:
        stream.writelines(f'{{"number": {number}}}\n' for number in numbers)


def rotate(file: Path, name: str) -> Path:
    return file.rename(file.with_name(f"agent.{name}.jsonl"))


def numbers(lines: Iterator[LogLine] | list[LogLine]) -> list[int]:
    return [line.values["number"] for line in lines]


def every(line: LogLine) -> bool:
    del line
    return True


def test_a_filter_counts_only_what_it_lets_through(file: Path, tail: LogTail) -> None:
    append(file, *range(10))
    rotate(file, "1")
    append(file, *range(10, 20))
    assert numbers(list(tail.last(8, lambda line: line.values["number"] % 2 == 0))) == [
        4,
        6,
        8,
        10,
        12,
        14,
        16,
        18,
    ]


def test_a_log_that_begins_later_is_read_from_its_start(file: Path, tail: LogTail) -> None:
    assert list(tail.last(10, every)) == []
    assert list(tail.news()) == []
    append(file, 1)
    assert numbers(tail.news()) == [1]


def test_a_line_is_read_when_it_is_whole(file: Path, tail: LogTail) -> None:
    with file.open("ab", buffering=0) as stream:
        stream.write(b'{"number"')
        assert list(tail.news()) == []
        stream.write(b": 1}\n")
        assert numbers(tail.news()) == [1]


def test_two_rotations_between_two_looks_lose_nothing(file: Path, tail: LogTail) -> None:
    append(file, 0)
    assert numbers(tail.news()) == [0]
    for number in (1, 3):
        append(file, number)
        rotate(file, str(number))
        append(file, number + 1)
        os.utime(file, ns=(0, file.stat().st_mtime_ns + number * 10**9))
    assert numbers(tail.news()) == [1, 2, 3, 4]


def test_a_file_deleted_while_it_is_read_is_read_to_its_end(file: Path, tail: LogTail) -> None:
    append(file, 0)
    rotate(file, "0")
    append(file, 1)
    assert numbers(tail.news()) == [0, 1]
    append(file, 2)
    file.unlink()
    append(file, 3)
    assert numbers(tail.news()) == [2, 3]


def test_a_file_cut_short_is_read_from_its_start(file: Path, tail: LogTail) -> None:
    append(file, 1, 2, 3)
    assert numbers(tail.news()) == [1, 2, 3]
    os.truncate(file, 0)
    append(file, 4)
    assert numbers(tail.news()) == [4]


def test_lines_that_are_no_objects_are_passed_over(file: Path, tail: LogTail) -> None:
    file.write_bytes(b'{"number": 1}\n\xff\n[1]\n{"number"\n\n{"number": 2}\n')
    found = list(tail.news())
    assert numbers(found) == [1, 2]
    assert json.loads(found[0].text) == found[0].values
