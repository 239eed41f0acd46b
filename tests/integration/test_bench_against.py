"""Tests of `python -m tests.bench --against REV` with a small project in place of this one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.against import environment_of, run_against

# A benchmark with one row, whose figure grows a little with each round.
BENCH = """
import json, pathlib, sys
assert sys.argv[1:4] == ["--only", "5", "--json"]
order = pathlib.Path({order!r})
said = order.read_text() if order.exists() else ""
order.write_text(said + {name!r})
rows = [["agent", {value} + len(said) / 100]]
table = {{"number": 5, "title": "Cost", "seconds": 0, "columns": ["what", "CPU s"], "rows": rows}}
pathlib.Path(sys.argv[4]).write_text(json.dumps({{"tables": [table]}}))
# A goal is missed.
sys.exit(1)
"""


class Project:
    """A git repository whose only code is a benchmark."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "project"
        self.order = folder / "order"
        (self.folder / "tests" / "bench").mkdir(parents=True)
        for package in ("tests", "tests/bench"):
            (self.folder / package / "__init__.py").touch()
        (self.folder / "requirements.lock").touch()
        (self.folder / ".gitignore").write_text(".venv*/\n")
        self.git("init", "--quiet")

    def write(self, name: str, value: float) -> None:
        """Write the benchmark. Each run of it measures ``value`` and notes ``name``."""
        code = BENCH.format(order=str(self.order), name=name, value=value)
        (self.folder / "tests" / "bench" / "__main__.py").write_text(code)

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet", "-m", "x")

    def git(self, *arguments: str) -> str:
        """Run git in the repository and return its output."""
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project of one commit."""
    project = Project(tmp_path)
    project.write("A", 1.0)
    project.commit()
    return project


@pytest.mark.parametrize(("value", "code"), [(2.0, 1), (1.0, 0)])
def test_a_commit_and_the_working_tree_are_measured_in_turns_and_compared(
    project: Project, capsys: pytest.CaptureFixture[str], value: float, code: int
) -> None:
    project.write("B", value)
    assert run_against("HEAD", [5], rounds=2, full=False, repository=project.folder) == code
    assert project.order.read_text() == "ABAB"
    output = capsys.readouterr().out
    assert ("worse than HEAD: agent: CPU s: 2.0" in output) == bool(code)
    assert project.git("worktree", "list").count("\n") == 1, "the worktree is removed"


def test_a_benchmark_that_fails_shows_what_it_printed(project: Project) -> None:
    (project.folder / "tests" / "bench" / "__main__.py").write_text("raise OSError('full')")
    with pytest.raises(RuntimeError, match=r"table 5 was not measured now: (.|\n)*full"):
        run_against("HEAD", [5], rounds=2, full=False, repository=project.folder)
    assert project.git("worktree", "list").count("\n") == 1


def test_a_commit_that_is_not_there_is_named(project: Project) -> None:
    with pytest.raises(SystemExit, match=r"nothing~3 can't be checked out: fatal: "):
        run_against("nothing~3", [5], rounds=2, full=False, repository=project.folder)


@pytest.mark.slow
def test_an_environment_is_installed_once_for_the_same_lock(tmp_path: Path) -> None:
    version = tmp_path / "version"
    version.mkdir()
    (version / "requirements.lock").touch()
    (tmp_path / "requirements.lock").write_text("# Other libraries.")
    python = environment_of(version, tmp_path)
    assert python.exists()
    assert python != Path(sys.executable)
    # A second installation would clear the folder.
    (python.parent / "mark").touch()
    assert environment_of(version, tmp_path) == python
    assert (python.parent / "mark").exists()
