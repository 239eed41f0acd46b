"""Listens on the control socket, and runs the gRPC server only while a command is connected.

An idle gRPC server and its threads wake up 13 times a second for nothing, which costs 0.1 % of a
core. So the listener accepts the connections itself, has the server started and stopped, and
passes the bytes on in both directions.
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

# How much is passed on at once.
_BLOCK_BYTES = 64 * 1024

# How long to wait after a connection could not be accepted, before the next one is.
_RETRY_SECONDS = 1.0

# How many connections may wait to be accepted.
_BACKLOG = 64


class LazyListener:
    """Accepts connections, and relays them to a server that runs only while there are any.

    The server is started by the first byte of a connection, so a connection that sends nothing
    starts nothing.

    ``open`` and ``close`` are called by the thread that owns the control server. One thread accepts
    connections, and each connection has two threads of its own.
    """

    def __init__(
        self, path: str, server_path: str, *, start: Callable[[], None], stop: Callable[[], None]
    ) -> None:
        """Make the listener; :meth:`open` makes it listen.

        Args:
            path: The socket that commands connect to.
            server_path: The socket on which the server listens once it is started.
            start: Starts the server, and returns when it listens. Raises OSError, and RuntimeError
                where the system refuses a thread.
            stop: Stops the server when the last connection has ended.
        """
        self._path = path
        self._server_path = server_path
        self._start = start
        self._stop = stop
        self._lock = threading.Lock()
        self._connections = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._bound = False
        self._ended = threading.Event()
        # Whether the log has the present failure already.
        self._logged = False

    def open(self, owner: os.stat_result) -> None:
        """Listen. A socket that an agent left behind when it was killed is replaced.

        Args:
            owner: The user and the group that may connect.

        Raises:
            OSError: The socket can't be made.
        """
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.lstat(self._path).st_mode):
                Path(self._path).unlink()
        self._listener.bind(self._path)
        self._bound = True
        # Only root may give a file to any user.
        with suppress(PermissionError):
            os.chown(self._path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        Path(self._path).chmod(0o660)
        self._listener.listen(_BACKLOG)
        threading.Thread(target=self._accept_all, name="listener", daemon=True).start()

    def close(self) -> None:
        """Accept no further connections. Those that are open go on."""
        self._ended.set()
        # Without the shutdown the listener's thread would wait for ever.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self._bound:
            Path(self._path).unlink(missing_ok=True)

    def _accept_all(self) -> None:
        """Accept connections until the end.

        Where this robot is out of descriptors, threads or memory, commands wait for a while.
        """
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
                self._serve_in_thread(connection)
                self._logged = False
            except (OSError, RuntimeError, MemoryError) as error:
                if not self._ended.is_set() and not self._logged:
                    self._logged = True
                    message = "commands cannot reach this agent at present: %s"
                    _log.warning(message, error, extra={"event": "control_failed"})
                self._ended.wait(_RETRY_SECONDS)

    def _serve_in_thread(self, connection: socket.socket) -> None:
        """Serve the connection in a thread. Raise RuntimeError where the system refuses one."""
        try:
            threading.Thread(
                target=self._serve, args=(connection,), name="connection", daemon=True
            ).start()
        except BaseException:
            connection.close()
            raise

    def _serve(self, connection: socket.socket) -> None:
        # Where a descriptor or a thread is refused, the command gets no answer and can try again.
        with connection, suppress(OSError, RuntimeError, MemoryError):
            first_block = connection.recv(_BLOCK_BYTES)
            if not first_block:
                return
            with self._lock:
                if self._connections == 0:
                    self._start()
                self._connections += 1
            try:
                self._relay(connection, first_block)
            finally:
                with self._lock:
                    self._connections -= 1
                    if self._connections == 0:
                        self._stop()

    def _relay(self, connection: socket.socket, first_block: bytes) -> None:
        """Pass bytes on between the connection and the server until either side ends."""
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self._server_path)
            server.sendall(first_block)
            answers = threading.Thread(
                target=_copy, args=(server, connection), name="answers", daemon=True
            )
            answers.start()
            _copy(connection, server)
            answers.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until either socket ends, and shut both down.

    Both directions end together, because gRPC never closes only one of them.
    """
    with suppress(OSError):
        while block := source.recv(_BLOCK_BYTES):
            target.sendall(block)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
