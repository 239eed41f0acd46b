"""`scan`: lists what will be uploaded, and makes the running agent scan its watched folders."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import click

from agent.adapters.control import Control
from agent.cli.file_list import list_files, print_row
from agent.cli.options import print_line, settings_of, with_config, with_json
from agent.cli.units import size_text
from agent.model.errors import NotRunningError


@click.command()
@with_config
@with_json
@click.option("--dry-run", is_flag=True, help="Only list; ask the agent for nothing.")
def scan(config_path: Path | None, as_json: bool, dry_run: bool) -> None:
    """List what would go, with its bytes, and have the running agent scan all watched folders."""
    settings = settings_of(config_path)
    outcome = "" if dry_run else _request_rescan(settings.agent.state_dir)
    count = total = 0
    for row in list_files(settings, None):
        if row.on_the_way:
            count += 1
            total += row.size
            print_row(row, as_json=as_json)
    if not as_json:
        recordings = "recording" if count == 1 else "recordings"
        print_line(f"{count} {recordings} to send, {size_text(total)}")
    if outcome:
        click.echo(outcome, err=as_json)


def _request_rescan(state_dir: Path) -> str:
    """Ask the running agent for a scan, and return what to tell the operator.

    Raises AgentError where this user may not ask the running agent.
    """
    try:
        with closing(Control(state_dir)) as control:
            control.rescan()
    except NotRunningError:
        return "no agent is running: it scans all watched folders when it starts"
    return "the agent scans all watched folders now"
