"""The commands."""

from __future__ import annotations

import click

from agent import __version__
from agent.cli.commands.asset import asset
from agent.cli.commands.check import check
from agent.cli.commands.config import config
from agent.cli.commands.demo import demo, devcloud
from agent.cli.commands.enroll import enroll
from agent.cli.commands.history import history
from agent.cli.commands.logs import logs
from agent.cli.commands.ls import list_, scan
from agent.cli.commands.resync import first, pause, rescan, resume, resync
from agent.cli.commands.run import run
from agent.cli.commands.status import status, why


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="keystone-agent")
def cli() -> None:
    """Upload this robot's finished MCAP recordings to S3-compatible storage: each one whole, once."""


for command in (
    run,
    enroll,
    check,
    status,
    why,
    list_,
    scan,
    history,
    logs,
    config,
    demo,
    devcloud,
):
    cli.add_command(command)
for command in (resync, first, pause, resume, rescan, asset):
    cli.add_command(command)
