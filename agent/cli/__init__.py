"""The command line: the group `keystone-agent` with all of its commands."""

from __future__ import annotations

import click

from agent import __version__
from agent.cli.commands.asset import asset
from agent.cli.commands.check import check
from agent.cli.commands.config import config
from agent.cli.commands.demo import demo
from agent.cli.commands.devcloud import devcloud
from agent.cli.commands.enroll import enroll
from agent.cli.commands.first import first
from agent.cli.commands.history import history
from agent.cli.commands.logs import logs
from agent.cli.commands.ls import list_
from agent.cli.commands.pause import pause, resume
from agent.cli.commands.rescan import rescan
from agent.cli.commands.resync import resync
from agent.cli.commands.run import run
from agent.cli.commands.scan import scan
from agent.cli.commands.status import status
from agent.cli.commands.why import why

_COMMANDS = (
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
    resync,
    first,
    pause,
    resume,
    rescan,
    asset,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="keystone-agent")
def cli() -> None:
    """Upload this robot's finished MCAP recordings to S3-compatible storage: each whole, once."""


for _command in _COMMANDS:
    cli.add_command(_command)
