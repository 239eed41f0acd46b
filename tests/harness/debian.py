"""A fresh Debian without a network, in namespaces of its own, for tests of the package; only root can make one."""

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

from tests.harness.paths import REPOSITORY

_MISSING = [
    name for name in ("debootstrap", "dpkg-deb", "unshare", "nsenter") if shutil.which(name) is None
]
CANT = (
    "only root can make a Debian"
    if os.geteuid() != 0
    else f"no {', '.join(_MISSING)} here"
    if _MISSING
    else ""
)

# The first release. Its package is made anew from this tree, but with the layout and the scripts that it had.
OLD = "0.1.0"
_SCRIPTS_OF_OLD = REPOSITORY / "tests/data/debian-0.1.0"
_CLONE_NEWNET = 0x40000000
# As the unit starts it.
_AS_SERVICE = (
    "setpriv", "--reuid=keystone-agent", "--regid=keystone-agent", "--init-groups",
    "--bounding-set=-all,+lease", "--inh-caps=-all,+lease", "--ambient-caps=-all,+lease", "--no-new-privs",
)  # fmt: skip
# Run in the new namespaces, with the folders as arguments: what lies above the base is this Debian's own. Recordings
# lie on a disk of their own, which the system's removal can't take with it.
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
_LOOPBACK_UP = """
import fcntl, socket, struct
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
"""


# In the place of systemctl, where no systemd runs: starts and stops the agent as the unit says.
_SYSTEMCTL = f"""#!/bin/sh
ended() {{
    # Nobody reaps a process here once it is left alone.
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
    """Lay a small Debian with Python into ``folder``; "" or why that can't be had."""
    more = "--include=ca-certificates,python3,python3-apt,systemd"  # the last two are what Ansible asks for
    command = ["debootstrap", "--variant=minbase", more, "bookworm", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return f"debootstrap: {made.stdout[-500:]}{made.stderr[-500:]}" if made.returncode else ""


def build_package(folder: Path, version: str = "") -> Path:
    """Build the package, hardly compressed."""
    command = [
        sys.executable,
        str(REPOSITORY / "deploy/debian/build.py"),
        "--level=0",
        f"--folder={folder}",
    ]
    subprocess.run([*command, f"--version={version}"], check=True, timeout=600)
    (package,) = folder.glob(f"*_{version}_*.deb" if version else "*.deb")
    return package


def build_old_package(folder: Path) -> Path:
    """Build the package of the first release: /etc/keystone-agent/agent.toml is a conffile of it."""
    package = build_package(folder, OLD)

    def as_it_was(root: Path) -> None:
        configuration = root / "etc/keystone-agent/agent.toml"
        (root / "usr/share/keystone-agent/agent.toml").rename(configuration)
        (root / "usr/share/keystone-agent").rmdir()
        # Another text than that of the new package: so a test sees which one lies there.
        configuration.write_text(f"# Of version {OLD}.\n{configuration.read_text()}")
        sums = root / "DEBIAN/md5sums"
        kept = [line for line in sums.read_text().splitlines() if not line.endswith("/agent.toml")]
        digest = hashlib.md5(configuration.read_bytes(), usedforsecurity=False).hexdigest()
        sums.write_text("\n".join([*kept, f"{digest}  etc/keystone-agent/agent.toml"]) + "\n")
        (root / "DEBIAN/conffiles").write_text("/etc/keystone-agent/agent.toml\n")
        for script in ("postinst", "prerm", "postrm"):
            shutil.copyfile(_SCRIPTS_OF_OLD / script, root / "DEBIAN" / script)

    return rebuild_package(package, package, as_it_was)


def rebuild_package(package: Path, target: Path, change: Callable[[Path], None]) -> Path:
    """Pack ``package`` once more as ``target``, after ``change`` was made to what is in it."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name, "root")
        subprocess.run(["dpkg-deb", "--raw-extract", package, root], check=True, timeout=600)
        change(root)
        command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(target)]
        subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)
    return target


class Debian:
    """A Debian that runs nothing of its own; all that was started in it ends with it."""

    def __init__(self, base: Path, folder: Path) -> None:
        """``base`` is not changed; what is, lies in ``folder``."""
        for name in ("upper", "work", "system", "data/recordings"):
            (folder / name).mkdir(parents=True)
        # What temporary folders of tests are closed to, users of this Debian must pass.
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
        # Its process 1, as it is called outside.
        (self.first,) = map(
            int,
            Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split(),
        )

    def path(self, inside: str) -> Path:
        """Where this process sees a path of it."""
        return Path(f"/proc/{self.first}/root{inside}")

    def close(self) -> None:
        """End all that runs in it."""
        self._holder.kill()
        self._holder.communicate(timeout=60)
        for started in self._started:
            started.wait(timeout=60)

    def start(
        self, *command: str | Path, log: Path, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a command in it; what it says goes to ``log``."""
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
        """Run a command in it; all that it said. Fails when it ends with another ``code``."""
        told = subprocess.run(
            self._inside(command),
            env=self._environ(None),
            stdin=subprocess.DEVNULL,  # nobody is there to be asked
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert code is None or told.returncode == code, (
            f"{command}: {told.returncode}\n{told.stdout}"
        )
        return told.stdout

    def install(self, package: Path, code: int = 0) -> str:
        """Install or upgrade; all that dpkg said. Fails when it ends with another ``code``."""
        here = self.path("/srv") / package.name
        shutil.copyfile(package, here)
        said = self.run("dpkg", "--install", f"/srv/{package.name}", code=code)
        here.unlink()
        return said

    def manage_service(self) -> None:
        """Let the package's scripts start and stop the agent from now on."""
        self.run("mkdir", "-p", "/run/systemd/system")
        self.put_in_place_of("systemctl", _SYSTEMCTL)

    def service_runs(self) -> bool:
        """Whether the agent runs that the package's scripts have started."""
        return self.run("sh", "-c", "systemctl is-active && echo active", code=None) == "active\n"

    def put_in_place_of(self, command: str, script: str) -> None:
        """Let a shell script be found before the system's own ``command``."""
        path = self.path(f"/usr/local/bin/{command}")
        path.write_text(script)
        path.chmod(0o755)

    def as_service(self, *arguments: str) -> tuple[str, ...]:
        """The agent's command as the unit's user, with the unit's rights."""
        return (*_AS_SERVICE, "keystone-agent", *arguments)

    def files(self) -> set[str]:
        """All that lies on its disk."""
        return set(self.run("find", "/", "-xdev", "-printf", "%y %m %u %g %p\n").splitlines())

    @contextmanager
    def network(self) -> Iterator[None]:
        """This thread, and what it starts, is on its network while the block lasts."""
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
