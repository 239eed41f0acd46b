"""Builds the Debian package: the agent with all its libraries.

The package has the libraries for each version of Python that a robot may have.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from email.utils import formatdate
from pathlib import Path

from commit_date import commit_seconds
from wheels import MACHINES, PYTHONS, REPOSITORY, gather

HERE = Path(__file__).resolve().parent
INIT = REPOSITORY / "agent/__init__.py"
_LIBRARIES = Path("opt/keystone-agent/lib")

# Files in wheels that an installed agent does not need.
_NOT_FOR_ROBOTS = re.compile(
    r"\.(pyi|pyx|pxd|c|h|proto)$|(^|/)SelfTest/|\.dist-info/(RECORD|sboms/)"
)
_SCRIPTS = ("postinst", "prerm", "postrm")

# Files that are copied into the package unchanged: source, target and mode of each.
_FILES = (
    ("deploy/debian/launcher.py", "opt/keystone-agent/bin/keystone-agent", 0o755),
    ("deploy/debian/rtupdate", "usr/share/python3/runtime.d/keystone-agent.rtupdate", 0o755),
    ("deploy/debian/completion", "usr/share/bash-completion/completions/keystone-agent", 0o644),
    ("deploy/debian/copyright", "usr/share/doc/keystone-agent/copyright", 0o644),
    (
        "deploy/systemd/keystone-agent.service",
        "usr/lib/systemd/system/keystone-agent.service",
        0o644,
    ),
    ("deploy/systemd/keystone-agent.sysusers", "usr/lib/sysusers.d/keystone-agent.conf", 0o644),
    # This file is not a conffile. postinst copies it to /etc at the first installation. From then
    # on the copy belongs to the operator, and an upgrade neither replaces it nor asks about it.
    ("config/agent.toml", "usr/share/keystone-agent/agent.toml", 0o644),
    # All pages and what they link to. The folders stay, so that the links between the pages work.
    *(
        (name, f"usr/share/doc/keystone-agent/{name}", 0o644)
        for name in (
            "README.md",
            "ARCHITECTURE.md",
            "BENCHMARKS.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "LICENSE",
            "SECURITY.md",
            "config/README.md",
            "config/agent.toml",
            "deploy/README.md",
            "tests/harness/pictures/status-watch.svg",
        )
    ),
)


def build(architecture: str, version: str, folder: Path, *, level: int = 9) -> Path:
    """Build the package in ``folder``, with the same bytes each time, and return its path.

    Args:
        architecture: The architecture as dpkg names it: amd64 or arm64.
        version: The version of the package and of the agent in it. An empty text means the version
            in agent/__init__.py.
        folder: Created when it is missing.
        level: The compression level of xz, 0 to 9. Only level 9 has a dictionary large enough to
            use that gRPC's library is nearly the same for each Python, which halves the package.

    Raises:
        subprocess.CalledProcessError: pip or dpkg-deb has failed, and has printed why.
    """
    version = version or _version()
    epoch = commit_seconds(REPOSITORY)
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work, root = Path(name), Path(name, "root")
        _copy_files(root)
        _unpack_libraries(root / _LIBRARIES, work / "wheels", architecture)
        _unpack(_build_agent(work, version), root / _LIBRARIES / "common")
        _write_changelogs(root / "usr/share/doc/keystone-agent", version, epoch)
        _write_control(root, architecture, version)
        _normalize(root, epoch)
        package = folder / f"keystone-agent_{version}_{architecture}.deb"
        command = [
            "dpkg-deb",
            "--root-owner-group",
            "-Zxz",
            f"-z{level}",
            "--build",
            str(root),
            str(package),
        ]
        subprocess.run(
            command,
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "DPKG_DEB_THREADS_MAX": "1"},
        )
    return package


def _version() -> str:
    return _match_in(INIT, r'^__version__ = "(.+)"$')


def _copy_files(root: Path) -> None:
    for source, target, mode in _FILES:
        (root / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / source, root / target)
        (root / target).chmod(mode)
    (root / "etc/keystone-agent/agent.toml.d").mkdir(parents=True)
    (root / "usr/bin").mkdir()
    (root / "usr/bin/keystone-agent").symlink_to("/opt/keystone-agent/bin/keystone-agent")


def _unpack_libraries(libraries: Path, work: Path, architecture: str) -> None:
    """Unpack the libraries below ``libraries``.

    A library of which every Python needs the same version goes to ``common``, any other to
    ``python3.N``. Modules in C for several Pythons can be in one folder, because their names say
    for which Python they are.
    """
    wheels = {python: gather(work / str(python), architecture, python) for python in PYTHONS}
    releases = {python: {_release(wheel) for wheel in found} for python, found in wheels.items()}
    shared = set.intersection(*releases.values())
    for python, found in wheels.items():
        for wheel in found:
            _unpack(
                wheel, libraries / ("common" if _release(wheel) in shared else f"python3.{python}")
            )


def _release(wheel: Path) -> str:
    return "-".join(wheel.name.split("-")[:2])


def _unpack(wheel: Path, target: Path) -> None:
    """Unpack a wheel. Raises ValueError when another wheel has a different file of that name."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if (
                member.is_dir()
                or _NOT_FOR_ROBOTS.search(member.filename)
                or ".data/" in member.filename
            ):
                continue
            path, content = target / member.filename, archive.read(member)
            if (
                path.exists()
                and path.read_bytes() != content
                and ".dist-info/" not in member.filename
            ):
                raise ValueError(
                    f"{wheel.name} has another {member.filename} than the wheel for another Python"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _build_agent(work: Path, version: str) -> Path:
    """Build the wheel of the agent with this version, and return its path."""
    source = work / "source"
    shutil.copytree(
        REPOSITORY / "agent", source / "agent", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(REPOSITORY / "config", source / "config")
    for name in ("pyproject.toml", "README.md", "LICENSE", "deploy/debian/commit_date.py"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, source / name)
    init = source / "agent/__init__.py"
    init.write_text(
        init.read_text("utf-8").replace(f'"{_version()}"', f'"{version}"'), encoding="utf-8"
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    command += ["--no-index", "--no-build-isolation", f"--wheel-dir={work / 'agent'}", str(source)]
    subprocess.run(command, check=True)
    return next((work / "agent").glob("*.whl"))


def _write_changelogs(documents: Path, version: str, epoch: int) -> None:
    """Write the changelog for people, and one in Debian's form, which refers to it."""
    changes = (REPOSITORY / "CHANGELOG.md").read_bytes()
    debian = (
        f"keystone-agent ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.gz.\n\n"
        f" -- {_match_in(HERE / 'control', '^Maintainer: (.+)$')}  {formatdate(epoch)}\n"
    )
    for name, content in (("CHANGELOG.md.gz", changes), ("changelog.gz", debian.encode())):
        (documents / name).write_bytes(gzip.compress(content, mtime=0))


def _match_in(file: Path, pattern: str) -> str:
    """Return the group of the only match of ``pattern`` in a file."""
    (match,) = re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)
    return str(match)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def _write_control(root: Path, architecture: str, version: str) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    sums = [f"{_md5(path)}  {path.relative_to(root)}\n" for path in files]
    size = sum(-(-path.stat().st_size // 1024) for path in files)
    control = root / "DEBIAN"
    control.mkdir()
    head = (
        f"Package: keystone-agent\nVersion: {version}\n"
        f"Architecture: {architecture}\nInstalled-Size: {size}\n"
    )
    (control / "control").write_text(head + (HERE / "control").read_text("utf-8"), encoding="utf-8")
    (control / "md5sums").write_text("".join(sums), encoding="utf-8")
    for script in _SCRIPTS:
        shutil.copyfile(HERE / script, control / script)
        (control / script).chmod(0o755)


def _normalize(root: Path, epoch: int) -> None:
    """Give all files modes that do not depend on this machine, and the time ``epoch``."""
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    root.chmod(0o755)
    os.utime(root, (epoch, epoch))


def main() -> None:
    """Build one package and print its path and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--arch",
        choices=sorted(MACHINES),
        default=_this_architecture(),
        help="the architecture of the robot",
    )
    parser.add_argument(
        "--version", default="", help="the version (default: the one in agent/__init__.py)"
    )
    parser.add_argument(
        "--folder", type=Path, default=REPOSITORY / "dist", help="the folder for the package"
    )
    parser.add_argument("--level", type=int, default=9, help="the compression level of xz, 0 to 9")
    options = parser.parse_args()
    package = build(options.arch, options.version, options.folder, level=options.level)
    print(f"{package}: {package.stat().st_size / 2**20:.1f} MiB")


def _this_architecture() -> str:
    machines = {machine: architecture for architecture, machine in MACHINES.items()}
    return machines.get(os.uname().machine, "amd64")


if __name__ == "__main__":
    main()
