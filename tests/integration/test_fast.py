"""Tests of the choice of the fast tests.

Tests that start a process are left out. A fast test that starts a process nevertheless fails.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pytest

from tests.harness import debian, recorders
from tests.harness.fast import Reading
from tests.harness.paths import REPOSITORY

TESTS = """
import importlib, os, subprocess
import pytest

def test_of_nothing():
    assert True

def test_of_a_process():
    subprocess.run(["true"])

@pytest.fixture
def started():
    subprocess.run(["true"])

def test_of_a_fixture(started):
    assert True

@pytest.mark.slow
def test_that_is_slow():
    assert True
"""

HIDDEN = """
import importlib

def test_of_what_no_name_tells():
    try:
        getattr(importlib.import_module("sub" + "process"), "run")(["true"])
    except BaseException:
        pass
"""


def fast(folder: Path, content: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the fast ones of these tests, and none of this repository."""
    (folder / "test_it.py").write_text(content)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = .\naddopts = --strict-markers\n")
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "pytest", "-p", "tests.harness.fast", "--fast", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=100
    )


def test_what_starts_a_process_or_is_slow_is_left_out(tmp_path: Path) -> None:
    ran = fast(tmp_path, TESTS, "test_it.py")
    assert "1 passed, 3 deselected" in ran.stdout
    assert ran.returncode == 0


def test_a_fast_test_that_starts_a_process_fails_whatever_it_makes_of_the_refusal(
    tmp_path: Path,
) -> None:
    ran = fast(tmp_path, HIDDEN, "test_it.py")
    assert "1 failed" in ran.stdout
    assert "is a fast test and starts a process" in ran.stdout
    assert ran.returncode == 1


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_of_all_in_which_hardly_any_passes_fails(tmp_path: Path, workers: str) -> None:
    ran = fast(tmp_path, TESTS, "-n", workers)
    assert "only 1 fast tests passed" in ran.stdout
    assert ran.returncode == 1


def test_a_run_of_none_fails(tmp_path: Path) -> None:
    ran = fast(tmp_path, "import subprocess\ndef test_it(): subprocess.run(['true'])\n")
    assert ran.returncode == pytest.ExitCode.NO_TESTS_COLLECTED


class Starter:
    """A class that starts a process in a property."""

    @cached_property
    def code(self) -> int:
        return self._run()

    def _run(self) -> int:
        return subprocess.run(["true"], check=True).returncode


class Inheriting(Starter):
    """A class that inherits the start of a process."""


def by_a_class() -> int:
    return Inheriting().code


def by_a_module() -> Callable[..., object]:
    return debian.bootstrap


def by_os() -> int:
    return os.fork()


def in_a_function_inside() -> Callable[[], object]:
    return lambda: by_os() + 1


def harmless() -> None:
    recorders.write_mcap(Path("x"))


@pytest.mark.parametrize(
    "thing", [by_a_class, by_a_module, by_os, in_a_function_inside, Inheriting]
)
def test_a_start_is_found_behind_names(thing: object) -> None:
    assert Reading().starts(thing)


def test_what_only_writes_files_starts_nothing() -> None:
    assert not Reading().starts(harmless)
