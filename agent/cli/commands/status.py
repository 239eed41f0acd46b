"""`status` and `why`: what the agent knows and does, read from the disk; it may run or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from agent.adapters.clock import RealClock
from agent.adapters.config import Settings
from agent.cli.file_rules import FileRules, RuleResult
from agent.cli.options import (
    absolute,
    local,
    opened_history,
    print_json,
    say,
    settings_of,
    with_config,
    with_json,
    word_of_agent,
)
from agent.cli.status_lines import from_disk, plain
from agent.cli.status_watch import watch
from agent.observe.history_summary import standing


@click.command()
@with_config
@with_json
@click.option(
    "--watch",
    "watched",
    is_flag=True,
    help="Show it again in place while it changes; Ctrl-C ends it.",
)
def status(*, config_path: Path | None, as_json: bool, watched: bool) -> None:
    """Show recordings by state, uploads under way, and what holds them up."""
    settings = settings_of(config_path)
    if watched:
        watch(settings.agent.state_dir, as_json=as_json)
        return
    answer = _status(settings)
    if as_json:
        print_json(answer)
        return
    for line in plain(answer):
        say(line)


@click.command()
@with_config
@with_json
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def why(config_path: Path | None, as_json: bool, paths: Sequence[Path]) -> None:
    """Say for each PATH which rule lets it go or holds it up, and what to do."""
    settings = settings_of(config_path)
    with opened_history(settings) as documents:
        rules = FileRules(settings, documents, RealClock(), word_of_agent(settings))
        found = {str(path): rules.reasons(absolute(path)) for path in paths}
    if as_json:
        print_json(
            [
                {"path": path, "rules": [reason.as_dict() for reason in told]}
                for path, told in found.items()
            ]
        )
        return
    for path, told in found.items():
        say(path)
        for reason in told:
            _show_reason(reason)


def _status(settings: Settings) -> dict[str, Any]:
    with opened_history(settings) as documents:
        agent = word_of_agent(settings)
        if agent is not None:
            agent = {
                key: value for key, value in agent.items() if key != "standing"
            }  # the disk knows it in full
        return {"agent": agent, **standing(documents), **from_disk(settings.agent.state_dir)}


def _show_reason(reason: RuleResult) -> None:
    at = f" at {local(reason.at)}" if reason.at else ""
    say(f"  {'ok ' if reason.ok else 'NO '} {reason.rule}: {reason.says}{at}")
    if reason.remedy:
        say(f"      → {reason.remedy}")
