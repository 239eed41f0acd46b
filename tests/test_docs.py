"""What the code has, the papers say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from agent.edges.config import KEYS, Settings, load

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def commands(group: click.Group, prefix: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        if command.hidden:
            continue
        yield f"{prefix}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


def test_every_setting_is_in_the_readme() -> None:
    assert [key for key in KEYS if key not in README] == []


def test_every_setting_stands_in_the_file_that_is_installed_with_its_default() -> None:
    nothing: Mapping[str, str] = {}
    loaded = load(REPOSITORY / "config" / "agent.toml", nothing)
    assert [key for key, origin in loaded.origin.items() if origin == "default"] == []
    assert loaded.settings == Settings()


def test_every_command_is_in_the_readme() -> None:
    from agent.cli import cli  # noqa: PLC0415 - the settings are proven without it

    names = list(commands(cli))
    assert names
    assert [name for name in names if f"keystone-agent {name}" not in README] == []
