"""TCP connections with the faults that machines between two ends can cause.

Connections are refused, reset, silent, slow, or answered by the wrong server.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable

# The value of SO_LINGER with which close() sends a reset.
_ABORT = struct.pack("ii", 1, 0)

_BLOCK_BYTES = 64 * 1024

# The header of an HTTP/2 frame has so many bytes (RFC 9113, section 4.1).
_FRAME_HEADER_BYTES = 9

# The type of the HTTP/2 frame GOAWAY (RFC 9113, section 6.8).
_GOAWAY = 7


class Port:
    """A listening port of the loopback address, with one thread for each connection."""

    def __init__(
        self, serve: Callable[[socket.socket], None], certificate: ssl.SSLContext | None = None
    ) -> None:
        self._serve = serve
        self._certificate = certificate
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self.ended = threading.Event()
        self._listener = self._bound(0)
        self.number = int(self._listener.getsockname()[1])
        self.accept()

    def accept(self) -> None:
        """Begin to accept connections."""
        self._listener.listen(128)
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._acceptor.start()

    def refuse(self) -> None:
        """Refuse new connections and reset the open ones. No other process can take the port."""
        with contextlib.suppress(OSError):
            # This call wakes the thread that accepts connections.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        self._listener = self._bound(self.number)
        self.cut()

    def cut(self) -> None:
        """Reset all open connections."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            abort(connection)

    def stop(self) -> None:
        """Close the port and all connections, and wait for their threads."""
        self.ended.set()
        self.refuse()
        self._listener.close()
        with self._lock:
            threads = list(self._open.values())
        for thread in threads:
            thread.join(10)

    @staticmethod
    def _bound(number: int) -> socket.socket:
        bound = socket.socket()
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BLOCK_BYTES)
        bound.bind(("127.0.0.1", number))
        return bound

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                if self._certificate is not None:
                    connection = self._certificate.wrap_socket(
                        connection, server_side=True, do_handshake_on_connect=False
                    )
                thread = threading.Thread(target=self._served, args=(connection,), daemon=True)
                with self._lock:
                    self._open[connection] = thread
                thread.start()

    def _served(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):
                self._serve(connection)
        finally:
            with self._lock:
                self._open.pop(connection, None)
            connection.close()


def abort(connection: socket.socket) -> None:
    """Wake the thread that reads ``connection``. Its close will send a reset."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        socket.socket.shutdown(connection, socket.SHUT_RD)


class GrpcLink:
    """All connections between clients and one gRPC server."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._flows = threading.Event()
        self._flows.set()
        self._says: bytes = b""
        self._pause = 0.0
        self._clients: dict[socket.socket, threading.Lock] = {}
        self.connections = 0
        self.port = Port(self._serve)

    def black_hole(self) -> None:
        """Drop all bytes from now on, in both directions."""
        self._flows.clear()

    def drip(self, pause: float) -> None:
        """From now on pass on one byte of the answers every ``pause`` seconds."""
        self._pause = pause

    def say(self, answer: bytes) -> None:
        """Answer new connections in place of the server. Reset the open ones."""
        self._says = answer
        self.port.cut()

    def mend(self) -> None:
        """Pass on all bytes again. If bytes were dropped, reset the open connections."""
        bytes_missing = not self._flows.is_set() or self._pause
        self._says, self._pause = b"", 0.0
        self._flows.set()
        if bytes_missing:
            self.port.cut()

    def go_away(self, last_stream: int, code: int = 0) -> None:
        """Send GOAWAY (RFC 9113, section 6.8) to all clients.

        It says that the server answers only streams up to ``last_stream``.
        """
        frame = struct.pack(">HBBBIII", 0, 8, _GOAWAY, 0, 0, last_stream, code)
        for client, lock in list(self._clients.items()):
            with lock, contextlib.suppress(OSError):
                client.sendall(frame)

    def stop(self) -> None:
        """Close all connections and the port."""
        self._flows.set()
        self.port.stop()

    def _serve(self, client: socket.socket) -> None:
        self.connections += 1
        if self._says:
            client.recv(_BLOCK_BYTES)
            client.sendall(self._says)
            client.shutdown(socket.SHUT_WR)
            return
        with socket.create_connection(("127.0.0.1", self._server_port)) as server:
            self._clients[client] = threading.Lock()
            back = threading.Thread(target=self._answers, args=(server, client), daemon=True)
            back.start()
            try:
                while block := client.recv(_BLOCK_BYTES):
                    if self._flows.is_set():
                        server.sendall(block)
            finally:
                self._clients.pop(client, None)
                abort(server)
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                back.join()

    def _answers(self, server: socket.socket, client: socket.socket) -> None:
        """Pass on whole frames, so that ``go_away`` can send its frame between two of them."""
        reader = server.makefile("rb")
        lock = self._clients[client]
        with contextlib.suppress(OSError):
            while len(head := reader.read(_FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES:
                frame = head + reader.read(int.from_bytes(head[:3], "big"))
                with lock:
                    self._pass_on(frame, client)
        abort(client)

    def _pass_on(self, frame: bytes, client: socket.socket) -> None:
        if not self._flows.is_set():
            return
        for start in range(len(frame)):
            if not self._pause:
                client.sendall(frame[start:])
                return
            client.sendall(frame[start : start + 1])
            self.port.ended.wait(self._pause)
