"""Tests of the local socket, with real gRPC between its two ends.

They also cover callers who may not or can't use the socket.
"""

from __future__ import annotations

import os
import queue
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.adapters.control import Control, ControlServer, client, lazy_listener
from agent.adapters.control.socket_path import SocketPath
from agent.model.errors import AgentError, HistoryFullError, NotRunningError
from agent.model.ports import Operator
from agent.model.values import Answer
from tests.contracts.operator import OperatorContract, OperatorSetup
from tests.harness.fakes.operator import FakeOperator
from tests.harness.shortages import NoThreads, no_descriptors


@contextmanager
def served(state: Path, operator: Operator | None = None) -> Iterator[ControlServer]:
    server = ControlServer(state, operator or FakeOperator())
    server.start()
    try:
        yield server
    finally:
        assert server.stop(5)


@contextmanager
def connected(state: Path, operator: Operator | None = None) -> Iterator[Control]:
    with served(state, operator), closing(Control(state)) as control:
        yield control


class TestFakeOperator(OperatorContract):
    @pytest.fixture
    def operator_setup(self) -> OperatorSetup:
        return OperatorSetup(FakeOperator(), FakeOperator.PATH, FakeOperator.EPISODE, "asset-1")


class TestOverTheSocket(OperatorContract):
    @pytest.fixture
    def operator_setup(self, tmp_path: Path) -> Iterator[OperatorSetup]:
        with connected(tmp_path) as control:
            yield OperatorSetup(control, FakeOperator.PATH, FakeOperator.EPISODE, "asset-1")


class Failing(FakeOperator):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def pause(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "message", "hint"),
    [
        (HistoryFullError("the disk is full"), "the disk is full", HistoryFullError.hint),
        (AgentError("é \udcff", code="x", hint="\udcfe"), "é \udcff", "\udcfe"),
        (
            PermissionError(13, "Permission denied", "/state/markers"),
            "/state/markers: Permission denied",
            "",
        ),
        (RuntimeError("secret"), "the agent failed to do that", "look into its log"),
    ],
)
def test_errors_keep_their_words_and_bugs_keep_theirs(
    error: Exception, message: str, hint: str, tmp_path: Path
) -> None:
    with connected(tmp_path, Failing(error)) as control:
        with pytest.raises(AgentError) as raised:
            control.pause()
        assert (raised.value.message, raised.value.hint) == (message, hint)
        # The server still answers after an error.
        control.resume()


def test_the_socket_belongs_to_the_owner_and_group_of_the_state_folder(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
    with served(tmp_path):
        state = (tmp_path / "control.sock").stat()
    assert stat.S_IMODE(state.st_mode) == 0o660
    assert (state.st_uid, state.st_gid) == (tmp_path.stat().st_uid, tmp_path.stat().st_gid)


def test_a_stop_takes_the_socket_away(tmp_path: Path) -> None:
    with served(tmp_path):
        assert (tmp_path / "control.sock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_state_folder_may_have_a_long_name(tmp_path: Path) -> None:
    state = tmp_path / ("x" * 150) / ("y" * 150)
    state.mkdir(parents=True)
    with connected(state) as control:
        assert control.status()["version"] == "0"


KILLED = """
import os, sys
from pathlib import Path
from agent.adapters.control import ControlServer
from tests.harness.fakes.operator import FakeOperator
from tests.harness.shortages import NoThreads, no_descriptors
ControlServer(Path(sys.argv[1]), FakeOperator()).start()
os.kill(os.getpid(), 9)
"""


def test_the_socket_of_a_killed_agent_is_no_agent_and_in_nobodys_way(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60, check=False)
    assert (tmp_path / "control.sock").is_socket()
    with pytest.raises(NotRunningError):
        Control(tmp_path)
    with connected(tmp_path) as control:
        control.pause()


SUSPENDED = """
import os, signal, sys
from pathlib import Path
from agent.adapters.control import ControlServer
from tests.harness.fakes.operator import FakeOperator
from tests.harness.shortages import NoThreads, no_descriptors
ControlServer(Path(sys.argv[1]), FakeOperator()).start()
print("listens", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_an_agent_that_does_not_answer_is_not_waited_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SUSPENDED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        os.waitid(os.P_PID, agent.pid, os.WSTOPPED)
        with (
            closing(Control(tmp_path)) as control,
            pytest.raises(AgentError, match="does not answer"),
        ):
            control.status()
        agent.kill()


@pytest.mark.parametrize("missing", ["state", "socket"])
def test_no_socket_is_no_agent(missing: str, tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="no agent runs"):
        Control(tmp_path / "none" if missing == "state" else tmp_path)


def test_what_stands_in_the_sockets_place_is_told_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("mine")
    server = ControlServer(tmp_path, FakeOperator())
    with pytest.raises(OSError, match=r"control\.sock"):
        server.start()
    assert server.stop(1)
    assert (tmp_path / "control.sock").read_text() == "mine"


ASK_AS_NOBODY = """
import os, sys
from pathlib import Path
from agent.adapters.control import Control
from agent.model.errors import AgentError
os.setgroups([int(group) for group in sys.argv[2:]])
os.setgid(65534)
os.setuid(65534)
try:
    Control(Path(sys.argv[1])).pause()
except AgentError as error:
    print(error.code, error.hint)
else:
    print("done")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can switch to another user")
@pytest.mark.parametrize(("groups", "answer"), [([], "not_permitted"), ([4711], "done")])
@pytest.mark.parametrize("mode", [0o755, 0o750])
def test_only_the_group_may_ask(groups: list[int], answer: str, mode: int) -> None:
    # The folders of pytest are closed to all other users.
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        os.chown(state, 0, 4711)
        state.chmod(mode)
        with served(state):
            command = [sys.executable, "-c", ASK_AS_NOBODY, str(state), *map(str, groups)]
            result = subprocess.run(
                command, capture_output=True, text=True, timeout=60, check=True
            ).stdout
    assert result.startswith(answer)
    assert answer == "done" or "join the group keystone-agent" in result


class FollowedStatus:
    """A status stream that a thread of its own follows."""

    def __init__(self, state: Path) -> None:
        self.control = Control(state)
        self.seen: queue.Queue[Mapping[str, Any] | BaseException] = queue.Queue()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for status in self.control.watch(0.1):
                self.seen.put(status)
        except AgentError as error:
            self.seen.put(error)

    def next(self) -> Any:
        return self.seen.get(timeout=30)

    def end(self) -> AgentError:
        while not isinstance(last := self.next(), AgentError):
            pass
        self._thread.join()
        self.control.close()
        return last


def test_two_watch_while_a_third_one_asks(tmp_path: Path) -> None:
    with connected(tmp_path) as control:
        watchers = [FollowedStatus(tmp_path) for _ in range(2)]
        assert [watcher.next()["paused"] for watcher in watchers] == [False, False]
        control.pause()
        for watcher in watchers:
            while not watcher.next()["paused"]:
                pass
    assert [watcher.end().code for watcher in watchers] == ["not_running", "not_running"]


def test_a_stop_ends_streams_at_once(tmp_path: Path) -> None:
    server = ControlServer(tmp_path, FakeOperator())
    server.start()
    control = Control(tmp_path)
    stream = control.watch(3600)
    next(stream)
    # A stop that waited for its streams would outlast the test.
    assert server.stop(600)
    with pytest.raises(NotRunningError):
        next(stream)
    control.close()


def test_who_hangs_up_leaves_room_for_the_next_one(tmp_path: Path) -> None:
    with served(tmp_path):
        for _ in range(20):
            control = Control(tmp_path)
            assert next(control.watch(3600))["version"] == "0"
            control.close()
        with closing(Control(tmp_path)) as control:
            control.pause()


def test_too_many_watchers_are_refused_and_keep_nobody_from_asking(tmp_path: Path) -> None:
    with connected(tmp_path) as control:
        watchers = [FollowedStatus(tmp_path) for _ in range(8)]
        for watcher in watchers:
            watcher.next()
        with pytest.raises(AgentError, match="8 others watch"):
            next(control.watch(1))
        control.pause()
    for watcher in watchers:
        watcher.end()


class Slow(FakeOperator):
    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def first(self, targets: Sequence[str]) -> Sequence[Answer]:
        self.begun.set()
        self.go_on.wait(60)
        return super().first(targets)


@pytest.mark.parametrize("in_time", [True, False])
def test_a_call_under_way_has_its_time_to_end_at_a_stop(in_time: bool, tmp_path: Path) -> None:
    slow = Slow()
    server = ControlServer(tmp_path, slow)
    server.start()
    control = Control(tmp_path)
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.extend(control.first([slow.PATH]))
        except AgentError as error:
            answers.append(error)

    asker = threading.Thread(target=ask)
    asker.start()
    assert slow.begun.wait(30)
    if in_time:
        threading.Timer(0.2, slow.go_on.set).start()
    assert server.stop(30 if in_time else 0.1) is in_time
    slow.go_on.set()
    asker.join()
    (answer,) = answers
    assert answer.status == "accepted" if in_time else isinstance(answer, NotRunningError)
    control.close()


def test_an_agent_that_knows_less_than_its_commands_is_too_old(tmp_path: Path) -> None:
    place = SocketPath(tmp_path)
    server = grpc.server(None)
    server.add_insecure_port(f"unix:{place.path}")
    server.start()
    control = Control(tmp_path)
    with pytest.raises(AgentError, match="too old") as raised:
        control.pause()
    assert raised.value.hint == "restart the agent"
    control.close()
    server.stop(None).wait()
    place.close()


def test_a_hundred_thousand_answers_are_no_problem(tmp_path: Path) -> None:
    class Many(FakeOperator):
        def resync_failed(self, code: str, reason: str) -> Sequence[Answer]:
            del code, reason
            return [
                Answer(f"/data/recordings/2026-05-01/run-{number:06}.mcap", "accepted")
                for number in range(100_000)
            ]

    with connected(tmp_path, Many()) as control:
        assert len(control.resync_failed("", "")) == 100_000


QUIET = """
import sys
from pathlib import Path
from agent.adapters.control import Control, ControlServer
from agent.model.errors import AgentError
from tests.harness.fakes.operator import FakeOperator
from tests.harness.shortages import NoThreads, no_descriptors
server = ControlServer(Path(sys.argv[1]), FakeOperator())
server.start()
control = Control(Path(sys.argv[1]))
stream = control.watch(1)
next(stream)
server.stop(1)
try:
    next(stream)
    next(stream)
except AgentError:
    pass
try:
    control.pause()
except AgentError as error:
    print(error.code)
"""


def test_the_library_prints_nothing_of_its_own(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", QUIET, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (result.stdout, result.stderr) == ("not_running\n", "")


IDLE = """
import os, socket, sys, time
from contextlib import closing, suppress
from pathlib import Path
from agent.adapters.control import Control, ControlServer
from tests.harness.fakes.operator import FakeOperator
from tests.harness.shortages import NoThreads, no_descriptors

state, tasks = Path(sys.argv[1]), Path("/proc/self/task")

def names():
    found = []
    for task in tasks.iterdir():
        # The thread may have just ended.
        with suppress(OSError):
            found.append(task.joinpath("comm").read_text().strip())
    return found

# The threads of gRPC end a moment after the last of them is needed.
def of_grpc():
    end = time.monotonic() + 20
    while (found := [
        name for name in names() if name.startswith(("event_engine", "grpc", "lifeguard"))
    ]):
        if time.monotonic() > end:
            break
        time.sleep(0.02)
    return found

server = ControlServer(state, FakeOperator())
server.start()
print(of_grpc(), len(names()))
with socket.socket(socket.AF_UNIX) as knock:
    knock.connect(str(state / "control.sock"))
print(of_grpc())
if os.fork() == 0:
    for _ in range(30):
        with closing(Control(state)) as control:
            assert control.status()["version"] == "0"
    os._exit(0)
_, status = os.wait()
print(os.waitstatus_to_exitcode(status), of_grpc())
assert server.stop(5)
print(list(state.iterdir()))
"""


def test_the_library_runs_only_while_somebody_asks(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", IDLE, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout.splitlines() == ["[] 2", "[]", "0 []", "[]"]


def test_very_many_ask_at_once_while_others_come_and_go(tmp_path: Path) -> None:
    faults: list[Exception] = []

    def ask() -> None:
        try:
            for _ in range(10):
                with closing(Control(tmp_path)) as control:
                    assert control.status()["version"] == "0"
        except Exception as error:  # noqa: BLE001 - every error is reported below
            faults.append(error)

    with served(tmp_path):
        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert faults == []


def test_behind_the_listener_only_the_agent_itself_may_enter(tmp_path: Path) -> None:
    with connected(tmp_path) as control:
        control.status()
        assert stat.S_IMODE((tmp_path / ".control").stat().st_mode) == 0o700


def test_commands_are_answered_again_once_there_are_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_listener, "_RETRY_SECONDS", 0.01)
    lack = NoThreads(monkeypatch)
    with served(tmp_path):
        for _ in range(3):
            lack.refused_event.clear()
            lack.lacking = True
            with socket.socket(socket.AF_UNIX) as guest:
                guest.connect(str(tmp_path / "control.sock"))
                assert lack.refused_event.wait(10)
                lack.lacking = False
            with closing(Control(tmp_path)) as control:
                assert control.status()


@pytest.mark.parametrize("name", ["control", "answers", "_work"])
def test_a_thread_that_is_lacking_behind_the_listener_stops_only_the_command_that_needed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    start, refused = threading.Thread.start, threading.Event()

    def refuse_one(thread: threading.Thread) -> None:
        target = getattr(getattr(thread, "_target", None), "__name__", "")
        if not refused.is_set() and (
            thread.name == name or (target == name and thread.name != "connection")
        ):
            refused.set()
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(client, "_STATUS_SECONDS", 5.0)
    monkeypatch.setattr(threading.Thread, "start", refuse_one)
    with served(tmp_path):
        with closing(Control(tmp_path)) as control, pytest.raises((AgentError, grpc.RpcError)):
            control.status()
        assert refused.is_set()
        with closing(Control(tmp_path)) as control:
            assert control.status()


def test_commands_are_answered_again_once_there_are_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy_listener, "_RETRY_SECONDS", 0.01)
    logged = threading.Event()
    monkeypatch.setattr(lazy_listener, "_log", _NotifyingLogger(logged))
    with served(tmp_path):
        with socket.socket(socket.AF_UNIX) as guest, no_descriptors():
            guest.connect(str(tmp_path / "control.sock"))
            assert logged.wait(10)
        with closing(Control(tmp_path)) as control:
            assert control.status()


class _NotifyingLogger:
    """A logger that says when it was used."""

    def __init__(self, logged: threading.Event) -> None:
        self._logged = logged

    def warning(self, *_arguments: object, **_named: object) -> None:
        self._logged.set()
