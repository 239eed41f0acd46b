"""The interface that leads to the cloud, and whether it is metered.

The interface is read from real routing tables, and NetworkManager tells whether a connection is
metered.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.adapters import link as link_module
from agent.adapters.clock import RealClock
from agent.adapters.link import LinkWatch
from agent.model.transfer import Link
from tests.harness.fakes.clock import FakeClock

# The commands set up a robot with Wi-Fi (10.1.0.2) and mobile radio (10.2.0.2) in its own network
# namespace. The cloud has the addresses in V4 and V6.
NETWORK_SETUP = """
ip link set lo up
ip link add wlan0 type veth peer name far0
ip link add wwan0 type veth peer name far1
ip link set wlan0 up; ip link set far0 up; ip link set wwan0 up; ip link set far1 up
ip addr add 10.1.0.2/24 dev wlan0
ip addr add 10.2.0.2/24 dev wwan0
ip addr add 10.3.0.2/24 dev wwan0 label wwan0:1
ip -6 addr add fd01::2/64 dev wlan0 nodad
ip -6 addr add fd02::2/64 dev wwan0 nodad
"""
LINK_PROGRAM = """
import json, sys
from agent.adapters.clock import RealClock
from agent.adapters.link import LinkWatch
watch = LinkWatch(RealClock(), metered=False)
for line in sys.stdin:
    link = watch.current_link(json.loads(line))
    known = link is not None and link.interfaces is not None
    print(json.dumps(sorted(link.interfaces) if known else None), flush=True)
"""
V4, V6 = "https://192.0.2.1", "https://[2001:db8::1]:8443"


class NetworkNamespace:
    """A network namespace, held by a process that reports the links in it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", LINK_PROGRAM],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        # After this answer the process is in its namespace.
        self.look("https://192.0.2.1")
        for line in NETWORK_SETUP.strip().splitlines():
            self.ip(line)

    def ip(self, lines: str) -> None:
        command = ["nsenter", "--net", f"--target={self.process.pid}", "sh", "-ec", lines]
        subprocess.run(command, check=True, capture_output=True, timeout=10)

    def look(self, *urls: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(urls) + "\n")
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.communicate(timeout=10)


@functools.cache
def _why_no_namespace() -> str:
    if missing := [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]:
        return f"{', '.join(missing)} not installed"
    probe = "ip link add wlan0 type veth peer name far0"
    tried = subprocess.run(
        ["unshare", "--net", "sh", "-c", probe], capture_output=True, text=True, check=False
    )
    return (
        "" if tried.returncode == 0 else f"no network namespace with veth: {tried.stderr.strip()}"
    )


@pytest.fixture
def namespace() -> Iterator[NetworkNamespace]:
    if reason := _why_no_namespace():
        pytest.skip(reason)
    namespace = NetworkNamespace()
    yield namespace
    namespace.stop()


def test_the_interface_is_that_of_the_route(namespace: NetworkNamespace) -> None:
    assert namespace.look(V4) == []
    namespace.ip("ip route add default via 10.1.0.1 metric 100")
    assert namespace.look(V4) == ["wlan0"]
    namespace.ip("ip route add default via 10.2.0.1 metric 50")
    assert namespace.look(V4) == ["wwan0"]
    namespace.ip("ip route add 192.0.2.0/24 via 10.1.0.1")
    assert namespace.look(V4) == ["wlan0"]
    assert namespace.look(V4, "http://198.51.100.7:80") == ["wlan0", "wwan0"]
    namespace.ip("ip link set wlan0 down; ip link set wwan0 down")
    assert namespace.look(V4) == []


def test_ipv6_has_routes_of_its_own(namespace: NetworkNamespace) -> None:
    assert namespace.look(V6) == []
    namespace.ip("ip -6 route add default via fd02::1 dev wwan0")
    assert namespace.look(V6) == ["wwan0"]
    namespace.ip("ip -6 route replace default via fd01::1 dev wlan0")
    assert namespace.look(V6) == ["wlan0"]


def test_a_further_address_of_an_interface_is_its_own_too(namespace: NetworkNamespace) -> None:
    namespace.ip("ip route add default via 10.3.0.1 src 10.3.0.2")
    assert namespace.look(V4) == ["wwan0"]


def test_this_machine_is_reached_by_loopback(namespace: NetworkNamespace) -> None:
    assert namespace.look("http://127.0.0.1:9000") == ["lo"]
    assert namespace.look("[::1]:9000") == ["lo"]


def test_a_url_without_a_scheme_and_one_that_is_none_are_borne() -> None:
    watch = LinkWatch(RealClock(), metered=False)
    assert watch.current_link(
        ["127.0.0.1:80", "127.0.0.1", "http://", "http://[", "http://h:port"]
    ) == Link(frozenset({"lo"}))
    assert watch.current_link([]) == Link(None)


class FakeResolver:
    """A resolver in place of the system's. Its answer waits until ``go`` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.fails = False
        self.go = threading.Event()
        self.go.set()
        monkeypatch.setattr(socket, "getaddrinfo", self._answer)
        monkeypatch.setattr(link_module, "_RESOLVE_SECONDS", 0.05)

    def _answer(self, *_: Any, **__: Any) -> list[Any]:
        self.asked += 1
        assert self.go.wait(10)
        if self.fails:
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", ("127.0.0.1", 443))]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeResolver]:
    resolver = FakeResolver(monkeypatch)
    yield resolver
    resolver.go.set()


def settled(watch: LinkWatch) -> None:
    for thread in watch._resolver._running.values():
        thread.join(10)


def test_a_slow_resolver_is_not_waited_for(resolver: FakeResolver) -> None:
    watch = LinkWatch(FakeClock(), metered=False)
    resolver.go.clear()
    assert watch.current_link(["https://gateway"]) is None
    assert watch.current_link(["https://gateway"]) is None
    assert resolver.asked == 1
    resolver.go.set()
    settled(watch)
    assert watch.current_link(["https://gateway"]) == Link(frozenset({"lo"}))


def test_a_name_is_kept_and_then_looked_up_again(resolver: FakeResolver) -> None:
    clock = FakeClock()
    watch = LinkWatch(clock, metered=False)
    for _ in range(3):
        assert watch.current_link(["https://gateway"]) == Link(frozenset({"lo"}))
    assert resolver.asked == 1
    clock.advance(300)
    resolver.fails = True
    for _ in range(2):
        assert watch.current_link(["https://gateway"]) == Link(frozenset({"lo"}))
        settled(watch)
    assert resolver.asked == 2


def test_a_name_that_cannot_be_resolved_tells_nothing_and_is_asked_for_again(
    resolver: FakeResolver,
) -> None:
    watch = LinkWatch(FakeClock(), metered=False)
    resolver.fails = True
    assert watch.current_link(["https://gateway"]) == Link(None)
    resolver.fails = False
    watch.current_link(["https://gateway"])
    settled(watch)
    assert watch.current_link(["https://gateway"]) == Link(frozenset({"lo"}))


# The tests below cover metered connections.


def busctl(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Put a fake busctl on PATH, which notes its arguments."""
    asked = folder / "asked"
    tool = folder / "busctl"
    tool.write_text(f'#!/bin/sh\necho "$@" > {asked}\n{script}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return asked


@pytest.mark.parametrize(
    ("says", "metered"),
    [
        ("u 0", False),
        ("u 1", True),
        ("u 2", False),
        ("u 3", True),
        ("u 4", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_yes_and_guessed_yes_are_metered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, *, metered: bool
) -> None:
    asked = busctl(tmp_path, monkeypatch, f"echo '{says}'")
    assert LinkWatch(RealClock(), metered=True).current_link([]) == Link(None, metered)
    service = "org.freedesktop.NetworkManager"
    assert asked.read_text().split()[-5:] == [
        "get-property", service, "/org/freedesktop/NetworkManager", service, "Metered",
    ]  # fmt: skip


def test_nobody_is_asked_where_it_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = busctl(tmp_path, monkeypatch, "echo 'u 1'")
    assert LinkWatch(RealClock(), metered=False).current_link([]) == Link(None)
    assert not asked.exists()


@pytest.mark.parametrize(
    "script", ["exit 1", "echo 'Failed to get property' >&2; exit 1", "exec sleep 30"]
)
def test_a_networkmanager_that_is_not_there_or_hangs_is_not_metered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(link_module, "_BUSCTL_SECONDS", 0.5)
    busctl(tmp_path, monkeypatch, script)
    assert LinkWatch(RealClock(), metered=True).current_link([]) == Link(None)


def test_without_busctl_nothing_is_metered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert LinkWatch(RealClock(), metered=True).current_link([]) == Link(None)
