"""Lets all requests of one upload be cancelled together, and limits how long they may stall."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar


class CancelScope:
    """A group of requests that are cancelled together.

    A request may hang in the kernel for a long time. The only way to end it from another thread is
    to shut its socket down, so the scope knows the socket of each thread that is in a request.

    Any thread may call ``cancel``. The threads that send requests call the other methods.
    """

    def __init__(self, stall_timeout: float, monotonic: Callable[[], float]) -> None:
        """Make a scope without requests.

        Args:
            stall_timeout: Seconds without any progress after which a connection is given up.
            monotonic: Returns the time of a monotonic clock, in seconds.
        """
        self.stall_timeout = stall_timeout
        self.monotonic = monotonic
        self.cancelled = False
        self._lock = threading.Lock()
        # For each thread that is in a request, a duplicate of the socket that it uses. A duplicate
        # stays valid when the connection closes its own.
        self._sockets: dict[int, socket.socket] = {}

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Make this scope the one of all requests that this thread sends inside the block.

        Raises:
            OSError: The scope was cancelled.
        """
        token = _CURRENT_SCOPE.set(self)
        try:
            yield
        finally:
            _CURRENT_SCOPE.reset(token)
            self._release_socket()
        # A cancelled request may look complete, because the shutdown is where the answer ended.
        if self.cancelled:
            raise ConnectionAbortedError("the request was cancelled")

    def register(self, descriptor: int) -> None:
        """Remember the socket that this thread's request uses from now on.

        Args:
            descriptor: The socket's file descriptor; it stays the caller's.

        Raises:
            OSError: The scope was cancelled.
        """
        self._release_socket()
        with self._lock:
            if self.cancelled:
                raise ConnectionAbortedError("the request was cancelled")
            self._sockets[threading.get_ident()] = socket.socket(fileno=os.dup(descriptor))

    def cancel(self) -> None:
        """End all requests that are under way, and let no further one begin."""
        with self._lock:
            self.cancelled = True
            for registered in self._sockets.values():
                # The other side may have closed the connection first.
                with contextlib.suppress(OSError):
                    registered.shutdown(socket.SHUT_RDWR)

    def _release_socket(self) -> None:
        """Forget this thread's socket."""
        with self._lock:
            registered = self._sockets.pop(threading.get_ident(), None)
        if registered is not None:
            registered.close()


_CURRENT_SCOPE: ContextVar[CancelScope] = ContextVar("cancel_scope")


def current_scope() -> CancelScope:
    """Return the scope that this thread has entered.

    Raises:
        LookupError: It has entered none.
    """
    return _CURRENT_SCOPE.get()


def has_scope() -> bool:
    """Return whether this thread has entered a scope."""
    return _CURRENT_SCOPE.get(None) is not None
