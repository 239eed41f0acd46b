"""An executor that gives each call a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class Threads(Executor):
    """Gives each call a thread of its own, and ends the thread when no call waits.

    The library's ThreadPoolExecutor queues a call before it starts a thread for the call. If the
    system refuses the thread, ``submit`` raises, but the call stays queued, and a thread that
    becomes free later runs it. Here a ``submit`` that raises has begun nothing.

    Every method may be called from any thread.
    """

    def __init__(self, name: str, *, most: int | None = None) -> None:
        """Name the threads ``name``.

        At most ``most`` of them run at once. Further calls wait. None means any number.
        """
        self._name = name
        self._most = most
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()

    def submit(
        self, call: Callable[..., Answer], /, *arguments: Any, **named: Any
    ) -> Future[Answer]:
        """Run the call in another thread. Raises RuntimeError if the system refuses a thread."""
        future: Future[Answer] = Future()
        run = partial(_run, future, partial(call, *arguments, **named))
        with self._lock:
            if self._most is not None and self._running >= self._most:
                self._waiting.append(run)
                return future
            threading.Thread(target=self._work, args=(run,), name=self._name).start()
            self._running += 1
        return future

    def _work(self, run: Callable[[], None] | None) -> None:
        while run is not None:
            run()
            with self._lock:
                run = self._waiting.popleft() if self._waiting else None
                if run is None:
                    self._running -= 1


def _run(future: Future[Answer], call: Callable[[], Answer]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        answer = call()
    except BaseException as error:  # noqa: BLE001 - the future carries the error to its holder
        future.set_exception(error)
    else:
        future.set_result(answer)
