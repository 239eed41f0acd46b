"""A TCP proxy that imitates a bad network link.

It can add a delay, limit the rate of each connection or of all together, and stop or reset a
connection after a number of bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import queue
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator

_CHUNK_BYTES = 64 * 1024

# The kernel's receive buffer. A small one accepts few bytes before they can be passed on.
_BUFFER_BYTES = 32 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Wire:
    """What happens to one connection.

    Attributes:
        delay: Seconds that each byte travels in one direction.
        rate: Bytes per second to the server; 0 means no limit.
        stall_after: Bytes to the server after which the connection carries nothing more.
        reset_after: Bytes to the server after which the connection is reset.
    """

    delay: float = 0.0
    rate: float = 0.0
    stall_after: int | None = None
    reset_after: int | None = None


class SlowLink:
    """A running link from a port of the loopback address to a server.

    Attributes:
        passed: Bytes that were passed to the server.
        accepted: How many connections were accepted.
        stalled: Is set when a connection carries nothing more.
        mute: While a test sets it, nothing is passed back from the server.
    """

    def __init__(
        self, target: str, wire: Callable[[int], Wire] = lambda _: Wire(), rate: float = 0.0
    ) -> None:
        """Begin to pass on connections to ``target`` (HOST:PORT).

        ``wire`` returns what happens to a connection; connections count from 0. ``rate`` is in
        bytes per second to the server, for all connections together; 0 means no limit.
        """
        host, _, port = target.rpartition(":")
        self._rate = rate
        self._free_at = 0.0
        self._sharing = threading.Lock()
        self.passed = 0
        # When each connection last sent something, in seconds of the monotonic clock.
        self._last: dict[socket.socket, float] = {}
        self._target = (host, int(port))
        self._wire = wire
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket()
        # Accepted connections inherit this option.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self.stalled = threading.Event()
        self.mute = threading.Event()
        self._start(self._accept)

    def close(self) -> None:
        """End all connections."""
        self._ended.set()
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            wire = self._wire(self.accepted)
            self.accepted += 1
            self._start(self._carry, near, wire)

    def _carry(self, near: socket.socket, wire: Wire) -> None:
        self._sockets.append(near)
        # Connecting takes a round trip.
        self._ended.wait(2 * wire.delay)
        try:
            far = socket.create_connection(self._target)
        except OSError:
            near.close()
            return
        self._sockets.append(far)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pump(near, far, wire, threading.Event(), functools.partial(self._share, near))
        self._pump(far, near, Wire(delay=wire.delay), self.mute, lambda _: 0.0)

    @property
    def busy(self) -> int:
        """How many connections have sent something in the last second."""
        with self._sharing:
            return sum(time.monotonic() - last < 1 for last in self._last.values())

    def _share(self, sender: socket.socket, size: int) -> float:
        """Return when these bytes may have passed the link that all connections share."""
        with self._sharing:
            self.passed += size
            self._last[sender] = time.monotonic()
            if self._rate:
                self._free_at = max(time.monotonic(), self._free_at) + size / self._rate
            return self._free_at

    def _pump(
        self,
        source: socket.socket,
        sink: socket.socket,
        wire: Wire,
        mute: threading.Event,
        share: Callable[[int], float],
    ) -> None:
        under_way: queue.Queue[tuple[float, bytes]] = queue.Queue()
        self._start(self._read, source, under_way, wire, share)
        self._start(self._write, sink, under_way, mute)

    def _read(
        self,
        source: socket.socket,
        under_way: queue.Queue[tuple[float, bytes]],
        wire: Wire,
        share: Callable[[int], float],
    ) -> None:
        left = wire.stall_after if wire.reset_after is None else wire.reset_after
        free = time.monotonic()
        size = min(_CHUNK_BYTES, max(1024, int(wire.rate / 20))) if wire.rate else _CHUNK_BYTES
        while True:
            if left == 0 and wire.reset_after is not None:
                _reset(source)
                under_way.put((0.0, b""))
                return
            if left == 0:
                self.stalled.set()
                self._ended.wait()
            try:
                data = source.recv(size if left is None else min(size, left))
            except OSError:
                data = b""
            now = time.monotonic()
            if wire.rate:
                free = max(now, free) + len(data) / wire.rate
            free = max(free, share(len(data)))
            if free > now:
                self._ended.wait(free - now)
            under_way.put((max(now, free) + wire.delay, data))
            if not data:
                return
            left = None if left is None else left - len(data)

    def _write(
        self,
        sink: socket.socket,
        under_way: queue.Queue[tuple[float, bytes]],
        mute: threading.Event,
    ) -> None:
        while True:
            due, data = under_way.get()
            if mute.is_set():
                self.stalled.set()
                self._ended.wait()
            self._ended.wait(max(0.0, due - time.monotonic()))
            # The other side may already have closed the connection.
            with contextlib.suppress(OSError):
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)


def _reset(end: socket.socket) -> None:
    """Close the connection with a TCP reset, as a link does that has lost its state."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


@contextlib.contextmanager
def slow_link(
    target: str, wire: Callable[[int], Wire] = lambda _: Wire(), rate: float = 0.0
) -> Iterator[SlowLink]:
    """Run a link during the block. The arguments are those of SlowLink."""
    link = SlowLink(target, wire, rate)
    try:
        yield link
    finally:
        link.close()


def main() -> None:
    """Run a slow link in a process of its own, for benchmarks.

    Prints the link's address. Then prints for each line of standard input how many bytes have
    passed. Ends with standard input.
    """
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("target")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds")
    parser.add_argument(
        "--each", type=float, default=0.0, help="bytes per second for each connection"
    )
    parser.add_argument("--all", type=float, default=0.0, help="bytes per second for all together")
    parser.add_argument(
        "--reset-after", type=int, help="bytes after which every fourth connection is reset"
    )
    options = parser.parse_args()
    wire = Wire(delay=options.round_trip / 2, rate=options.each)
    cut = dataclasses.replace(wire, reset_after=options.reset_after)
    with slow_link(options.target, lambda number: wire if number % 4 else cut, options.all) as link:
        print(link.address, flush=True)  # noqa: T201 - the parent process reads it
        for _ in sys.stdin:
            print(link.passed, flush=True)  # noqa: T201 - the parent process reads it


if __name__ == "__main__":
    main()
