"""`pause` and `resume`: stop all uploads for a while, also across restarts of the agent."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.offline_operator import operator
from agent.cli.options import print_line, settings_of, with_config


@click.command()
@with_config
def pause(config_path: Path | None) -> None:
    """Start no new part until `resume`, also after a restart; parts in flight finish."""
    with operator(settings_of(config_path)) as agent:
        agent.pause()
    print_line("uploads are paused; to continue: keystone-agent resume")


@click.command()
@with_config
def resume(config_path: Path | None) -> None:
    """Go on after `pause`."""
    with operator(settings_of(config_path)) as agent:
        agent.resume()
    print_line("uploads are not paused")
