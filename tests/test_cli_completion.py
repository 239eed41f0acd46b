"""What the shell completes, as bash asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli import completion
from tests.console import Console

_COMMAND = "from agent.__main__ import main; main()"


@pytest.fixture
def console(tmp_path: Path) -> Console:
    return Console(tmp_path)


def asked(console: Console, instruction: str, *words: str) -> str:
    """What the command answers to the shell; the last of ``words`` is the one that is begun."""
    environ = {
        **os.environ,
        "_KEYSTONE_AGENT_COMPLETE": instruction,
        "COMP_WORDS": " ".join(["keystone-agent", *words]),
        "COMP_CWORD": str(len(words)),
        "KEYSTONE_AGENT_CONFIG": str(console.config),
    }
    told = subprocess.run(
        [sys.executable, "-c", _COMMAND], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    return told.stdout


def test_the_script_of_the_readme_is_produced(console: Console) -> None:
    assert "complete -o nosort -F" in asked(console, "bash_source")


def test_a_command_is_completed(console: Console) -> None:
    assert asked(console, "bash_complete", "hist") == "plain,history\n"


def test_an_episode_is_completed(console: Console) -> None:
    console.remember("/a.mcap", episode="run-1")
    console.remember("/b.mcap", episode="run-2")
    console.remember("/b.mcap", episode="run-2")
    console.remember("/c.mcap", episode="other")
    assert asked(console, "bash_complete", "history", "run-") == "plain,run-2\nplain,run-1\n"


def test_nothing_is_offered_where_it_would_take_long_or_fail(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    console.remember("/a.mcap", episode="run-1")
    monkeypatch.setenv("KEYSTONE_AGENT_CONFIG", str(console.config))
    from agent.cli.documents import history  # noqa: PLC0415

    context, (argument, *_) = history.make_context("history", []), history.params
    assert [item.value for item in completion.episodes(context, argument, "")] == ["run-1"]
    monkeypatch.setattr(completion, "_LARGEST", 10)
    assert completion.episodes(context, argument, "") == []
    monkeypatch.undo()
    console.config.write_text("nonsense")
    monkeypatch.setenv("KEYSTONE_AGENT_CONFIG", str(console.config))
    assert completion.episodes(context, argument, "") == []
