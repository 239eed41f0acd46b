"""A fresh Debian without a network, in namespaces of its own, for tests of the package.

Only root can create one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agent import __version__
from tests.harness.paths import REPOSITORY

_MISSING = [
    name for name in ("debootstrap", "dpkg-deb", "unshare", "nsenter") if shutil.which(name) is None
]


def _obstacle() -> str:
    """Return why this machine cannot create a Debian, or an empty text."""
    if os.geteuid() != 0:
        return "only root can create a Debian"
    return f"not installed: {', '.join(_MISSING)}" if _MISSING else ""


CANT = _obstacle()

# The first release. Its package is made of this tree's package, but with the layout and the scripts
# of that release.
OLD = "0.1.0"
_SCRIPTS_OF_OLD = REPOSITORY / "tests/data/debian-0.1.0"
_CLONE_NEWNET = 0x40000000
# The user and the rights with which the systemd unit starts the agent.
_AS_SERVICE = (
    "setpriv",
    "--reuid=keystone-agent",
    "--regid=keystone-agent",
    "--init-groups",
    "--bounding-set=-all,+lease",
    "--inh-caps=-all,+lease",
    "--ambient-caps=-all,+lease",
    "--no-new-privs",
)

# This script runs in the new namespaces. Its arguments are the base, the folder of this Debian, the
# Python executable and a program for it. All changes go to an overlay above the base. Recordings
# are on a mount of their own, so the removal of the system cannot delete them.
_MADE = """
set -e
mount --make-rprivate /
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/system"
mount -t proc proc "$2/system/proc"
mount -t tmpfs tmpfs "$2/system/dev"
for device in null zero random urandom; do
    touch "$2/system/dev/$device"
    mount --bind "/dev/$device" "$2/system/dev/$device"
done
mkdir -p "$2/system/data"
mount --bind "$2/data" "$2/system/data"
python=$3; shift
"$python" -c "$3"
exec chroot "$1/system" sh -c "echo ready; exec sleep infinity"
"""

# Sets the flag IFF_UP (1) of the loopback interface by the ioctl SIOCSIFFLAGS (0x8914).
_LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 1))
"""


# Replaces systemctl where no systemd runs. It starts and stops the agent as the unit says.
_SYSTEMCTL = f"""#!/bin/sh
ended() {{
    # No process here reaps an orphaned process, so a zombie also counts as ended.
    ! grep -q "^State:[[:space:]]*[^Z[:space:]]" "/proc/$1/status" 2>/dev/null
}}
running() {{ [ -s /srv/agent.pid ] && ! ended "$(cat /srv/agent.pid)"; }}
for argument; do
    case $argument in
    is-enabled) echo enabled ;;
    is-active) running; exit ;;
    start)
        running && exit
        setsid {" ".join(_AS_SERVICE)} keystone-agent run >>/srv/agent.log 2>&1 </dev/null &
        echo $! >/srv/agent.pid
        ;;
    stop)
        running || exit 0
        pid=$(cat /srv/agent.pid)
        kill "$pid"
        until ended "$pid"; do sleep 0.1; done
        ;;
    esac
done
"""


def bootstrap(folder: Path) -> str:
    """Install a small Debian with Python in ``folder``. Return why it failed, or an empty text."""
    # Ansible needs the last two packages.
    more = "--include=ca-certificates,python3,python3-apt,systemd"
    command = ["debootstrap", "--variant=minbase", more, "bookworm", str(folder)]
    # Python must keep its compiled modules where it does on a robot.
    environ = {name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")}
    made = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=600, check=False
    )
    return f"debootstrap: {made.stdout[-500:]}{made.stderr[-500:]}" if made.returncode else ""


def build_package(folder: Path) -> Path:
    """Build the package without compression, which is much faster, and return its path."""
    program = REPOSITORY / "deploy/debian/build.py"
    command = [sys.executable, str(program), "--level=0", f"--folder={folder}"]
    subprocess.run(command, check=True, timeout=600)
    (package,) = folder.glob("*.deb")
    return package


def make_old_package(package: Path) -> Path:
    """Make the package of the first release of ``package``, in the same folder.

    It has the code of ``package``, but the number of the first release, its scripts, and agent.toml
    as a conffile.
    """

    def as_it_was(root: Path) -> None:
        control, init = (
            root / "DEBIAN/control",
            root / "opt/keystone-agent/lib/common/agent/__init__.py",
        )
        for file in (control, init):
            file.write_text(file.read_text().replace(__version__, OLD))
        configuration = root / "etc/keystone-agent/agent.toml"
        (root / "usr/share/keystone-agent/agent.toml").rename(configuration)
        (root / "usr/share/keystone-agent").rmdir()
        # The text differs from that of the new package, so that a test can tell them apart.
        configuration.write_text(f"# Of version {OLD}.\n{configuration.read_text()}")
        sums = root / "DEBIAN/md5sums"
        changed = ("agent/__init__.py", "/agent.toml")
        kept = [line for line in sums.read_text().splitlines() if not line.endswith(changed)]
        kept += [f"{_md5(path)}  {path.relative_to(root)}" for path in (init, configuration)]
        sums.write_text("\n".join(kept) + "\n")
        (root / "DEBIAN/conffiles").write_text("/etc/keystone-agent/agent.toml\n")
        for script in ("postinst", "prerm", "postrm"):
            shutil.copyfile(_SCRIPTS_OF_OLD / script, root / "DEBIAN" / script)

    target = package.with_name(package.name.replace(__version__, OLD))
    return rebuild_package(package, target, as_it_was)


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def rebuild_package(package: Path, target: Path, change: Callable[[Path], None]) -> Path:
    """Unpack ``package``, apply ``change`` to its folder, and pack the folder as ``target``."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "root")
        subprocess.run(["dpkg-deb", "--raw-extract", package, root], check=True, timeout=600)
        change(root)
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(target)]
        subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)
    return target


class Debian:
    """A Debian in which only the tests start processes. All of these end when it is closed."""

    def __init__(self, base: Path, folder: Path) -> None:
        """Use the system in ``base`` without changing it. All changes go to ``folder``."""
        for name in ("upper", "work", "system", "data/recordings"):
            (folder / name).mkdir(parents=True)
        # Temporary folders of tests are private, but users of this Debian must get through.
        for path in (
            folder / "upper",
            folder / "system",
            folder / "data",
            folder / "data/recordings",
        ):
            path.chmod(0o755)
        unshare = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child")
        made = (*unshare, "sh", "-c", _MADE, "sh", base, folder, sys.executable, _LOOPBACK_UP)
        self._holder = subprocess.Popen(made, stdout=subprocess.PIPE, text=True)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "ready\n"
        self.recordings = folder / "data/recordings"
        self._root = folder / "system"
        self._started: list[subprocess.Popen[str]] = []
        # The process id, outside, of its process 1.
        (self.first,) = map(
            int,
            Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split(),
        )

    def path(self, inside: str) -> Path:
        """Return the path outside this Debian for a path inside it."""
        return Path(f"/proc/{self.first}/root{inside}")

    def close(self) -> None:
        """End all processes in it."""
        self._holder.kill()
        self._holder.communicate(timeout=60)
        for started in self._started:
            started.wait(timeout=60)

    def start(
        self, *command: str | Path, log: Path, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command in it. Its output goes to ``log``."""
        with log.open("a") as output:
            started = subprocess.Popen(
                self._inside(command),
                env=self._environ(environ),
                stdout=output,
                stderr=output,
                text=True,
            )
        self._started.append(started)
        return started

    def run(self, *command: str | Path, code: int | None = 0) -> str:
        """Run a command in it and return its output. Fails when the exit code is not ``code``."""
        done = subprocess.run(
            self._inside(command),
            env=self._environ(None),
            # A command that asks a question must fail, not wait for an answer.
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert code is None or done.returncode == code, (
            f"{command}: {done.returncode}\n{done.stdout}"
        )
        return done.stdout

    def install(self, package: Path, code: int = 0) -> str:
        """Install or upgrade a package, and return dpkg's output. ``code`` is as in ``run``."""
        here = self.path("/srv") / package.name
        shutil.copyfile(package, here)
        output = self.run("dpkg", "--install", f"/srv/{package.name}", code=code)
        here.unlink()
        return output

    def manage_service(self) -> None:
        """From now on the package's scripts can start and stop the agent."""
        self.run("mkdir", "-p", "/run/systemd/system")
        self.put_in_place_of("systemctl", _SYSTEMCTL)

    def service_runs(self) -> bool:
        """Return whether the agent runs that the package's scripts have started."""
        return self.run("sh", "-c", "systemctl is-active && echo active", code=None) == "active\n"

    def put_in_place_of(self, command: str, script: str) -> None:
        """Install a shell script that replaces the system's own ``command``."""
        path = self.path(f"/usr/local/bin/{command}")
        path.write_text(script)
        path.chmod(0o755)

    def as_service(self, *arguments: str) -> tuple[str, ...]:
        """Return the command that runs the agent with the user and the rights of the unit."""
        return (*_AS_SERVICE, "keystone-agent", *arguments)

    def files(self) -> set[str]:
        """Return type, mode, owner, group and path of each file on its disk."""
        return set(self.run("find", "/", "-xdev", "-printf", "%y %m %u %g %p\n").splitlines())

    @contextmanager
    def network(self) -> Iterator[None]:
        """Put this thread, and all it starts, on the network of this Debian during the block."""
        library = ctypes.CDLL(None, use_errno=True)
        own, there = (
            os.open(f"/proc/{who}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            for who in ("thread-self", self.first)
        )
        try:
            if library.setns(there, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield
            finally:
                library.setns(own, _CLONE_NEWNET)
        finally:
            os.close(own)
            os.close(there)

    def _inside(self, command: tuple[str | Path, ...]) -> list[str | Path]:
        return [
            "nsenter",
            f"--target={self.first}",
            "--net",
            "--mount",
            "--pid",
            "chroot",
            self._root,
            *command,
        ]

    @staticmethod
    def _environ(more: Mapping[str, str] | None) -> dict[str, str]:
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return {
            "PATH": path,
            "LANG": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **(more or {}),
        }
