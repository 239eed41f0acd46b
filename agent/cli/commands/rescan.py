"""`rescan`: makes the running agent scan its watched folders now."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.offline_operator import operator
from agent.cli.options import settings_of, with_config


@click.command()
@with_config
def rescan(config_path: Path | None) -> None:
    """Scan all watched folders now; an agent that starts does so anyway."""
    with operator(settings_of(config_path)) as agent:
        agent.rescan()
