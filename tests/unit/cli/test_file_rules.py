"""The rules that `why`, `ls` and `scan` apply give the states that the running agent gives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.adapters.config import load
from agent.assembly.discovery_service import DiscoveryService
from agent.cli.file_rules import FileRules
from agent.discovery import state_rules
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.history import MemoryHistory
from tests.harness.recorders import axon_steps, damaged, unfinished, write_mcap, write_sidecar

# The states of the commands for files that the agent does not know.
UNKNOWN = ("outside", "ignored", "excluded", "gone")


class CommandScene:
    """A watched folder, the discovery of an agent, and the rules of a command, on one clock."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.clock = FakeClock()
        self.folder = folder
        self.root = folder / "recordings"
        self.root.mkdir()
        self._config = folder / "agent.toml"
        self._settings = settings

    def dated(self, path: Path, ago: float = 0.0, **options: Any) -> None:
        """Give a file the time that is ``ago`` seconds before now."""
        moment = self.clock.now() - ago
        os.utime(path, (moment, moment), **options)

    def start(self) -> None:
        """Begin with discovery: it sees now what there is."""
        roots = [str(self.root)]
        lines = [
            f"[agent]\nstate_dir = {str(self.folder)!r}\n[watch]",
            *([] if any("roots" in line for line in self._settings) else [f"roots = {roots}"]),
            *(line.replace("ROOT", str(self.root)) for line in self._settings),
        ]
        self._config.write_text("\n".join(lines))
        settings = load(self._config, {}).settings
        history = MemoryHistory(self.clock)
        self.discover = DiscoveryService(
            settings,
            history=history,
            clock=self.clock,
            robot="robot-1",
            snapshot=lambda _: "",
            can_revise=lambda _: False,
            again=(),
        ).discover
        self._rules = FileRules(settings, history, self.clock)
        self.discover.step()

    def run(self, seconds: float) -> None:
        """Let time pass, and do each step at the time that discovery asks for."""
        end = self.clock.monotonic() + seconds
        while (due := self.discover.next_step()) <= end:
            self.clock.advance(max(0.0, due - self.clock.monotonic()))
            self.discover.step()
        self.clock.advance(end - self.clock.monotonic())

    def agent_state(self, path: Path) -> str:
        """Return the state that the agent gives, "unknown" for none."""
        state = self.discover.state(path)
        return state[0] if state else "unknown"

    def command_state(self, path: Path) -> str:
        """Return the state that `ls` shows, in the agent's words."""
        failed = next(result for result in self._rules.discovery_results(path) if not result.ok)
        if failed.state in UNKNOWN:
            return "unknown"
        return "complete" if failed.state == "new" else failed.state


def empty(path: Path) -> None:
    path.touch()


def by_axon(path: Path) -> None:
    steps = axon_steps(path)
    next(steps)
    next(steps)


def with_old_done_marker(path: Path) -> None:
    by_axon(path)
    done = path.with_name(path.name + ".done")
    done.touch()
    os.utime(done, (0, 0))


def with_done_marker(path: Path) -> None:
    by_axon(path)
    path.with_name(path.name + ".done").touch()


def with_sidecar(path: Path) -> None:
    write_mcap(path)
    write_sidecar(path)


def with_compressed_form(path: Path) -> None:
    write_mcap(path)
    path.with_name(path.name + ".zstd").write_bytes(b"\x28\xb5\x2f\xfd")


def beside_a_dead_compressor(path: Path) -> None:
    with_compressed_form(path)
    os.utime(path.with_name(path.name + ".zstd"), (0, 0))


def zstd(path: Path) -> None:
    path.write_bytes(b"\x28\xb5\x2f\xfd and more")


def no_zstd(path: Path) -> None:
    path.write_bytes(b"no zstd")


Maker = Callable[[Path], object]

WAITS = ("sidecar_wait_seconds = 60", "unfinished_minutes = 10")
NO_SIDECAR = ('sidecar = "ignore"', "unfinished_minutes = 10")
COMPRESSED = ('include = ["*.mcap", "*.mcap.zstd"]', *NO_SIDECAR)
SENT = ('unfinished = "upload"', *WAITS)
PATIENT = ('unfinished = "upload"', "sidecar_wait_seconds = 1200", "unfinished_minutes = 10")

# For each file: its name, how it is made, the settings, and its state after so many seconds.
FILES: Sequence[tuple[str, Maker, Sequence[str], dict[float, str]]] = [
    ("a.mcap", write_mcap, WAITS, {1: "settling", 3: "waiting", 59: "waiting", 60: "complete"}),
    ("a.mcap", write_mcap, NO_SIDECAR, {1: "settling", 2: "complete"}),
    ("a.mcap", with_sidecar, WAITS, {1: "settling", 3: "complete"}),
    ("a.mcap", write_mcap, ('sidecar = "required"', *WAITS), {3: "waiting", 61: "complete"}),
    ("a.mcap", damaged, WAITS, {1: "settling", 3: "damaged", 700: "damaged"}),
    ("a.mcap", unfinished, WAITS, {3: "recording", 599: "recording", 601: "unfinished"}),
    ("a.mcap", unfinished, SENT, {3: "recording", 599: "recording", 601: "complete"}),
    ("a.mcap", unfinished, PATIENT, {599: "recording", 601: "waiting", 1201: "complete"}),
    ("a.mcap", empty, WAITS, {3: "recording", 601: "unfinished"}),
    ("a.mcap", empty, SENT, {3: "recording", 601: "unfinished"}),
    ("a.mcap", by_axon, WAITS, {3: "waiting", 599: "waiting", 601: "complete"}),
    ("a.mcap", with_done_marker, NO_SIDECAR, {3: "complete"}),
    ("a.mcap", with_old_done_marker, NO_SIDECAR, {3: "waiting", 601: "complete"}),
    ("a.mcap", with_compressed_form, COMPRESSED, {3: "waiting", 601: "waiting"}),
    ("a.mcap", beside_a_dead_compressor, COMPRESSED, {3: "waiting", 601: "complete"}),
    ("a.mcap.zstd", zstd, COMPRESSED, {3: "settling", 59: "settling", 61: "complete"}),
    ("a.mcap.zstd", no_zstd, COMPRESSED, {59: "settling", 61: "damaged"}),
    ("a.mcap.zstd", empty, COMPRESSED, {61: "recording", 601: "unfinished"}),
    ("a.mcap.zstd", zstd, WAITS, {100: "unknown"}),
    # Patterns, also for folders and with letters of another case.
    ("A.MCAP", write_mcap, NO_SIDECAR, {3: "complete"}),
    ("A.Mcap", write_mcap, NO_SIDECAR, {3: "unknown"}),
    ("#recycle/a.mcap", write_mcap, NO_SIDECAR, {3: "unknown"}),
    ("day/a.mcap", write_mcap, NO_SIDECAR, {3: "complete"}),
    ("day.active/a.mcap", write_mcap, NO_SIDECAR, {3: "unknown"}),
    (".day/a.mcap", write_mcap, NO_SIDECAR, {3: "unknown"}),
    (".a.mcap", write_mcap, NO_SIDECAR, {3: "unknown"}),
    ("a.mcap.active", write_mcap, NO_SIDECAR, {3: "unknown"}),
    ("a\nb.mcap", write_mcap, NO_SIDECAR, {3: "complete"}),
    ("x.log", write_mcap, ('include = ["[w-z]*"]', *NO_SIDECAR), {3: "complete"}),
    # Marker files stay marker files, whatever include says.
    ("a.mcap.resync", write_mcap, ('include = ["*"]', *NO_SIDECAR), {3: "unknown"}),
    ("a.mcap.first.rejected", write_mcap, ('include = ["*"]', *NO_SIDECAR), {3: "unknown"}),
    ("a.mcap.done", write_mcap, ('include = ["*"]', *NO_SIDECAR), {3: "complete"}),
    # Other kinds of files.
    ("a.mcap", os.mkfifo, NO_SIDECAR, {3: "unknown"}),
    ("a.mcap", os.mkfifo, ('newer_than = "2100-01-01"', *NO_SIDECAR), {3: "unknown"}),
    # Ages.
    ("a.mcap", write_mcap, ('newer_than = "2100-01-01"', *NO_SIDECAR), {3: "skipped"}),
    ("a.mcap", write_mcap, ('newer_than = "1h"', *NO_SIDECAR), {1: "settling", 3: "complete"}),
    # A watched folder in an excluded folder of another one.
    (
        ".cache/a.mcap",
        write_mcap,
        ('roots = ["ROOT", "ROOT/.cache"]', *NO_SIDECAR),
        {3: "complete"},
    ),
    ("file/a.mcap", write_mcap, ('roots = ["ROOT/other"]', *NO_SIDECAR), {3: "unknown"}),
]


def assert_states(
    tmp_path: Path, name: str, make: Maker, settings: Sequence[str], states: dict[float, str]
) -> None:
    """Make a file, and check its state by agent and command after so many seconds."""
    robot = CommandScene(tmp_path, *settings)
    path = robot.root / name
    path.parent.mkdir(exist_ok=True)
    make(path)
    robot.dated(path)
    for sidecar in robot.root.glob("*.json"):
        robot.dated(sidecar)
    done = path.with_name(path.name + ".done")
    if done.exists() and done.stat().st_mtime > 0:
        robot.dated(done)
    robot.start()
    told = {}
    now = 0.0
    for moment in states:
        robot.run(moment - now)
        now = moment
        told[moment] = (robot.agent_state(path), robot.command_state(path))
    assert told == {moment: (state, state) for moment, state in states.items()}


@pytest.mark.parametrize(("name", "make", "settings", "states"), FILES)
def test_the_commands_and_the_agent_give_a_file_the_same_state(
    tmp_path: Path, name: str, make: Maker, settings: Sequence[str], states: dict[float, str]
) -> None:
    assert_states(tmp_path, name, make, settings, states)


@pytest.mark.parametrize(
    ("writer", "make", "states"),
    [
        (True, unfinished, {3: "recording", 601: "recording"}),
        (None, unfinished, {3: "recording", 601: "recording"}),
        (None, write_mcap, {3: "complete"}),
    ],
)
def test_both_judge_alike_by_a_writer_that_is_seen_or_can_t_be_seen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer: bool | None,
    make: Maker,
    states: dict[float, str],
) -> None:
    monkeypatch.setattr(state_rules, "has_writer", lambda _: writer)
    assert_states(tmp_path, "a.mcap", make, NO_SIDECAR, states)


def test_both_wait_alike_for_the_writer_of_a_complete_file(tmp_path: Path) -> None:
    robot = CommandScene(tmp_path, *NO_SIDECAR)
    path = write_mcap(robot.root / "a.mcap")
    robot.dated(path)
    with path.open("r+b"):
        robot.start()
        for seconds, state in ((3, "recording"), (590, "recording"), (10, "complete")):
            robot.run(seconds)
            assert (robot.agent_state(path), robot.command_state(path)) == (state, state)


@pytest.mark.parametrize("sends", [False, True])
@pytest.mark.parametrize("writer", [False, None])
def test_both_take_a_file_of_before_the_boot_as_unfinished_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends: bool, writer: bool | None
) -> None:
    monkeypatch.setattr(state_rules, "has_writer", lambda _: writer)
    robot = CommandScene(tmp_path, *NO_SIDECAR, *(['unfinished = "upload"'] if sends else []))
    path = unfinished(robot.root / "a.mcap")
    robot.dated(path, ago=robot.clock.monotonic() + 1)
    robot.start()
    robot.run(3)
    state = "complete" if sends else "unfinished"
    assert (robot.agent_state(path), robot.command_state(path)) == (state, state)


def test_both_have_waited_for_a_file_whose_date_is_far_ahead(tmp_path: Path) -> None:
    robot = CommandScene(tmp_path, *WAITS)
    path = write_mcap(robot.root / "a.mcap")
    robot.dated(path, ago=-86_400)
    robot.start()
    robot.run(61)
    assert (robot.agent_state(path), robot.command_state(path)) == ("complete", "complete")


def test_both_have_a_sidecar_settle_too(tmp_path: Path) -> None:
    robot = CommandScene(tmp_path, *WAITS)
    path = write_mcap(robot.root / "a.mcap")
    robot.dated(path)
    robot.start()
    robot.run(10)
    robot.dated(write_sidecar(path))
    robot.discover.rescan()
    robot.run(1)
    assert (robot.agent_state(path), robot.command_state(path)) == ("settling", "settling")
    robot.run(2)
    assert (robot.agent_state(path), robot.command_state(path)) == ("complete", "complete")


@pytest.mark.parametrize("follow", [False, True])
def test_both_follow_links_only_where_that_is_configured(tmp_path: Path, follow: bool) -> None:
    robot = CommandScene(tmp_path, *WAITS, f"follow_symlinks = {str(follow).lower()}")
    outside = tmp_path / "outside"
    outside.mkdir()
    files = {
        "link.mcap": ("complete", write_mcap(outside / "one")),
        "folder/two.mcap": ("complete", write_mcap(outside / "two.mcap", seed=1)),
        "empty.mcap": ("unfinished", outside / "three"),
        ".hidden/four.mcap": ("unknown", write_mcap(outside / "four", seed=2)),
        "nowhere.mcap": ("unknown", outside / "gone"),
        "pipe.mcap": ("unknown", outside / "pipe"),
    }
    (outside / "three").touch()
    os.mkfifo(outside / "pipe")
    for name, (_, target) in files.items():
        link = robot.root / name
        if link.parent == robot.root:
            link.symlink_to(target)
            # The date of the link itself says nothing about the file.
            robot.dated(link, ago=-3600, follow_symlinks=False)
        if target.exists():
            robot.dated(target, ago=700)
    (robot.root / "folder").symlink_to(outside)
    (robot.root / ".hidden").symlink_to(outside)
    robot.start()
    robot.run(701)
    for name, (state, _) in files.items():
        path = robot.root / name
        expected = state if follow else "unknown"
        assert (name, robot.agent_state(path), robot.command_state(path)) == (
            name,
            expected,
            expected,
        )


def test_both_find_a_watched_folder_that_another_one_reaches_by_a_link(tmp_path: Path) -> None:
    robot = CommandScene(tmp_path, 'roots = ["ROOT", "ROOT/day"]', *NO_SIDECAR)
    (tmp_path / "disk").mkdir()
    (robot.root / "day").symlink_to(tmp_path / "disk")
    path = write_mcap(robot.root / "day" / "a.mcap")
    robot.dated(path)
    robot.start()
    robot.run(3)
    assert (robot.agent_state(path), robot.command_state(path)) == ("complete", "complete")
    # The command may be given the real path.
    assert robot.command_state(tmp_path / "disk" / "a.mcap") == "complete"


def test_both_forget_a_file_whose_folder_became_a_file(tmp_path: Path) -> None:
    robot = CommandScene(tmp_path, *NO_SIDECAR)
    folder = robot.root / "day"
    folder.mkdir()
    path = write_mcap(folder / "a.mcap")
    robot.dated(path)
    robot.start()
    robot.run(3)
    shutil.rmtree(folder)
    folder.touch()
    robot.run(61)
    assert (robot.agent_state(path), robot.command_state(path)) == ("unknown", "unknown")
