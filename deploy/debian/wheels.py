"""Fetches the wheels that the agent needs on a robot, for each Python and processor.

Each wheel is fetched once and checked against deploy/requirements.lock.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[2]
LOCK = REPOSITORY / "deploy" / "requirements.lock"

# This folder is kept between builds, so that a second build needs no network.
STORE = REPOSITORY / ".wheels"

# The minor versions of Python 3 in Ubuntu 22.04, Debian 12, Ubuntu 24.04 and Debian 13, and the
# version after them.
PYTHONS = (10, 11, 12, 13, 14)

# The names of processors: dpkg's name, and the kernel's name for it.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}

# Wheels for these minor versions of glibc 2 run on all robots. Ubuntu 22.04 has 2.35, and the other
# systems have newer ones.
_GLIBC_MINORS = range(17, 36)


def gather(folder: Path, architecture: str, python: int) -> list[Path]:
    """Put the wheels for Python 3.``python`` into ``folder``, and return their paths.

    Raises subprocess.CalledProcessError when a wheel cannot be fetched, or has another hash than
    the lock says. pip has printed which one.
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
    command += [f"--platform=manylinux_2_{minor}_{machine}" for minor in reversed(_GLIBC_MINORS)]
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
    """Yield the lines of the lock that apply to this machine and Python.

    pip would evaluate their conditions for the Python that runs it, so they are evaluated here.
    """
    environment = {
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
        if requirement.marker is None or requirement.marker.evaluate(environment):
            yield " --hash=".join(
                [f"{requirement.name}{requirement.specifier} ", *(each.strip() for each in hashes)]
            )
