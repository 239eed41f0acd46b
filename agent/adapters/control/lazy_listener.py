"""The socket that commands connect to. Behind it gRPC's server runs only while somebody asks something.

Idle, that server and its library's threads wake up 13 times a second for nothing, 0.1 % of a core. So this room
listens, passes bytes on both ways, and has the server started and stopped.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)

_BLOCK = 64 * 1024
_AGAIN = 1.0  # seconds until somebody is let in again, after nobody could be
_WAITING = 64  # that may knock at once


class LazyListener:
    """Passes on who has something to say; who only knocks starts nothing."""

    def __init__(
        self, path: str, inner: str, *, start: Callable[[], None], stop: Callable[[], None]
    ) -> None:
        """Nobody can knock before :meth:`open`.

        Args:
            path: Of the socket.
            inner: Of the socket on which the server listens once it is started.
            start: Has it listen. Raises OSError, and RuntimeError where there are no threads.
            stop: Ends it, when nobody is there any more.
        """
        self._path = path
        self._inner = inner
        self._start = start
        self._stop = stop
        self._lock = threading.Lock()
        self._guests = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._bound = False
        self._ended = threading.Event()
        self._told = False

    def open(self, owner: os.stat_result) -> None:
        """Listen, for ``owner`` and its group, in the place of an agent that was killed. Raises OSError."""
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self._path).st_mode):
                Path(self._path).unlink()
        self._listener.bind(self._path)
        self._bound = True
        with suppress(PermissionError):  # a user who is not root can't give everything away
            os.chown(self._path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        Path(self._path).chmod(0o660)
        self._listener.listen(_WAITING)
        threading.Thread(target=self._admit, name="door", daemon=True).start()

    def close(self) -> None:
        """Nobody comes in any more; those who are in stay."""
        self._ended.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # or its thread would wait for ever
        self._listener.close()
        if self._bound:
            Path(self._path).unlink(missing_ok=True)

    def _admit(self) -> None:
        """Let everybody in, until the end. Where this robot lacks what it takes, who knocks waits for a while."""
        while not self._ended.is_set():
            try:
                guest, _ = self._listener.accept()
                self._let_in(guest)
                self._told = False
            except (OSError, RuntimeError, MemoryError) as error:
                if not self._ended.is_set() and not self._told:
                    self._told = True
                    text = "commands can't ask this agent for now: %s"
                    _log.warning(text, error, extra={"event": "control_failed"})
                self._ended.wait(_AGAIN)

    def _let_in(self, guest: socket.socket) -> None:
        """Give the guest a thread. Raises RuntimeError where there is none."""
        try:
            threading.Thread(target=self._serve, args=(guest,), name="guest", daemon=True).start()
        except BaseException:
            guest.close()
            raise

    def _serve(self, guest: socket.socket) -> None:
        with (
            guest,
            suppress(OSError, RuntimeError, MemoryError),
        ):  # where there is no thread for it, it may come again
            said = guest.recv(_BLOCK)
            if not said:
                return
            with self._lock:
                if self._guests == 0:
                    self._start()
                self._guests += 1
            try:
                self._relay(guest, said)
            finally:
                with self._lock:
                    self._guests -= 1
                    if self._guests == 0:
                        self._stop()

    def _relay(self, guest: socket.socket, said: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as host:
            host.connect(self._inner)
            host.sendall(said)
            back = threading.Thread(target=_pump, args=(host, guest), name="answers", daemon=True)
            back.start()
            _pump(guest, host)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on all that comes, and that nothing more will."""
    with suppress(OSError):
        while block := source.recv(_BLOCK):
            target.sendall(block)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # gRPC never closes one way alone
