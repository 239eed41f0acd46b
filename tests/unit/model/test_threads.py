"""Calls that are handed to threads: a refused call is never run, and no call is lost."""

from __future__ import annotations

import threading

import pytest

from agent.model.threads import Threads
from tests.harness.shortages import NoThreads


def test_each_call_runs_in_a_thread_of_its_own_and_its_answer_comes_back() -> None:
    together = threading.Barrier(3, timeout=10)

    def meet(answer: int) -> int:
        together.wait()
        return answer

    threads = Threads("worker")
    futures = [threads.submit(meet, number) for number in range(3)]
    assert [future.result(10) for future in futures] == [0, 1, 2]


def test_what_a_call_raises_is_told_to_whoever_asks() -> None:
    with pytest.raises(ZeroDivisionError):
        Threads("worker").submit(lambda: 1 / 0).result(10)


def test_no_more_than_allowed_run_at_once_and_the_others_wait() -> None:
    threads, go_on, started = Threads("worker", most=1), threading.Event(), threading.Event()
    ran: list[int] = []

    def first() -> None:
        started.set()
        assert go_on.wait(10)
        ran.append(1)

    begun = threads.submit(first)
    waiting = [threads.submit(ran.append, number) for number in (2, 3)]
    assert started.wait(10)
    assert ran == []
    go_on.set()
    for future in (begun, *waiting):
        future.result(10)
    assert ran == [1, 2, 3]
    assert threads.submit(lambda: "again").result(10) == "again"


def test_a_call_that_is_refused_is_not_run_later(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, lack, go_on, ran = (
        Threads("worker"),
        NoThreads(monkeypatch),
        threading.Event(),
        list[str](),
    )
    first = threads.submit(go_on.wait, 10)
    lack.lacking = True
    with pytest.raises(RuntimeError):
        threads.submit(ran.append, "refused")
    lack.lacking = False
    go_on.set()
    first.result(10)
    threads.submit(ran.append, "later").result(10)
    assert ran == ["later"]
