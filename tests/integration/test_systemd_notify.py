"""Tests of what the service manager receives, over a real datagram socket.

The notifier alone, an agent and the real command send the messages.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.adapters.config import PREFIX, load
from agent.adapters.control import Control
from agent.adapters.systemd import SystemdNotifier
from agent.assembly.app import App
from agent.assembly.ports import open_ports
from agent.assembly.reload import AskedQueue
from agent.devcloud.cloud import DevCloud
from agent.model.errors import NotRunningError
from tests.harness.agent_process import Agent
from tests.harness.recorders import write_mcap

_BEAT_SECONDS = 0.05
_NEVER = float("inf")


class Manager:
    """The end of the notify socket that a service manager reads."""

    def __init__(self, address: str) -> None:
        """Open the socket; ``address`` is written as in $NOTIFY_SOCKET."""
        self.address = address
        self._place = "\0" + address[1:] if address.startswith("@") else address
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind(self._place)

    def receive(self, seconds: float = 30) -> str:
        """Return the next message; "" when none comes within ``seconds``."""
        self._ear.settimeout(seconds)
        try:
            return self._ear.recv(4096).decode()
        except (TimeoutError, BlockingIOError):
            return ""

    def receive_until(self, wanted: str) -> list[str]:
        """Return all messages up to ``wanted``."""
        heard = [self.receive()]
        while heard[-1] != wanted:
            assert heard[-1], f"{wanted} never came after {heard[:-1]}"
            heard.append(self.receive())
        return heard

    def rest(self) -> list[str]:
        """Return the messages that were sent already."""
        return list(iter(lambda: self.receive(0), ""))

    def fill(self) -> None:
        """Fill the queue: a sender now waits until the messages are read."""
        while True:
            sent = 0
            # One socket may send only a limited number of messages.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                try:
                    while True:
                        sender.sendto(b"noise", self._place)
                        sent += 1
                except BlockingIOError:
                    if not sent:
                        return

    def close(self) -> None:
        """Close the socket."""
        self._ear.close()


@pytest.fixture(params=["on disk", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(
        str(tmp_path / "notify")
        if request.param == "on disk"
        else f"@keystone-agent-test-{os.getpid()}"
    )
    yield manager
    manager.close()


def notify(manager: Manager, **environ: str) -> SystemdNotifier:
    return SystemdNotifier({"NOTIFY_SOCKET": manager.address, **environ})


def test_each_word_is_one_datagram(manager: Manager) -> None:
    notifier = notify(manager, WATCHDOG_USEC="100000", WATCHDOG_PID=str(os.getpid()))
    notifier.ready()
    notifier.status("2 uploading")
    notifier.alive()
    notifier.stopping()
    assert manager.rest() == ["READY=1", "STATUS=2 uploading", "WATCHDOG=1", "STOPPING=1"]
    assert notifier.beat == _BEAT_SECONDS


def test_a_status_is_one_short_line_and_said_once(manager: Manager) -> None:
    notifier = notify(manager)
    notifier.status("no network\nWATCHDOG=1 \udcff" + "x" * 1000)
    notifier.status("no network\nWATCHDOG=1 \udcff" + "x" * 1000)
    (line,) = manager.rest()
    assert line.startswith("STATUS=no network WATCHDOG=1 \\udcffxxx")
    assert "\n" not in line
    assert len(line) < 250


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "9" * 5000},
        {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
    ],
    ids=["no time", "0", "no number", "too much", "another process"],
)
def test_no_sign_of_life_goes_to_who_asks_for_none_or_asks_another_process(
    manager: Manager, environ: dict[str, str]
) -> None:
    notifier = notify(manager, **environ)
    notifier.alive()
    assert notifier.beat == _NEVER
    assert manager.rest() == []


@pytest.mark.parametrize(
    "address", ["", "vsock:2:1234", "/nobody/is/there", "@keystone-agent-nobody", "/" + "x" * 300]
)
def test_an_agent_without_a_manager_goes_on(address: str) -> None:
    notifier = SystemdNotifier({"NOTIFY_SOCKET": address})
    notifier.ready()
    notifier.status("fine")
    notifier.alive()
    notifier.stopping()
    assert notifier.beat == _NEVER


@pytest.fixture
def agent(tmp_path: Path, manager: Manager) -> Iterator[App]:
    """An agent in this process, whose manager wants a watchdog message every 0.05 s."""
    (tmp_path / "recordings").mkdir()
    (tmp_path / "state").mkdir()
    with DevCloud(tmp_path / "cloud") as cloud:
        environ = {
            PREFIX + "AGENT__STATE_DIR": str(tmp_path / "state"),
            PREFIX + "WATCH__ROOTS": json.dumps([str(tmp_path / "recordings")]),
        }
        settings = load(cloud.agent_files.config_path, environ).settings
        notified = {
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": str(int(_BEAT_SECONDS * 2e6)),
        }
        ports = open_ports(settings, {**environ, **notified}, hide=lambda *_, **__: None)
        app = App(settings, ports)
        asked = AskedQueue()
        main = threading.Thread(target=app.run, args=(asked, lambda: app.reload(lambda: settings)))
        main.start()
        try:
            yield app
        finally:
            asked.put("stop")
            main.join(30)
            asked.close()


def test_signs_of_life_end_when_the_dispatcher_hangs_and_come_back_with_it(
    agent: App, manager: Manager
) -> None:
    manager.receive_until("READY=1")
    for _ in range(5):
        manager.receive_until("WATCHDOG=1")
    clock = agent.engine.health._monotonic
    with agent.dispatch._lock:
        agent.engine.health.check()
        agent.engine.health._monotonic = lambda: clock() + 61
        # These messages were still on their way.
        while manager.receive(10 * _BEAT_SECONDS):
            pass
        assert manager.receive(20 * _BEAT_SECONDS) == ""
    manager.receive_until("WATCHDOG=1")


def test_a_reload_is_told_from_its_beginning_to_its_end(agent: App, manager: Manager) -> None:
    manager.receive_until("READY=1")
    before = time.monotonic_ns() // 1000
    agent.reload(lambda: agent.settings)
    heard = manager.receive_until("READY=1")
    (begun,) = (message for message in heard if message.startswith("RELOADING=1\nMONOTONIC_USEC="))
    assert before <= int(begun.partition("USEC=")[2]) <= time.monotonic_ns() // 1000


def test_a_watcher_that_is_lost_ends_no_sign_of_life(agent: App, manager: Manager) -> None:
    manager.receive_until("READY=1")
    # The lock keeps the agent from repairing the watcher.
    with agent.engine.discovery.watcher._lock:
        (post,) = agent.engine.discovery.watcher._watched_roots.values()
        post.observer.stop()
        post.observer.join(10)
        manager.rest()
        for _ in range(5):
            manager.receive_until("WATCHDOG=1")
        (fault,) = agent.engine.health.faults()
    assert (fault.code, fault.cure) == ("watcher_stopped", "wait")


def test_a_disk_that_hangs_ends_no_sign_of_life(agent: App, manager: Manager) -> None:
    manager.receive_until("READY=1")
    clock = agent.engine.health._monotonic
    with agent.engine.discovery.discover._lock, agent.engine.discovery.watcher._lock:
        agent.engine.health.check()
        agent.engine.health._monotonic = lambda: clock() + 3600
        # The first messages may be older.
        for _ in range(20):
            manager.receive_until("WATCHDOG=1")
        assert any(fault.code == "scan_stuck" for fault in agent.engine.health.faults())


@contextmanager
def commanded(cloud: DevCloud, folder: Path) -> Iterator[Agent]:
    """The real command, not started yet; it ends with the block."""
    agent = Agent(cloud.agent_files, folder)
    try:
        yield agent
    finally:
        if agent.process is not None:
            agent.stop(signal.SIGKILL)


def control(agent: Agent) -> Control:
    """Connect to the agent's own socket, as soon as the socket exists."""
    nap = threading.Event()
    for _ in range(600):
        try:
            return Control(agent.state)
        except NotRunningError:
            nap.wait(0.05)
    raise AssertionError(agent.said())


def test_the_command_is_ready_with_its_history_open_and_before_it_uploads(
    tmp_path: Path, manager: Manager
) -> None:
    with DevCloud(tmp_path / "cloud") as cloud, commanded(cloud, tmp_path) as agent:
        cloud.stop_gateway()
        write_mcap(agent.root / "a.mcap")
        agent.start()
        agent.wait(lambda logs: logs and logs[0].status == "pending" and logs[0].error)
        assert agent.stop() == 0
        # From now on the platform is there for the recording.
        cloud.start_gateway()

        agent.environ["NOTIFY_SOCKET"] = manager.address
        manager.fill()
        agent.start()
        asked = control(agent)
        try:
            for status in (asked.status() for _ in range(10)):
                assert (status["standing"]["queue_length"], status["uploads"]) == (1, [])
        finally:
            asked.close()
        assert [log.status for log in agent.documents()] == ["pending"]
        manager.receive_until("READY=1")
        agent.wait_completed(1)
        manager.receive_until("STATUS=0 uploading, 0 in the queue")
        assert agent.stop() == 0
        assert manager.rest()[-1] == "STOPPING=1"


def test_the_command_gives_signs_of_life_until_sigterm(tmp_path: Path, manager: Manager) -> None:
    with DevCloud(tmp_path / "cloud") as cloud, commanded(cloud, tmp_path) as agent:
        agent.environ |= {
            "NOTIFY_SOCKET": manager.address,
            "WATCHDOG_USEC": str(int(_BEAT_SECONDS * 2e6)),
        }
        agent.start()
        heard = manager.receive_until("READY=1")
        assert heard == ["READY=1"]
        for _ in range(5):
            manager.receive_until("WATCHDOG=1")
        assert agent.stop() == 0
        rest = manager.rest()
        assert set(rest[rest.index("STOPPING=1") + 1 :]) <= {"STATUS=0 uploading, 0 in the queue"}
