"""Tests of the build date of wheels and source archives, with the project's own build.

The date must be that of the commit, whatever the clock of the building machine shows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from agent import BUILD_DATE
from tests.harness.paths import REPOSITORY

# 2026-12-24 18:00 UTC.
COMMITTED_SECONDS = 1_798_135_200
COMMITTED = "2026-12-24T18:00:00Z"
SOURCES = (
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "agent/__init__.py",
    "config/agent.toml",
    "deploy/debian/commit_date.py",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a folder with the few files of the project that a build needs."""
    folder = tmp_path / "project"
    for name in SOURCES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, folder / name)
    return folder


def commit(folder: Path) -> None:
    """Commit everything in ``folder`` at the time COMMITTED."""
    date = f"{COMMITTED_SECONDS} +0000"
    names = {"NAME": "n", "EMAIL": "n@example.org", "DATE": date}
    environ = {f"GIT_{who}_{key}": names[key] for who in ("AUTHOR", "COMMITTER") for key in names}
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=folder, check=True, env={**os.environ, **environ})


def build(source: Path, target: str, epoch: str = "") -> Path:
    """Build ``target``, "wheel" or "sdist", and return the archive."""
    environ = {key: text for key, text in os.environ.items() if key != "SOURCE_DATE_EPOCH"}
    if epoch:
        environ["SOURCE_DATE_EPOCH"] = epoch
    built = source.parent / "built"
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(built)]
    subprocess.run(command, cwd=source, check=True, env=environ, capture_output=True)
    (archive,) = built.iterdir()
    return archive


def date_in(archive: Path) -> str:
    """Return the build date in the only agent/__init__.py of a wheel."""
    with zipfile.ZipFile(archive) as wheel:
        assert wheel.namelist().count("agent/__init__.py") == 1
        text = wheel.read("agent/__init__.py").decode()
    (date,) = re.findall(r'^BUILD_DATE = "(.+)"$', text, re.MULTILINE)
    assert text.count(date) == 1
    return str(date)


def test_a_wheel_has_the_date_of_the_commit(source: Path) -> None:
    commit(source)
    assert date_in(build(source, "wheel")) == COMMITTED


def test_a_time_that_the_builder_gives_goes_before_the_commit(source: Path) -> None:
    commit(source)
    assert date_in(build(source, "wheel", epoch="1800000000")) == "2027-01-15T08:00:00Z"


def test_the_repository_around_a_source_without_one_gives_no_date(source: Path) -> None:
    commit(source.parent)
    assert date_in(build(source, "wheel")) == BUILD_DATE


def test_a_wheel_of_a_source_archive_has_the_date_of_the_commit(source: Path) -> None:
    commit(source)
    unpacked = source.parent / "unpacked"
    with tarfile.open(build(source, "sdist")) as archive:
        archive.extractall(unpacked, filter="data")
    shutil.rmtree(source.parent / "built")
    (folder,) = unpacked.iterdir()
    shutil.move(folder, source.parent / "again")
    assert date_in(build(source.parent / "again", "wheel")) == COMMITTED


def test_an_editable_installation_has_no_copy_of_the_source(source: Path) -> None:
    commit(source)
    build(source, "wheel:editable")
    (archive,) = (source.parent / "built").iterdir()
    with zipfile.ZipFile(archive) as wheel:
        assert "agent/__init__.py" not in wheel.namelist()
