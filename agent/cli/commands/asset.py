"""`asset`: shows and changes which robot belongs to which asset of the platform."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.offline_operator import operator
from agent.cli.options import print_json, print_line, settings_of, with_config, with_json
from agent.model.printable import shell_word


@click.group()
def asset() -> None:
    """Bind robots to asset ids of the platform; wins over assets.map."""


@asset.command("list")
@with_config
@with_json
def list_(config_path: Path | None, as_json: bool) -> None:
    """Show each known robot and its asset id."""
    with operator(settings_of(config_path)) as agent:
        bindings = dict(sorted(agent.assets().items()))
    if as_json:
        print_json(bindings)
        return
    for robot, asset_id in bindings.items():
        print_line(f"{shell_word(robot)}  {asset_id or 'bound to no asset: its recordings wait'}")


@asset.command("set")
@with_config
@click.argument("robot")
@click.argument("asset_id", metavar="ASSET")
def set_(config_path: Path | None, robot: str, asset_id: str) -> None:
    """Bind ROBOT to ASSET; recordings that wait for this are then uploaded."""
    with operator(settings_of(config_path)) as agent:
        agent.set_asset(robot, asset_id)
    print_line(f"robot {robot}: {asset_id}")


@asset.command()
@with_config
@click.argument("robot")
def unset(config_path: Path | None, robot: str) -> None:
    """Leave ROBOT known but bound to no asset: its recordings wait."""
    with operator(settings_of(config_path)) as agent:
        agent.unset_asset(robot)
    print_line(f"robot {robot}: bound to no asset, its recordings wait")
