"""Tests of a version's note of its configuration, and of the start of an older version with it."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import __version__
from agent.adapters.accepted import NAME, AcceptedConfigurations
from agent.adapters.config import ConfigError, load, load_leniently
from agent.devcloud.cloud import DevCloud
from tests.harness.agent_process import Agent, running
from tests.harness.console import Console
from tests.harness.eventually import eventually
from tests.harness.paths import REPOSITORY
from tests.harness.recorders import write_mcap

CONFIGURATION = b"a configuration"
VERSIONS = (
    "no version",
    "0.1",
    "0.1.1",
    "0.2.0.dev1",
    "0.2.0rc1",
    "0.2.0rc2",
    "0.2.0",
    "0.2.1",
    "0.10.0",
    "1.0",
)


# These tests check what is noted.


@pytest.mark.parametrize(("older", "newer"), list(itertools.combinations(VERSIONS, 2)))
def test_versions_are_compared_as_numbers(tmp_path: Path, older: str, newer: str) -> None:
    accepted = AcceptedConfigurations(tmp_path)
    for version in (older, newer):
        accepted.note(version, CONFIGURATION)
    assert accepted.newer_that_accepted(CONFIGURATION, than=older) == newer
    assert accepted.newer_that_accepted(CONFIGURATION, than=newer) == ""
    assert (accepted.newer(than=older), accepted.newer(than=newer)) == (newer, "")


def test_0_2_and_0_2_0_are_the_same_version(tmp_path: Path) -> None:
    accepted = AcceptedConfigurations(tmp_path)
    accepted.note("0.2.0", CONFIGURATION)
    assert accepted.newer(than="0.2") == ""


def test_only_exactly_that_configuration_counts(tmp_path: Path) -> None:
    accepted = AcceptedConfigurations(tmp_path)
    accepted.note("0.2.0", CONFIGURATION)
    assert accepted.newer_that_accepted(CONFIGURATION + b"!", than="0.1.1") == ""
    accepted.note("0.2.0", b"another one")
    assert accepted.newer_that_accepted(CONFIGURATION, than="0.1.1") == "", (
        "it was replaced by a reload"
    )
    assert accepted.newer_that_accepted(b"another one", than="0.1.1") == "0.2.0"


def test_an_older_version_leaves_the_newer_ones_note(tmp_path: Path) -> None:
    accepted = AcceptedConfigurations(tmp_path)
    accepted.note("0.2.0", CONFIGURATION)
    for version in ("0.1.1", "0.1.2", "0.1.1"):
        accepted.note(version, CONFIGURATION)
        assert accepted.newer_that_accepted(CONFIGURATION, than="0.1.1") == "0.2.0"


def test_the_oldest_notes_go_when_there_are_many_but_not_that_of_the_version_that_runs(
    tmp_path: Path,
) -> None:
    accepted = AcceptedConfigurations(tmp_path)
    for minor in range(1, 31):
        accepted.note(f"0.{minor}.0", CONFIGURATION)
    accepted.note("0.0.1", b"its own")
    kept = json.loads((tmp_path / NAME).read_text())["accepted"]
    assert list(kept) == ["0.0.1", *(f"0.{minor}.0" for minor in range(24, 31))]


def test_what_is_noted_already_is_not_written_again(tmp_path: Path) -> None:
    accepted = AcceptedConfigurations(tmp_path)
    accepted.note("0.2.0", CONFIGURATION)
    before = (tmp_path / NAME).stat().st_ino
    accepted.note("0.2.0", CONFIGURATION)
    assert (tmp_path / NAME).stat().st_ino == before
    accepted.note("0.2.0", b"another one")
    assert (tmp_path / NAME).stat().st_ino != before


def test_a_password_can_not_be_guessed_from_the_note(tmp_path: Path) -> None:
    """Only the agent's user may read the file.

    No two robots have the same digest of the same configuration.
    """
    digests = set()
    for robot in ("one", "two"):
        folder = tmp_path / robot
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, 65534, 4711)
        AcceptedConfigurations(folder).note("0.2.0", CONFIGURATION)
        state = (folder / NAME).stat()
        assert stat.S_IMODE(state.st_mode) == 0o600
        assert (state.st_uid, state.st_gid) == (folder.stat().st_uid, folder.stat().st_gid)
        digests.add(json.loads((folder / NAME).read_text())["accepted"]["0.2.0"])
    assert len(digests) == 2
    assert hashlib.sha256(CONFIGURATION).hexdigest() not in digests


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "1",
        '{"salt": 1, "accepted": {"9": 1}}',
        '{"accepted": []}',
        "[" * 60_000,
        "\xff",
    ],
)
def test_a_note_that_can_not_be_understood_is_none_and_is_replaced(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / NAME).write_text(text, encoding="latin-1")
    accepted = AcceptedConfigurations(tmp_path)
    assert (accepted.newer_that_accepted(CONFIGURATION, than="0"), accepted.newer(than="0")) == (
        "",
        "",
    )
    accepted.note("0.2.0", CONFIGURATION)
    assert accepted.newer_that_accepted(CONFIGURATION, than="0") == "0.2.0"


def test_a_link_or_a_pipe_in_its_place_is_not_read(tmp_path: Path) -> None:
    accepted = AcceptedConfigurations(tmp_path)
    os.mkfifo(tmp_path / NAME)
    assert accepted.newer(than="0") == ""
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to("/etc/passwd")
    assert accepted.newer(than="0") == ""
    accepted.note("0.2.0", CONFIGURATION)
    assert not (tmp_path / NAME).is_symlink()


# These tests check the canonical form of a configuration.


def canonical(folder: Path, *texts: str, **environ: str) -> bytes:
    """Return the canonical form of a file with drop-ins beside it, in this order."""
    main = folder / "agent.toml"
    drop_ins = Path(f"{main}.d")
    shutil.rmtree(drop_ins, ignore_errors=True)
    drop_ins.mkdir()
    main.write_text(texts[0])
    for number, text in enumerate(texts[1:]):
        (drop_ins / f"{number}.toml").write_text(text)
    return load_leniently(main, environ).canonical


def test_who_writes_the_same_in_another_way_has_not_changed_the_configuration(
    tmp_path: Path,
) -> None:
    whole = canonical(
        tmp_path,
        '[watch]\ndepth = 3\nauto = true\n[new]\nmap = {a = "1", b = "2"}\nlist = [1, 2.0]\n',
    )
    anew = (
        '# by hand\n[new]\nlist = [\n  1, 2.0,\n]\nmap.b = "2"\nmap.a = "1"\n'
        "[watch]\nauto = true\ndepth = 3\n"
    )
    assert canonical(tmp_path, anew) == whole
    first, second = (
        '[watch]\ndepth = 9\n[new]\nmap = {a = "1"}\n',
        '[new]\nmap = {b = "2"}\nlist = [1, 2.0]\n',
    )
    assert canonical(tmp_path, first, second, "[watch]\ndepth = 3\nauto = true\n") == whole
    assert canonical(tmp_path, anew, KEYSTONE_AGENT_CONFIG="/elsewhere", HOME="/root") == whole


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[watch]\ndepth = 4\n",
        "[watch]\ndepth = 3.0\n",
        '[watch]\ndepth = "3"\n',
        "[watch]\ndepth = [3]\n",
        "[watch]\ndepth = 3\nauto = true\n",
        "[watch.depth]\n",
        "[new]\ndepth = 3\n",
        "depth = 3\n",
    ],
)
def test_every_other_value_is_another_configuration(tmp_path: Path, text: str) -> None:
    assert canonical(tmp_path, text) != canonical(tmp_path, "[watch]\ndepth = 3\n")


def test_variables_count_with_those_that_are_not_known(tmp_path: Path) -> None:
    said = [
        canonical(tmp_path, "", **environ)
        for environ in (
            {},
            {"KEYSTONE_AGENT_WATCH__DEPTH": "3"},
            {"KEYSTONE_AGENT_WATCH__DEPTH": "4"},
            {"KEYSTONE_AGENT_CLOUD__PROXY": "http://me:secret@proxy:1"},
        )
    ]
    assert len(set(said)) == 4


def test_a_later_version_still_makes_the_same_text_of_the_same_configuration(
    tmp_path: Path,
) -> None:
    """Otherwise a robot that is rolled back to this version would not upload."""
    text = (
        '[watch]\nroots = ["/ü"]\nsettle_seconds = 0.5\nauto = false\n'
        "[new]\nday = 2026-11-28\nmoment = 2026-11-28T01:02:03Z\nlarge = "
        "0x1_0000_0000_0000_0000\nnone = {}\n"
    )
    made = canonical(tmp_path, text, KEYSTONE_AGENT_WATCH__DEPTH="3\udcff")
    files = (
        '{"new":{"day":date(2026-11-28),"large":0x10000000000000000,"moment":datetime(2026-11-28T01:02:03+00:00),'
        '"none":{}},"watch":{"auto":false,"roots":["/\\u00fc"],"settle_seconds":0.5}}'
    )
    assert made.decode().splitlines() == [
        files,
        '{"KEYSTONE_AGENT_WATCH__DEPTH":"3\\udcff"}',
    ]


def test_each_unknown_key_is_named_and_everything_else_is_still_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(
        "odd = 1\n[watch]\ndepth = 3\nauto = true\n[new]\none = 1\ntwo = {three = 3}\n[empty]\n"
    )
    loaded = load_leniently(file, {"KEYSTONE_AGENT_A": "1", "HOME": "/"})
    assert loaded.unknown_keys == [
        "odd",
        "watch.depth",
        "new.one",
        "new.two",
        "empty",
        "KEYSTONE_AGENT_A",
    ]
    assert loaded.settings.watch.auto is True
    with pytest.raises(ConfigError) as caught:
        load(file, {})
    assert [fault.key for fault in caught.value.faults] == ["odd", "watch.depth", "new", "empty"]
    file.write_text("[watch]\ndepth = 3\nrescan_seconds = 0\n")
    with pytest.raises(ConfigError) as caught:
        load_leniently(file, {})
    assert [fault.key for fault in caught.value.faults] == ["watch.depth", "watch.rescan_seconds"]


def test_tables_without_end_are_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f"[new.{'a.' * 5000}a]\n")
    with pytest.raises(ConfigError, match=r"nested too deeply|more than the allowed"):
        load_leniently(file, {})


# These tests run the commands of a robot that was rolled back.


@pytest.fixture
def console(tmp_path: Path) -> Console:
    """A robot on which version 99.0 has accepted a key that this version does not know."""
    console = Console(tmp_path, "depth = 3")
    note(console, "99.0")
    return console


def note(console: Console, version: str) -> None:
    AcceptedConfigurations(console.state).note(
        version, load_leniently(console.config, os.environ).canonical
    )


def test_commands_name_what_they_ignore_and_do_their_work(console: Console) -> None:
    for command in (("status",), ("history",), ("config", "show")):
        told = console.run(*command)
        assert told.exit_code == 0
        assert f"version {__version__} does not know and ignores: watch.depth" in told.stderr
    console.configure("depth = 4")
    assert console.run("status").exit_code == 0, (
        "a command may see another environment than the agent"
    )


def test_validate_refuses_what_is_not_known_as_before(console: Console) -> None:
    with pytest.raises(ConfigError, match=r"watch\.depth"):
        console.run("config", "validate")


def test_commands_refuse_what_no_newer_version_has_accepted(tmp_path: Path) -> None:
    console = Console(tmp_path, "depth = 3")
    for version in ("0.0.1", __version__):
        note(console, version)
        for command in ("status", "check"):
            with pytest.raises(ConfigError, match=r"watch\.depth"):
                console.run(command)


def test_check_says_what_is_ignored_and_is_as_strict_as_a_start(console: Console) -> None:
    (line,) = [
        line for line in console.json("check")["preconditions"] if line["name"] == "configuration"
    ]
    assert line["ok"]
    assert (
        "version 99.0 accepted it, this version does not know and ignores watch.depth"
        in line["says"]
    )
    assert "install version 99.0 again, or remove these keys" in line["remedy"]
    console.configure("depth = 4")
    with pytest.raises(ConfigError, match=r"watch\.depth"):
        console.run("check")


# These tests run the real process.


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[DevCloud]:
    with DevCloud(tmp_path / "cloud") as cloud:
        yield cloud


def newer_version(folder: Path) -> Path:
    """Copy the agent as version 99.0.

    That version has one more setting, one more section, and a setting that may be 0.
    """
    shutil.copytree(
        REPOSITORY / "agent", folder / "agent", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name, old, new in (
        ("__init__.py", f'"{__version__}"', '"99.0"'),
        (
            "adapters/config/sections.py",
            "    auto: Switch = True\n",
            "    auto: Switch = True\n    depth: Count = 1\n",
        ),
        (
            "adapters/config/sections.py",
            "rescan_seconds: Seconds =",
            "rescan_seconds: SecondsOr0 =",
        ),
        (
            "adapters/config/sections.py",
            "class Settings(",
            "class New(_Section):\n    one: Count = 1\n\n\nclass Settings(",
        ),
        (
            "adapters/config/sections.py",
            "    agent: AgentSettings = AgentSettings()\n",
            "    agent: AgentSettings = AgentSettings()\n    new: New = New()\n",
        ),
    ):
        path = folder / "agent" / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
    return folder


def configure(agent: Agent, text: str) -> None:
    """Write a drop-in beside the configuration."""
    file = Path(f"{agent.config}.d") / "test.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)


def content(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def refused(agent: Agent) -> str:
    """Return the output of a start that must fail because of its configuration."""
    before = agent.said()
    agent.start()
    assert agent.process is not None
    assert agent.process.wait(timeout=60) == 2
    agent.process = None
    return agent.said().removeprefix(before)


def test_a_robot_that_is_rolled_back_uploads_with_the_newer_versions_configuration(
    cloud: DevCloud, tmp_path: Path
) -> None:
    newer = newer_version(tmp_path / "newer")
    with running(cloud.agent_files, tmp_path) as agent:
        eventually(lambda: "watches" in agent.said())
        agent.stop()
        # The keys come while the newer version runs: each accepted reload is noted, too.
        agent.home = newer
        agent.start()
        eventually(lambda: "agent 99.0 of robot" in agent.said())
        configure(agent, "[watch]\ndepth = 2\n[new]\none = 5\n")
        agent.environ["KEYSTONE_AGENT_NEW__ONE"] = "7"
        agent.stop()
        agent.home = None
        assert "watch.depth" in refused(agent), "no version has accepted it yet"
        agent.home = newer
        agent.start()
        write_mcap(agent.root / "a.mcap")
        agent.wait_completed(1)
        configure(agent, "[watch]\ndepth = 3\n[new]\none = 5\n")
        send_sighup(agent, "settings reloaded: watch.depth")
        agent.stop()

        agent.home = None
        # The older version's own note does not prevent its next start.
        for number in (2, 3):
            agent.start()
            write_mcap(agent.root / f"{number}.mcap", seed=number)
            agent.wait_completed(number)
            told = (
                f"version {__version__} does not know and ignores watch.depth, new.one, "
                "KEYSTONE_AGENT_NEW__ONE"
            )
            assert f"{told}: version 99.0 accepted this configuration" in agent.said()
            if number == 2:
                agent.stop()
        status = agent.command("status")
        assert (
            "settings  this version does not know and ignores watch.depth, new.one" in status.stdout
        )
        assert json.loads(agent.command("status", "--json").stdout)["agent"]["settings"][
            "unknown_keys"
        ]
        assert "WARNING" in next(
            line for line in agent.said().splitlines() if "ignores watch.depth" in line
        )

        validated = agent.command("config", "validate")
        assert (validated.returncode, "watch.depth" in validated.stderr) == (2, True)
        send_sighup(agent, "the configuration is refused, and the old one stays")
        write_mcap(agent.root / "4.mcap", seed=4)
        agent.wait_completed(4)

        # Once the configuration is corrected, no message is left, and its old form is no longer
        # what a start accepts.
        del agent.environ["KEYSTONE_AGENT_NEW__ONE"]
        configure(agent, "")
        agent.stop()
        agent.start()
        write_mcap(agent.root / "5.mcap", seed=5)
        agent.wait_completed(5)
        assert "ignores" not in agent.command("status").stdout
        agent.stop()
        configure(agent, "[watch]\ndepth = 4\n")
        assert "watch.depth" in refused(agent)


def test_a_wrong_value_is_an_error_whoever_accepted_the_rest(
    cloud: DevCloud, tmp_path: Path
) -> None:
    agent = Agent(cloud.agent_files, tmp_path)
    configure(agent, "[watch]\ndepth = 3\nrescan_seconds = 0\n")
    del agent.environ["KEYSTONE_AGENT_WATCH__RESCAN_SECONDS"]
    agent.home = newer_version(tmp_path / "newer")
    agent.start()
    eventually(lambda: "99.0" in content(agent.state / NAME))
    agent.stop()
    agent.home = None
    told = refused(agent)
    assert "watch.depth" in told
    assert "watch.rescan_seconds" in told


def send_sighup(agent: Agent, until: str) -> None:
    """Send SIGHUP, and wait until the agent has logged a text that it had not logged before."""
    before = agent.said().count(until)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    eventually(lambda: agent.said().count(until) > before)
