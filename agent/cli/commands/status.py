"""`status`: shows what the agent knows and does, read from the disk where no agent runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from agent.adapters.config import Settings
from agent.adapters.failure_file import FailureFile
from agent.cli.options import (
    agent_status,
    opened_history,
    print_json,
    print_line,
    settings_of,
    with_config,
    with_json,
)
from agent.cli.status_lines import read_state_folder, text_lines
from agent.cli.status_watch import watch
from agent.observe.history_summary import summarize_history


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
    answer = _answer(settings)
    if as_json:
        print_json(answer)
        return
    for line in text_lines(answer):
        print_line(line)


def _answer(settings: Settings) -> dict[str, Any]:
    """Return the document that `status --json` prints."""
    with opened_history(settings) as documents:
        agent = agent_status(settings)
        if agent is not None:
            # The agent's summary of the history names only some documents. The history on the
            # disk is complete.
            agent = {key: value for key, value in agent.items() if key != "standing"}
        failure = FailureFile(settings.agent.state_dir).read() if agent is None else None
        return {
            "agent": agent,
            **summarize_history(documents),
            **read_state_folder(settings.agent.state_dir),
            "agent_failure": failure,
        }
