"""Tests that a sidecar takes little memory, whatever is in it."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from agent.discovery.sidecar import read_sidecar
from agent.model.values import Sidecar

MIB = 1024 * 1024


def read(folder: Path, content: bytes) -> Sidecar:
    (folder / "a.json").write_bytes(content)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = read_sidecar(folder / "a.json", descriptor, follow_symlinks=False)
    finally:
        os.close(descriptor)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "item",
    ["1e308", "[]", "{}", '{"a":1}', "[[[[0]]]]", "7", '"ab"', '{"a":{"b":[{}]}}', '"\\u0100"'],
)
def test_a_full_sidecar_takes_little_memory(tmp_path: Path, item: str) -> None:
    count = (MIB - 20) // (len(item) + 1)
    content = f'{{"a":[{",".join([item] * count)}]}}'.encode()
    tracemalloc.start()
    try:
        sidecar = read(tmp_path, content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * MIB
    assert sidecar.content is not None or "more than 20000" in sidecar.fault


@pytest.mark.parametrize("text", ["2026-09-21T14:13:20Z", '{[:\\"{[:', "\\\\"])
def test_marks_of_members_inside_strings_do_not_count(tmp_path: Path, text: str) -> None:
    content = {"texts": [text] * 20_001}
    assert read(tmp_path, json.dumps(content).encode()).content == content


@pytest.mark.parametrize("item", ['{":":[]}', "[]", '{"\\\\" :1}'])
def test_members_beside_escapes_and_strings_count(tmp_path: Path, item: str) -> None:
    content = f'{{"a":[{",".join([item] * 20_001)}]}}'.encode()
    assert "more than 20000" in read(tmp_path, content).fault


def test_an_array_of_many_numbers_and_many_members_are_read(tmp_path: Path) -> None:
    members = ",".join(f'"{number}":{number}' for number in range(9000))
    numbers = ",".join(map(str, range(100_000)))
    content = read(tmp_path, f'{{"numbers":[{numbers}],{members}}}'.encode()).content
    assert content is not None
    assert len(content) == 9001
