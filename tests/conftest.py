"""Settings, hooks and fixtures that all tests share."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from agent import __version__
from tests.harness import debian
from tests.harness.debian import OLD, Debian

# Processes that tests start share their compiled modules in a folder of the environment. Without
# it each of them compiles the whole agent again, which takes more than half of its time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["PYTHONPYCACHEPREFIX"] = str(Path(sys.prefix, "pycache"))

# A busy machine is slow. Its slowness must not fail a test, so hypothesis has no deadline.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace bytes that are no UTF-8 in captured logs.

    A worker sends the logs to the terminal, and file names in them may hold any bytes.
    """
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "replace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture
def wide() -> Iterator[Path]:
    """A folder on a file system that stores every date.

    The file system below ``tmp_path`` may not store dates after the year 2038 or 2446.
    """
    place = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    if not os.access(place, os.W_OK):
        pytest.skip("there is no /dev/shm here")
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


# The fixtures below give Debian systems without the agent, and the packages to install on them.


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder with what all test processes share.

    It holds ``base``, a Debian system, and the built packages.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "debian"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(0o755)
            (folder / "failed").write_text(debian.bootstrap(folder / "base"))
            if not (folder / "failed").read_text():
                debian.make_old_package(debian.build_package(folder))
    if failed := (folder / "failed").read_text():
        pytest.skip(failed)
    return folder


@pytest.fixture
def robot(shared: Path, tmp_path: Path) -> Iterator[Debian]:
    robot = Debian(shared / "base", tmp_path / "robot")
    try:
        robot.recordings.chmod(0o777)
        with robot.network():
            yield robot
    finally:
        robot.close()


@pytest.fixture(scope="session")
def package(shared: Path) -> Path:
    return next(shared.glob(f"*_{__version__}_*.deb"))


@pytest.fixture(scope="session")
def older(shared: Path) -> Path:
    return next(shared.glob(f"*_{OLD}_*.deb"))
