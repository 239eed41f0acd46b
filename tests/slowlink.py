"""A TCP proxy that is a bad link: far away, narrow for each connection, and dead after so many bytes."""

from __future__ import annotations

import argparse
import contextlib
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_CHUNK = 64 * 1024
_BUFFER = 32 * 1024  # of the kernel: little is taken before it can be passed on


@dataclass(frozen=True, slots=True)
class Wire:
    """One connection. ``rate``: bytes a second on the way to the server, 0 is unlimited."""

    delay: float = 0.0  # seconds, one way
    rate: float = 0.0
    stall_after: int | None = None  # bytes on the way to the server, after which nothing moves any more


class SlowLink:
    """Listens on the loopback and passes on to ``target``, as ``wire`` says for each connection from 0 on."""

    def __init__(self, target: str, wire: Callable[[int], Wire] = lambda _: Wire()) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._wire = wire
        self._ended = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)  # those accepted have it too
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.accepted = 0
        self.stalled = threading.Event()  # some connection is dead
        self.mute = threading.Event()  # while it is set, nothing comes back from the server
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
        self._ended.wait(2 * wire.delay)  # connecting costs a round trip
        try:
            far = socket.create_connection(self._target)
        except OSError:
            near.close()
            return
        self._sockets.append(far)
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pump(near, far, wire, threading.Event())
        self._pump(far, near, Wire(delay=wire.delay), self.mute)

    def _pump(self, source: socket.socket, sink: socket.socket, wire: Wire, mute: threading.Event) -> None:
        under_way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._start(self._read, source, under_way, wire)
        self._start(self._write, sink, under_way, mute)

    def _read(self, source: socket.socket, under_way: queue.SimpleQueue[tuple[float, bytes]], wire: Wire) -> None:
        left, free = wire.stall_after, time.monotonic()
        size = min(_CHUNK, max(1024, int(wire.rate / 20))) if wire.rate else _CHUNK
        while True:
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
                self._ended.wait(free - now)
            under_way.put((max(now, free) + wire.delay, data))
            if not data:
                return
            left = None if left is None else left - len(data)

    def _write(
        self, sink: socket.socket, under_way: queue.SimpleQueue[tuple[float, bytes]], mute: threading.Event
    ) -> None:
        while True:
            due, data = under_way.get()
            if mute.is_set():
                self.stalled.set()
                self._ended.wait()
            self._ended.wait(max(0.0, due - time.monotonic()))
            with contextlib.suppress(OSError):  # whoever is gone is gone
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)


@contextlib.contextmanager
def slow_link(target: str, wire: Callable[[int], Wire] = lambda _: Wire()) -> Iterator[SlowLink]:
    """A link that lasts as long as the block."""
    link = SlowLink(target, wire)
    try:
        yield link
    finally:
        link.close()


def main() -> None:
    """Be one in a process of its own, for benches: print its address, end with standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--round-trip", type=float, default=0.0, help="seconds")
    parser.add_argument("--rate", type=float, default=0.0, help="bytes a second for each connection")
    options = parser.parse_args()
    wire = Wire(delay=options.round_trip / 2, rate=options.rate)
    with slow_link(options.target, lambda _: wire) as link:
        print(link.address, flush=True)  # noqa: T201 - for who started it
        sys.stdin.read()


if __name__ == "__main__":
    main()
