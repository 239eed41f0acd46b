"""Routing table, addresses and NetworkManager → by which interface the cloud is reached, and whether that is metered.

A UDP socket that is connected sends nothing, but the kernel has chosen its source address by then; the interface is
the one that has this address.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.model.ports import Clock
from agent.model.values import Link

_KEPT = 300.0  # seconds that addresses of a name are used before it is looked up again
_PATIENCE = 1.0  # seconds that a look-up is waited for; it goes on behind
_SIOCGIFCONF = 0x8912  # netdevice(7)
_IFREQ = 40  # bytes of a struct ifreq on 64 bits: name 16, sockaddr_in with the address at 4
_MOST_ADDRESSES = 1024
_IF_INET6 = Path("/proc/net/if_inet6")
_METERED = frozenset({"u 1", "u 3"})  # NMMetered: yes, and guessed yes
_BUSCTL_SECONDS = 2


class LinkWatch:
    """Looks when it is asked to; remembers nothing but names' addresses."""

    def __init__(self, clock: Clock, *, metered: bool) -> None:
        """``metered`` is whether NetworkManager is asked."""
        self._names = _Names(clock)
        self._metered = metered

    def look(self, urls: Iterable[str]) -> Link | None:
        """The link to these places (URLs; without a scheme ``HOST[:PORT]``); None while names are still looked up.

        A name that can't be resolved, or an address of no interface, tells nothing; where no place tells anything
        the link's interfaces are None. Without NetworkManager no link is metered. Takes 3 s at most.
        """
        found: set[str] | None = None
        for host, port in {place for url in urls if (place := _place(url))}:
            addresses = self._names.of(host, port)
            if addresses is None:
                return None
            names = _ways(addresses)
            if names is not None:
                found = (found or set()) | names
        return Link(None if found is None else frozenset(found), self._metered and _is_metered())


class _Names:
    """Addresses of hosts, looked up aside: a resolver may take half a minute, and a robot that stops can't wait."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[
            tuple[str, int], tuple[Sequence[Any], float]
        ] = {}  # and when they grow old
        self._running: dict[tuple[str, int], threading.Thread] = {}

    def of(self, host: str, port: int) -> Sequence[Any] | None:
        """Socket addresses, none where the name can't be resolved; None while that is not known yet."""
        place = (host, port)
        known = self._known.get(place)
        if known is None or not known[0] or known[1] <= self._clock.monotonic():
            running = self._running.get(place)
            if running is None or not running.is_alive():
                running = threading.Thread(
                    target=self._resolve, args=place, name="resolve", daemon=True
                )
                self._running[place] = running
                running.start()
            running.join(_PATIENCE if known is None else 0)
        return self._known[place][0] if place in self._known else None

    def _resolve(self, host: str, port: int) -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            addresses: Sequence[Any] = [answer[4] for answer in answers]
        except (OSError, UnicodeError):
            addresses = self._known.get((host, port), ((), 0.0))[
                0
            ]  # the old ones, if there are any
        self._known[host, port] = (addresses, self._clock.monotonic() + _KEPT)


def _place(url: str) -> tuple[str, int] | None:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url if "://" in url else f"//{url}")
        if parts.hostname:
            return parts.hostname, parts.port or 443
    return None


def _ways(addresses: Sequence[Any]) -> set[str] | None:
    """The interfaces to the first of these addresses that has a way; empty: none has; None: that can't be told."""
    for address in addresses:
        try:
            with socket.socket(
                socket.AF_INET6 if len(address) == 4 else socket.AF_INET, socket.SOCK_DGRAM
            ) as probe:
                probe.connect(address)
                return _owners(probe, probe.getsockname()) or None
        except OSError:
            continue  # no route, or this kernel has no such family
    return set() if addresses else None


def _owners(probe: socket.socket, source: Sequence[Any]) -> set[str]:
    """The interfaces that have the address ``source``; none where they can't be listed."""
    with contextlib.suppress(OSError):
        if len(source) == 2:
            wanted = socket.inet_pton(socket.AF_INET, source[0])
            return {name for name, address in _ipv4_addresses(probe) if address == wanted}
        if source[3]:  # link-local: it says itself of which
            return {socket.if_indextoname(source[3])}
        wanted = socket.inet_pton(socket.AF_INET6, source[0])
        return {name for name, address in _ipv6_addresses() if address == wanted}
    return set()


def _ipv4_addresses(probe: socket.socket) -> Iterable[tuple[str, bytes]]:
    room = array.array("B", bytes(_IFREQ * _MOST_ADDRESSES))
    answer = fcntl.ioctl(probe, _SIOCGIFCONF, struct.pack("iP", len(room), room.buffer_info()[0]))
    filled = struct.unpack_from("i", answer)[0]
    for start in range(0, filled, _IFREQ):
        name = room[start : start + 16].tobytes().partition(b"\0")[0]
        yield (
            os.fsdecode(name.partition(b":")[0]),
            room[start + 20 : start + 24].tobytes(),
        )  # eth0:1 is eth0


def _ipv6_addresses() -> Iterable[tuple[str, bytes]]:
    for line in _IF_INET6.read_text(encoding="ascii", errors="replace").splitlines():
        address, *_, name = line.split()
        yield name, bytes.fromhex(address)


def _is_metered() -> bool:
    """Whether NetworkManager says that of the primary connection; False where there is none to ask."""
    busctl = shutil.which("busctl")
    if busctl is None:
        return False
    service, path = "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager"
    command = [
        busctl,
        "--system",
        "--auto-start=no",
        "get-property",
        service,
        path,
        service,
        "Metered",
    ]
    environ: Mapping[str, str] = {**os.environ, "LC_ALL": "C"}
    try:
        answer = subprocess.run(  # noqa: S603 - nothing in it comes from outside
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_BUSCTL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.stdout.decode(errors="replace").strip() in _METERED
