"""Tests of shell completion, as bash requests it, and of what a real bash makes of it."""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import CompletionItem, get_completion_class

from agent.cli import completion
from tests.harness.console import Console

_COMMAND = "from agent.__main__ import main; main()"


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


def completions(console: Console, instruction: str, *words: str) -> str:
    """Return what the command answers to the shell; the last of ``words`` is not complete yet."""
    environ = {
        **os.environ,
        "_KEYSTONE_AGENT_COMPLETE": instruction,
        "COMP_WORDS": " ".join(["keystone-agent", *words]),
        "COMP_CWORD": str(len(words)),
        "KEYSTONE_AGENT_CONFIG": str(console.config),
    }
    result = subprocess.run(
        [sys.executable, "-c", _COMMAND],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return result.stdout


def test_the_script_of_the_readme_is_produced(console: Console) -> None:
    assert "complete -o nosort -F" in completions(console, "bash_source")


def test_a_command_is_completed(console: Console) -> None:
    assert completions(console, "bash_complete", "hist") == "plain,history\n"


def test_an_episode_is_completed(console: Console) -> None:
    console.remember("/a.mcap", episode="run-1")
    console.remember("/b.mcap", episode="run-2")
    console.remember("/b.mcap", episode="run-2")
    console.remember("/c.mcap", episode="other")
    assert completions(console, "bash_complete", "history", "run-") == "plain,run-2\nplain,run-1\n"


def test_nothing_is_offered_where_it_would_take_long_or_fail(
    console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    console.remember("/a.mcap", episode="run-1")
    monkeypatch.setenv("KEYSTONE_AGENT_CONFIG", str(console.config))
    from agent.cli.commands.history import history  # noqa: PLC0415

    context, (argument, *_) = history.make_context("history", []), history.params
    assert [item.value for item in completion.episodes(context, argument, "")] == ["run-1"]
    monkeypatch.setattr(completion, "_MAX_JOURNAL_BYTES", 10)
    assert completion.episodes(context, argument, "") == []
    monkeypatch.undo()
    console.config.write_text("nonsense")
    monkeypatch.setenv("KEYSTONE_AGENT_CONFIG", str(console.config))
    assert completion.episodes(context, argument, "") == []


def test_only_ids_without_a_meaning_to_a_shell_are_offered(console: Console) -> None:
    good = ["run-1", "Run_2.b", "a:b", "7@x+y", "+1", ".hidden"]
    bad = [
        "$(id)",
        "`id`",
        "a b",
        "a'b",
        'a"b',
        "a;b",
        "a&b",
        "a|b",
        "a\\b",
        "a*",
        "a,b",
        "a~b",
        "a\nb",
        "ü",
        "-rf",
        "",
    ]
    for episode in (*good, *bad):
        console.remember("/a.mcap", episode=episode or "=")
    offered = completions(console, "bash_complete", "history", "").splitlines()
    assert sorted(offered) == sorted(f"plain,{episode}" for episode in good)


def test_where_no_id_begins_so_the_shell_completes_file_names(console: Console) -> None:
    console.remember("/a.mcap", episode="run-1")
    assert completions(console, "bash_complete", "history", "run") == "plain,run-1\n"
    assert completions(console, "bash_complete", "history", "day/") == "file,_\n"
    assert completions(console, "zsh_complete", "history", "day/") == "file\n_\n_\n"


@pytest.mark.parametrize(
    ("command", "kinds"), [("resync", ["file"]), ("first", ["file"]), ("logs", [])]
)
def test_file_names_are_completed_where_a_file_may_be_named(command: str, kinds: list[str]) -> None:
    from agent.cli import cli  # noqa: PLC0415 - most tests here start a command

    chosen = cli.commands[command]
    context = chosen.make_context(command, [], resilient_parsing=True)
    (parameter,) = (each for each in chosen.params if each.name in ("targets", "episode"))
    assert [item.type for item in parameter.shell_complete(context, "day/")] == kinds


@pytest.mark.parametrize(
    ("begun", "told"), [("day/", "day/"), ("day/\nplain,x", ""), ("day/\udcff", "")]
)
def test_fish_is_told_what_was_begun_only_in_one_line(begun: str, told: str) -> None:
    fish = get_completion_class("fish")
    assert fish is not None
    item = CompletionItem(begun, type="file")
    assert (
        fish(click.Command("why"), {}, "keystone-agent", "").format_completion(item)
        == f"file,{told}"
    )


class Bash:
    """A bash at a terminal, in the folder ``folder``, with the completion of the README."""

    def __init__(self, console: Console, tmp_path: Path) -> None:
        self.folder = tmp_path / "folder"
        self.folder.mkdir()
        self._told = tmp_path / "told.json"
        self._rc = tmp_path / "bashrc"
        self._rc.write_text(completions(console, "bash_source"))
        command = tmp_path / "bin" / "keystone-agent"
        command.parent.mkdir()
        command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{_COMMAND}" "$@"\n')
        command.chmod(0o755)
        self._environ = {
            **os.environ,
            "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
            "KEYSTONE_AGENT_CONFIG": str(console.config),
            "HISTFILE": "",
            "INPUTRC": os.devnull,
            "LC_ALL": "C.UTF-8",
            "TERM": "dumb",
        }

    def file(self, name: str) -> None:
        """Make an empty file, and the folders that contain it."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def files(self) -> list[str]:
        """Return the files of the folder, where a command that bash ran by mistake left a file."""
        return sorted(path.name for path in self.folder.iterdir())

    def enter(self, *lines: str) -> str:
        """Type the lines, each with Enter at its end, and return what the terminal shows."""
        main, device = os.openpty()
        command = ["bash", "--noprofile", "--rcfile", str(self._rc), "-i"]
        with subprocess.Popen(
            command,
            stdin=device,
            stdout=device,
            stderr=device,
            env=self._environ,
            cwd=self.folder,
            start_new_session=True,
        ) as bash:
            os.close(device)
            os.write(main, "".join(f"{line}\n" for line in (*lines, "exit")).encode())
            shown = b""
            # The terminal reports that it is closed once bash has ended.
            with suppress(OSError):
                while select.select([main], [], [], 60)[0]:
                    shown += os.read(main, 65536)
            bash.kill()
        os.close(main)
        return shown.decode("utf-8", "replace")

    def json(self, typed: str) -> Any:
        """Return the JSON that the typed command prints."""
        shown = self.enter(f"{typed} >{shlex.quote(str(self._told))}")
        try:
            return json.loads(self._told.read_text())
        except (OSError, ValueError):
            pytest.fail(shown)


@pytest.fixture
def bash(console: Console, tmp_path: Path) -> Bash:
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    return Bash(console, tmp_path)


NAMES = [
    "$(touch x).mcap",
    "`touch x`.mcap",
    ";touch x;.mcap",
    "a&touch x&.mcap",
    "a|touch x.mcap",
    "two words.mcap",
    'it\'s "so".mcap',
    "back\\slash.mcap",
    "new\nplain,$(touch x).mcap",
    "!!.mcap",
    "*.mcap",
    "~root.mcap",
]


def test_in_bash_completed_file_names_reach_the_command_and_run_nothing(bash: Bash) -> None:
    for number, name in enumerate(NAMES):
        bash.file(f"{number}/{name}")
    before = bash.files()
    result = bash.json(
        "keystone-agent why --json " + "".join(f"{number}/\t" for number in range(len(NAMES)))
    )
    assert [reasons["path"] for reasons in result] == [
        f"{number}/{name}" for number, name in enumerate(NAMES)
    ]
    assert bash.files() == before


def test_in_bash_file_names_are_completed_beside_ids(bash: Bash) -> None:
    bash.file(f"day/{NAMES[0]}")
    (result,) = bash.json("keystone-agent resync --json day/\t")
    assert result["target"] == str(bash.folder / "day" / NAMES[0])
    assert bash.files() == ["day"]


def test_in_bash_a_file_name_that_is_completed_half_runs_nothing(bash: Bash) -> None:
    """What is on the command line already goes to the command.

    The command's answer must not bring the same text back unquoted.
    """
    for number in (1, 2):
        bash.file(f"day/new\nplain,$(touch x){number}.mcap")
    for quote in ("", "'"):
        bash.enter(f"keystone-agent why {quote}day/\t\t", quote)
        assert bash.files() == ["day"]


def test_in_bash_a_completed_episode_id_runs_nothing(bash: Bash, console: Console) -> None:
    console.remember("/a.mcap", episode="$(touch x)")
    bash.enter("keystone-agent history \t")
    assert bash.files() == []
    console.remember("/a.mcap", episode="run-1")
    (document,) = bash.json("keystone-agent history --json \t")
    assert document["episode_id"] == "run-1"
