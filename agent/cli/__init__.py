"""The commands."""

from __future__ import annotations

import click

from agent import __version__
from agent.cli.asking import first, pause, rescan, resume, resync
from agent.cli.binding import asset
from agent.cli.checking import check
from agent.cli.configuration import config
from agent.cli.documents import history
from agent.cli.enrolling import enroll
from agent.cli.listing import list_, scan
from agent.cli.running import run
from agent.cli.showing import status, why
from agent.cli.tailing import logs
from agent.cli.trying import demo, devcloud


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="keystone-agent")
def cli() -> None:
    """Upload this robot's finished MCAP recordings to S3-compatible storage: each one whole, once."""


for command in (run, enroll, check, status, why, list_, scan, history, logs, config, demo, devcloud):
    cli.add_command(command)
for command in (resync, first, pause, resume, rescan, asset):
    cli.add_command(command)
