"""What the requests of one target have in common: their patience, and that they can be broken off together."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar


class CancelScope:
    """Belongs to one target."""

    def __init__(self, patience: float, monotonic: Callable[[], float]) -> None:
        """``patience``: seconds without any progress after which a connection is given up."""
        self.patience = patience
        self.monotonic = monotonic
        self.broken = False
        self._lock = threading.Lock()
        self._sockets: dict[
            int, socket.socket
        ] = {}  # of each thread that is in a request; a second name for each

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """The requests that this thread makes inside belong to this line. Raises OSError if it was broken off."""
        token = _USED.set(self)
        try:
            yield
        finally:
            _USED.reset(token)
            self._let_go()
        if self.broken:
            raise ConnectionAbortedError(
                "told to stop"
            )  # where the answer ended may be our own doing

    def take(self, descriptor: int) -> None:
        """This thread's request goes by that socket from now on. Raises OSError once the line is broken off."""
        self._let_go()
        with self._lock:
            if self.broken:
                raise ConnectionAbortedError("told to stop")
            self._sockets[threading.get_ident()] = socket.socket(fileno=os.dup(descriptor))

    def break_off(self) -> None:
        """End all requests that are under way, and let none begin."""
        with self._lock:
            self.broken = True
            for each in self._sockets.values():
                with contextlib.suppress(OSError):  # the other side was faster
                    each.shutdown(socket.SHUT_RDWR)

    def _let_go(self) -> None:
        with self._lock:
            known = self._sockets.pop(threading.get_ident(), None)
        if known is not None:
            known.close()


_USED: ContextVar[CancelScope] = ContextVar("line")


def used_line() -> CancelScope:
    """The one that this thread is inside of."""
    return _USED.get()


def in_use() -> bool:
    """Whether this thread is inside ``CancelScope.used``."""
    return _USED.get(None) is not None
