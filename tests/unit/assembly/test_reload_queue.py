"""The queue of what signals ask the process to do. It must not use waits that may never end."""

from __future__ import annotations

import ast
import math
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from agent.assembly.reload import AskedQueue
from tests.harness.paths import REPOSITORY


@pytest.fixture
def asked() -> Iterator[AskedQueue]:
    asked = AskedQueue()
    yield asked
    asked.close()


@pytest.fixture
def by_signal(asked: AskedQueue) -> Iterator[AskedQueue]:
    """A queue that SIGUSR1 and SIGUSR2 fill, as SIGHUP and SIGTERM do in a running agent."""
    before = [
        signal.signal(signal.SIGUSR1, lambda *_: asked.put("reload")),
        signal.signal(signal.SIGUSR2, lambda *_: asked.put("stop")),
    ]
    woken = signal.set_wakeup_fd(asked.fileno(), warn_on_full_buffer=False)
    yield asked
    signal.set_wakeup_fd(woken)
    for number, handler in zip((signal.SIGUSR1, signal.SIGUSR2), before, strict=True):
        signal.signal(number, handler)


def test_nothing_is_asked_for_once_the_time_is_over(asked: AskedQueue) -> None:
    began = time.monotonic()
    assert asked.next(0.05) is None
    assert time.monotonic() - began >= 0.05


def test_many_reloads_are_one_and_a_stop_is_more_urgent(asked: AskedQueue) -> None:
    for _ in range(3):
        asked.put("reload")
    assert (asked.next(0), asked.next(0)) == ("reload", None)
    asked.put("stop")
    asked.put("reload")
    assert (asked.next(0), asked.next(0)) == ("stop", None)


def test_another_thread_ends_the_wait(asked: AskedQueue) -> None:
    for _ in range(200):
        thread = threading.Thread(target=asked.put, args=("reload",))
        thread.start()
        assert asked.next(60) == "reload"
        thread.join()


def test_a_signal_ends_the_wait_whenever_it_comes(by_signal: AskedQueue) -> None:
    for _ in range(200):
        thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR2))
        thread.start()
        # The byte of a signal may end a wait before its handler has run. Then the handler ends the
        # next wait.
        assert by_signal.next(60) or by_signal.next(60) == "stop"
        thread.join()


def test_a_signal_may_come_in_the_middle_of_another_one_s_putting(by_signal: AskedQueue) -> None:
    def send() -> None:
        for _ in range(3000):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=send)
    thread.start()
    while thread.is_alive():
        by_signal.put("reload")
        assert by_signal.next(60) in ("reload", None)
    by_signal.put("stop")
    assert by_signal.next(60) == "stop"


def test_a_full_pipe_loses_nothing_and_makes_nobody_wait(asked: AskedQueue) -> None:
    # A pipe holds fewer bytes than this.
    for _ in range(70_000):
        asked.put("reload")
    asked.put("stop")
    assert (asked.next(0), asked.next(0)) == ("stop", None)


def test_a_wait_without_an_end_is_one_of_an_hour(asked: AskedQueue) -> None:
    asked.put("reload")
    assert asked.next(math.inf) == "reload"


@pytest.mark.timeout(60)
def test_waits_end_on_every_python_when_they_follow_one_another_fast(asked: AskedQueue) -> None:
    for _ in range(20_000):
        asked.put("reload")
        assert (asked.next(0), asked.next(0.0)) == ("reload", None)


def test_no_module_uses_a_queue_whose_timed_get_may_wait_for_ever() -> None:
    """On Python 3.10 SimpleQueue.get(timeout=...) may wait for ever.

    It may compute a negative remaining time, which means no limit.
    """
    sources = [*REPOSITORY.glob("agent/**/*.py"), *REPOSITORY.glob("tests/**/*.py")]
    assert len(sources) > 200
    suspects = [source for source in sources if "SimpleQueue" in source.read_text("utf-8")]
    found = [
        f"{source}:{node.lineno}"
        for source in suspects
        for node in ast.walk(ast.parse(source.read_text("utf-8")))
        if isinstance(node, (ast.Attribute, ast.Name, ast.alias))
        and "SimpleQueue"
        in (getattr(node, "attr", ""), getattr(node, "id", ""), getattr(node, "name", ""))
    ]
    assert found == []
