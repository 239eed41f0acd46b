"""`asset`: which robot is which asset of the platform."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli.offline_operator import operator
from agent.cli.options import print_json, say, settings_of, with_config, with_json


@click.group()
def asset() -> None:
    """Bind robots to asset ids of the platform; wins over assets.map."""


@asset.command("list")
@with_config
@with_json
def list_(config_path: Path | None, as_json: bool) -> None:
    """Show each robot that is known and its asset id."""
    with operator(settings_of(config_path)) as agent:
        known = dict(sorted(agent.assets().items()))
    if as_json:
        print_json(known)
    for robot, its_asset in () if as_json else known.items():
        say(f"{robot}  {its_asset or 'bound to no asset: its recordings wait'}")


@asset.command("set")
@with_config
@click.argument("robot")
@click.argument("asset_id", metavar="ASSET")
def set_(config_path: Path | None, robot: str, asset_id: str) -> None:
    """Bind ROBOT to ASSET: what waits for that goes on by itself."""
    with operator(settings_of(config_path)) as agent:
        agent.set_asset(robot, asset_id)
    say(f"robot {robot}: {asset_id}")


@asset.command()
@with_config
@click.argument("robot")
def unset(config_path: Path | None, robot: str) -> None:
    """Leave ROBOT known but bound to no asset: its recordings wait."""
    with operator(settings_of(config_path)) as agent:
        agent.unset_asset(robot)
    say(f"robot {robot}: bound to no asset, its recordings wait")
