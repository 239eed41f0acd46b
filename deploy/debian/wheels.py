"""Which wheels the agent needs on a robot, by Python and processor: fetched once, each one checked against the lock."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = REPOSITORY / "deploy" / "requirements.lock"
STORE = REPOSITORY / ".wheels"  # kept between builds, so that a second one needs no network

PYTHONS = (
    10,
    11,
    12,
    13,
    14,
)  # 3.N: those of Ubuntu 22.04, Debian 12, Ubuntu 24.04, Debian 13, and the next one
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
_GLIBC = range(17, 36)  # 2.N; Ubuntu 22.04 has 2.35, the others newer ones


def gather(folder: Path, architecture: str, python: int) -> list[Path]:
    """Put the wheels for Python 3.``python`` into ``folder``; each has a hash that the lock gives.

    Raises subprocess.CalledProcessError when one can't be had or is another one; pip has said which.
    """
    machine = MACHINES[architecture]
    folder.mkdir(parents=True)
    wanted = folder / "requirements.txt"
    wanted.write_text("\n".join(_pinned(machine, python)), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += [
        "--no-deps",
        "--require-hashes",
        "--requirement",
        str(wanted),
        "--only-binary=:all:",
    ]
    command += ["--implementation=cp", f"--python-version=3.{python}"]
    command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in reversed(_GLIBC)]
    command += [f"--platform=manylinux2014_{machine}", f"--find-links={STORE}"]
    STORE.mkdir(exist_ok=True)
    stored = subprocess.run(
        [*command, "--no-index", f"--dest={folder}"], capture_output=True, check=False
    )
    if stored.returncode:
        subprocess.run([*command, f"--dest={STORE}"], check=True)
        subprocess.run([*command, "--no-index", f"--dest={folder}"], check=True)
    return sorted(folder.glob("*.whl"))


def _pinned(machine: str, python: int) -> Iterator[str]:
    """The lock's lines that hold there. pip itself would judge their conditions by the Python that runs it."""
    there = {
        "implementation_name": "cpython",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"3.{python}.0",
        "python_version": f"3.{python}",
        "sys_platform": "linux",
    }
    for entry in LOCK.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        pin, *hashes = entry.split(" --hash=")
        requirement = Requirement(pin)
        if requirement.marker is None or requirement.marker.evaluate(there):
            yield " --hash=".join(
                [f"{requirement.name}{requirement.specifier} ", *(each.strip() for each in hashes)]
            )
