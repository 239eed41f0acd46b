"""Arguments in, exit code out: 0 done, 1 failed, 2 wrong usage or configuration."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from agent.adapters.config import ConfigError
from agent.cli import cli
from agent.model.errors import AgentError, SetupError


def main() -> None:
    """Run the command line; every expected failure is one clear message on standard error."""
    try:
        cli.main(prog_name="keystone-agent")
    except AgentError as error:
        click.echo(error.message, err=True)
        if error.hint:
            click.echo(f"→ {error.hint}", err=True)
        sys.exit(2 if isinstance(error, (ConfigError, SetupError)) else 1)
    except (
        OSError
    ) as error:  # of the disk behind standard output, more often than not; a closed pipe is click's
        _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"keystone-agent: {where}{error.strerror or error}", err=True)
        sys.exit(1)


def _drop_output() -> None:
    """Throw away what could not be printed: Python would try once more at its end, and fail once more."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    main()
