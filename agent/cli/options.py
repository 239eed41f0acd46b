"""Options that several commands take, and how they print."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import click

from agent.edges.config import Settings, load
from agent.edges.config.kinds import newer_than
from agent.model.nouns import utc_text

Command = TypeVar("Command", bound=Callable[..., Any])


def with_config(command: Command) -> Command:
    """Add ``--config``."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        help="Configuration file. [default: $KEYSTONE_AGENT_CONFIG, else /etc/keystone-agent/agent.toml]",
    )(command)


def with_json(command: Command) -> Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def settings_of(config_path: Path | None) -> Settings:
    """The configuration that a command works with; raises ConfigError."""
    return load(config_path, os.environ).settings


def print_json(value: Any) -> None:
    """Print one document."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def moment(text: str) -> str:
    """A point in time as the operator wrote it (ISO 8601, an age, ``yesterday``), as UTC text."""
    now = datetime.now(timezone.utc)
    try:
        limit = timedelta(days=1) if text == "yesterday" else newer_than(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no ISO 8601 time, no age such as 12h, and not 'yesterday'") from error
    return utc_text((limit if isinstance(limit, datetime) else now - (limit or timedelta())).timestamp())
