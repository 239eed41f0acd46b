"""`make test-fast`: the tests that start no process.

These tests are found by reading the code. There is no list of them. A test gets the marker
``process`` if its function, one of its fixtures or one of its parameters can start a process. To
find out, the names in its code are followed through all code of ``tests`` and ``agent``. This may
miss a start. Therefore a process that is started during a fast test also fails that test.
"""

from __future__ import annotations

import multiprocessing
import os
import pty
import subprocess
import sys
from collections.abc import Generator, Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import pytest

# The only use of these modules is to start processes.
_MODULES = (multiprocessing, pty, subprocess)

# These functions of os start processes.
_FUNCTIONS = {
    *("fork", "forkpty", "popen", "posix_spawn", "posix_spawnp", "system"),
    *("spawnl", "spawnle", "spawnlp", "spawnlpe", "spawnv", "spawnve", "spawnvp", "spawnvpe"),
}

# Python raises these audit events when a process is started, in whatever manner.
_EVENTS = {
    *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"),
    *("pty.spawn", "subprocess.Popen"),
}

# A run of all fast tests fails when fewer tests than this pass. Otherwise it could go unnoticed
# that most tests are left out.
_LEAST_PASSED = 2000

_OURS = ("agent", "tests")
_START = object()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--fast``."""
    about = "run only the tests that start no process and are not slow"
    parser.addoption("--fast", action="store_true", help=about)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers. With ``--fast``, begin to watch for processes."""
    config.addinivalue_line("markers", "process: it starts a process; set by tests/harness/fast.py")
    config.addinivalue_line("markers", "slow: it takes too long for `make test-fast`")
    if config.getoption("fast"):
        config.pluginmanager.register(Fast(), "fast")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tests that start processes. With ``--fast`` these and the slow ones are left out."""
    reading = Reading()
    for item in items:
        if reading.of_test(item):
            item.add_marker("process")
    if config.getoption("fast"):
        left_out = {
            item for item in items if any(map(item.get_closest_marker, ("process", "slow")))
        }
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


class Fast:
    """Makes sure that no fast test starts a process, and that not too few fast tests pass."""

    def __init__(self) -> None:
        """Install the audit hook. It does nothing while no test runs."""
        self._test = ""
        self._started: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Refuse a process that is started while a test runs."""
        if self._test and event in _EVENTS:
            self._started.append(f"{event} {arguments[:2]}")
            pytest.fail(f"{self._test} is a fast test and starts a process: {self._started}")

    def _watched(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail the test even if the refusal was caught, or raised in another thread."""
        self._test, self._started = item.nodeid, []
        try:
            result = yield
        finally:
            self._test = ""
        if self._started:
            pytest.fail(f"{item.nodeid} is a fast test and starts a process: {self._started}")
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Watch the setup of its fixtures."""
        return (yield from self._watched(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Watch the test."""
        return (yield from self._watched(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Watch the teardown of its fixtures."""
        return (yield from self._watched(item))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run of all fast tests in which too few passed."""
        config = session.config
        terminal = config.pluginmanager.get_plugin("terminalreporter")
        if hasattr(config, "workerinput") or terminal is None:
            # Only the process that collects the results of all workers can count them.
            return
        passed = len(terminal.stats.get("passed", []))
        is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
        if is_whole and passed < _LEAST_PASSED and not session.exitstatus:
            terminal.write_line(
                f"only {passed} fast tests passed, at least {_LEAST_PASSED} should: "
                "see tests/harness/fast.py"
            )
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


class Reading:
    """Finds out from the names in its code whether a test can start a process."""

    def __init__(self) -> None:
        """Begin with an empty memory of answers."""
        self._starts: dict[object, bool] = {}

    def of_test(self, item: pytest.Item) -> bool:
        """Return whether the test, a fixture or a parameter of it can start a process."""
        if not isinstance(item, pytest.Function):
            return False
        fixtures = [defined[-1].func for defined in item._fixtureinfo.name2fixturedefs.values()]
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        return any(map(self.starts, [item.function, *fixtures, *filter(_is_ours, parameters)]))

    def starts(self, thing: object) -> bool:
        """Return whether ``thing``, a function or class of this project, can start a process."""
        thing = _plain(thing)
        if thing not in self._starts:
            # This answer is used when the code refers to itself.
            self._starts[thing] = False
            self._starts[thing] = any(map(self._is_start, _named_by(thing)))
        return self._starts[thing]

    def _is_start(self, named: object) -> bool:
        """Return whether the value of a name starts a process, or can lead to a start."""
        return named in (_START, *_MODULES) or (_is_ours(named) and self.starts(named))


def _plain(thing: object) -> object:
    """Return the function as it was written, without its decorators."""
    if hypothesis := getattr(thing, "hypothesis", None):
        thing = hypothesis.inner_test
    thing = getattr(thing, "__wrapped__", thing)
    # A property has its function in fget, a method in __func__.
    thing = getattr(thing, "fget", None) or getattr(thing, "__func__", thing)
    return getattr(thing, "__wrapped__", thing)


def _is_ours(thing: object) -> bool:
    module = getattr(thing, "__module__", None) or ""
    return isinstance(thing, (FunctionType, MethodType, type)) and module.partition(".")[0] in _OURS


def _named_by(thing: object) -> Iterator[object]:
    """Yield the values of the names in the code of a function, or of all methods of a class."""
    if isinstance(thing, type):
        for base in filter(_is_ours, thing.__mro__):
            for value in vars(base).values():
                if isinstance(method := _plain(value), FunctionType):
                    yield from _named_by(method)
        return
    if not isinstance(thing, FunctionType):
        return
    names = set(_names_in(thing.__code__))
    values = [thing.__globals__[name] for name in names if name in thing.__globals__]
    yield from (value for value in values if isinstance(value, ModuleType) or _is_ours(value))
    for module in values:
        if module is os and names & _FUNCTIONS:
            yield _START
        elif isinstance(module, ModuleType) and module.__name__.partition(".")[0] in _OURS:
            yield from (vars(module)[name] for name in names if _is_ours(vars(module).get(name)))


def _names_in(code: CodeType) -> Iterator[str]:
    """Yield all names in the code of a function, and of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names_in(constant)
