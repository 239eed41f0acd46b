"""Compares the benchmarks of an earlier commit with those of this working tree, in turns.

The earlier commit is checked out into a git worktree of its own. Its benchmarks run there, with an
environment that is installed from its own requirements.lock.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.comparison import ComparedFigure, compare, comparison_table
from tests.bench.figures import take_turns
from tests.bench.peers import NO_PEERS
from tests.harness.paths import REPOSITORY


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the project on the disk, and the Python that has its libraries."""

    name: str
    folder: Path
    python: Path
    # The folder for compiled modules, so that both versions begin with none.
    compiled: Path

    def measure(self, number: int, *, full: bool) -> dict[str, Any]:
        """Run one benchmark of this version in its own process, and return its table as JSON.

        Peers take no part, because only versions of the agent are compared.

        Raises:
            RuntimeError: The process ended without a table. The message has its last output.
        """
        environment = {
            **os.environ,
            NO_PEERS: "1",
            "PYTHONPATH": str(self.folder),
            "PYTHONPYCACHEPREFIX": str(self.compiled),
            "PYTHONDONTWRITEBYTECODE": "",
        }
        with tempfile.TemporaryDirectory(prefix="bench-against-") as scratch:
            result = Path(scratch) / "bench.json"
            options = ["--only", str(number), "--json", str(result), *(["--full"] if full else [])]
            process = subprocess.run(
                [str(self.python), "-m", "tests.bench", *options],
                cwd=self.folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            # The exit code does not matter: it is 1 where a goal is missed, too.
            if not result.exists():
                raise RuntimeError(
                    f"table {number} was not measured {self.name}: {process.stdout[-2000:]}"
                )
            table: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))["tables"][0]
        print(f"table {number}, {self.name}: {table['seconds']:.0f} s", flush=True)
        return table


def run_against(
    revision: str,
    numbers: Sequence[int],
    *,
    rounds: int,
    full: bool,
    repository: Path = REPOSITORY,
) -> int:
    """Measure the tables in turns, print the comparison, and return the exit code.

    Args:
        revision: The earlier commit, as git names it.
        numbers: The numbers of the tables.
        rounds: How often each version measures each table.
        full: Whether the full benchmarks run.
        repository: The working tree whose benchmarks are compared with those of the commit.

    Returns:
        0 where no figure is worse beyond its spread; else 1. It is 1, too, where the versions have
        no figure in common.
    """
    figures: list[ComparedFigure] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-against-") as name,
        worktree(repository, revision, Path(name) / "tree") as folder,
    ):
        versions = (
            Version("before", folder, environment_of(folder, repository), Path(name) / "before"),
            Version("now", repository, Path(sys.executable), Path(name) / "now"),
        )
        for number in numbers:
            found = take_turns(
                {
                    version.name: functools.partial(version.measure, number, full=full)
                    for version in versions
                },
                rounds=rounds,
            )
            compared = compare(found["before"], found["now"])
            seconds = sum(table["seconds"] for tables in found.values() for table in tables)
            comparison_table(found["now"][0]["title"], number, compared, seconds).print()
            figures += compared
    return _conclude(revision, figures)


def _conclude(revision: str, figures: Sequence[ComparedFigure]) -> int:
    """Print the sum of the comparison, and return the exit code."""
    worse = [figure for figure in figures if figure.verdict == "worse"]
    for figure in worse:
        print(f"worse than {revision}: {figure.row}: {figure.name}: {figure.ratio or 0:.2f} x")
    if all(figure.ratio is None for figure in figures):
        print(f"{revision} has no figure in common with this version")
        return 1
    if not worse:
        print(f"no figure is worse than that of {revision} beyond its spread")
    return 1 if worse else 0


@contextlib.contextmanager
def worktree(repository: Path, revision: str, folder: Path) -> Iterator[Path]:
    """Check the commit out into ``folder`` while the block lasts.

    Exits with git's message where there is no such commit.
    """
    git = ("git", "-C", str(repository), "worktree")
    added = subprocess.run(
        [*git, "add", "--detach", str(folder), revision],
        capture_output=True,
        text=True,
        check=False,
    )
    if added.returncode:
        sys.exit(f"{revision} can't be checked out: {added.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def environment_of(version: Path, repository: Path) -> Path:
    """Return the Python of an environment with the libraries of a version.

    Where the version has the libraries of ``repository``, this Python has them already. Otherwise
    the environment is kept in ``repository`` for the next comparison. Its name has the digest of
    requirements.lock and of the Python version. `make clean` deletes it.
    """
    lock = version / "requirements.lock"
    if lock.read_bytes() == (repository / lock.name).read_bytes():
        return Path(sys.executable)
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = repository / f".venv-against-{digest}"
    python = folder / "bin" / "python"
    # This file says that the installation came to its end.
    installed = folder / ".installed"
    if not installed.exists():
        print(f"installing the libraries of {lock.name} into {folder.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "-r", str(lock)], check=True)
        installed.touch()
    return python
