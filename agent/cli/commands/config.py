"""`config`: shows the settings in force, or checks the configuration."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from agent.adapters.config import ConfigError, load, to_toml
from agent.cli.options import (
    configuration_of,
    print_json,
    warn_of_unknown_keys,
    with_config,
    with_json,
)


@click.group()
def config() -> None:
    """Show or check the configuration."""


@config.command()
@with_config
@with_json
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
def show(config_path: Path | None, as_json: bool, origin: bool) -> None:
    """Print the settings in force."""
    loaded = configuration_of(config_path)
    warn_of_unknown_keys(loaded)
    if as_json:
        values = loaded.settings.model_dump(mode="json")
        print_json({"settings": values, "origin": dict(loaded.origin)} if origin else values)
    else:
        click.echo(to_toml(loaded.settings, loaded.origin if origin else {}), nl=False)


@config.command()
@with_config
@with_json
def validate(config_path: Path | None, as_json: bool) -> None:
    """Check the configuration; every fault is named, with the exit code 2."""
    try:
        load(config_path, os.environ)
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"valid": False, "faults": [asdict(fault) for fault in error.faults]})
        sys.exit(2)
    if as_json:
        print_json({"valid": True, "faults": []})
    else:
        click.echo("the configuration is valid")
