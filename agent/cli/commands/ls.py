"""`ls`: lists every file below a folder with its state, from the disk and the history."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.file_list import list_files, print_row
from agent.cli.options import Moment, settings_of, with_config, with_json


@click.command("ls")
@with_config
@with_json
@click.argument(
    "folder", required=False, type=click.Path(path_type=Path, exists=True), metavar="[DIR]"
)
@click.option(
    "--since",
    type=Moment(),
    help="Only what was changed since: ISO 8601, an age such as 12h, or yesterday.",
)
def list_(config_path: Path | None, as_json: bool, folder: Path | None, since: str | None) -> None:
    """List every recording below DIR, or below all watched folders, and its state."""
    for row in list_files(settings_of(config_path), folder):
        if since is None or row.mtime >= since:
            print_row(row, as_json=as_json)
