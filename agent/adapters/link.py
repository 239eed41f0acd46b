"""Finds the network interfaces that lead to the cloud, and whether the connection is metered.

Connecting a UDP socket sends nothing, but makes the kernel choose a source address. The interface
that has this address is the one that the kernel would send by.
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
from agent.model.transfer import Link

# How long the addresses of a name are used before the name is resolved again.
_ADDRESSES_KEPT_SECONDS = 300.0

# How long to wait for a name to be resolved. Its thread goes on afterwards.
_RESOLVE_SECONDS = 1.0

# The request that lists the IPv4 addresses of all interfaces, netdevice(7).
_SIOCGIFCONF = 0x8912

# The size of a struct ifreq on 64 bits, in bytes: the name at 0, and a sockaddr_in at 16, which has
# the address at 4.
_IFREQ_BYTES = 40

# How many IPv4 addresses this robot may have.
_MAX_ADDRESSES = 1024

# The IPv6 addresses of all interfaces, proc(5).
_IF_INET6 = Path("/proc/net/if_inet6")

# What busctl prints for NMMetered "yes" and "guessed yes".
_METERED = frozenset({"u 1", "u 3"})

# How long NetworkManager may take to answer.
_BUSCTL_SECONDS = 2


class LinkWatch:
    """Finds the link to the cloud at each call.

    Only the addresses of names are remembered, because resolving a name can take long.

    Used by one thread.
    """

    def __init__(self, clock: Clock, *, metered: bool) -> None:
        """Make the watch; nothing is resolved.

        Args:
            clock: Tells how old an address is.
            metered: Whether to ask NetworkManager if the connection is metered.
        """
        self._resolver = _Resolver(clock)
        self._metered = metered

    def current_link(self, urls: Iterable[str]) -> Link | None:
        """Return the link to these addresses. Takes 3 s at most.

        A name that can't be resolved tells nothing, and neither does an address that belongs to no
        interface.

        Args:
            urls: URLs; one without a scheme is ``HOST[:PORT]``.

        Returns:
            The link; None while a name is still being resolved. Where no URL tells anything, the
            link's interfaces are None. Without NetworkManager the link is not metered.
        """
        interfaces: set[str] | None = None
        for host, port in set(filter(None, map(_host_and_port, urls))):
            addresses = self._resolver.addresses(host, port)
            if addresses is None:
                return None
            names = _interfaces_to(addresses)
            if names is not None:
                interfaces = (interfaces or set()) | names
        return Link(
            None if interfaces is None else frozenset(interfaces),
            self._metered and _is_metered(),
        )


class _Resolver:
    """Resolves names in threads of their own.

    The system's resolver may take half a minute, and an agent that stops can't wait so long.

    Used by one thread; the results come from the threads that resolve.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        # For each host and port, the addresses, and when they must be resolved again.
        self._resolved: dict[tuple[str, int], tuple[Sequence[Any], float]] = {}
        self._running: dict[tuple[str, int], threading.Thread] = {}

    def addresses(self, host: str, port: int) -> Sequence[Any] | None:
        """Return the socket addresses of a name.

        Returns:
            The addresses, which may be old while the name is resolved again; none where the name
            can't be resolved; None while they are not known yet.
        """
        key = (host, port)
        resolved = self._resolved.get(key)
        if resolved is None or not resolved[0] or resolved[1] <= self._clock.monotonic():
            running = self._running.get(key)
            if running is None or not running.is_alive():
                running = threading.Thread(
                    target=self._resolve, args=key, name="resolve", daemon=True
                )
                self._running[key] = running
                running.start()
            running.join(_RESOLVE_SECONDS if resolved is None else 0)
        return self._resolved[key][0] if key in self._resolved else None

    def _resolve(self, host: str, port: int) -> None:
        try:
            answers = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
            addresses: Sequence[Any] = [answer[4] for answer in answers]
        except (OSError, UnicodeError):
            # The old addresses stay in use where there are any.
            addresses = self._resolved.get((host, port), ((), 0.0))[0]
        resolve_again_at = self._clock.monotonic() + _ADDRESSES_KEPT_SECONDS
        self._resolved[host, port] = (addresses, resolve_again_at)


def _host_and_port(url: str) -> tuple[str, int] | None:
    """Return the host and the port of a URL, by default 443; None where it names no host."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url if "://" in url else f"//{url}")
        if parts.hostname:
            return parts.hostname, parts.port or 443
    return None


def _interfaces_to(addresses: Sequence[Any]) -> set[str] | None:
    """Return the interfaces that lead to the first of these addresses that has a route.

    Returns:
        The interfaces; an empty set where no address has a route; None where it can't be found out.
    """
    for address in addresses:
        family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect(address)
                return _owners(probe, probe.getsockname()) or None
        except OSError:
            # There is no route, or this kernel does not support the family.
            continue
    return set() if addresses else None


def _owners(probe: socket.socket, source: Sequence[Any]) -> set[str]:
    """Return the interfaces that have the address ``source``; none where they can't be listed."""
    with contextlib.suppress(OSError):
        if len(source) == 2:
            wanted = socket.inet_pton(socket.AF_INET, source[0])
            return {name for name, address in _ipv4_addresses(probe) if address == wanted}
        # A link-local address names its interface itself.
        if source[3]:
            return {socket.if_indextoname(source[3])}
        wanted = socket.inet_pton(socket.AF_INET6, source[0])
        return {name for name, address in _ipv6_addresses() if address == wanted}
    return set()


def _ipv4_addresses(probe: socket.socket) -> Iterable[tuple[str, bytes]]:
    """Yield each interface with each of its IPv4 addresses."""
    entries = array.array("B", bytes(_IFREQ_BYTES * _MAX_ADDRESSES))
    request = struct.pack("iP", len(entries), entries.buffer_info()[0])
    answer = fcntl.ioctl(probe, _SIOCGIFCONF, request)
    filled_bytes = struct.unpack_from("i", answer)[0]
    for start in range(0, filled_bytes, _IFREQ_BYTES):
        name = entries[start : start + 16].tobytes().partition(b"\0")[0]
        # A further address of eth0 may have the label eth0:1.
        interface = name.partition(b":")[0]
        yield os.fsdecode(interface), entries[start + 20 : start + 24].tobytes()


def _ipv6_addresses() -> Iterable[tuple[str, bytes]]:
    """Yield each interface with each of its IPv6 addresses."""
    for line in _IF_INET6.read_text(encoding="ascii", errors="replace").splitlines():
        address, *_, name = line.split()
        yield name, bytes.fromhex(address)


def _is_metered() -> bool:
    """Return whether NetworkManager says that the primary connection is metered.

    Without NetworkManager the answer is False.
    """
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
        answer = subprocess.run(  # noqa: S603 - no part of the command comes from outside
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
