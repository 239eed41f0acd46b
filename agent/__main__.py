"""The entry point of the command line: arguments in, exit code out.

The exit codes are 0 (done), 1 (failed) and 2 (wrong usage or configuration).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click

from agent.adapters.config import ConfigError
from agent.cli import cli
from agent.model.errors import AgentError, SetupError
from agent.model.printable import printable, printable_lines, shell_word


def main() -> None:
    """Run the command line and exit. Each expected failure is one message on standard error."""
    try:
        cli.main(prog_name="keystone-agent")
    except AgentError as error:
        click.echo(printable_lines(error.message), err=True)
        if error.hint:
            click.echo(f"→ {printable(error.hint)}", err=True)
        sys.exit(2 if isinstance(error, (ConfigError, SetupError)) else 1)
    except OSError as error:
        # Most of these errors come from the disk behind standard output. A closed pipe does not
        # arrive here, because click handles it.
        _discard_output()
        where = f"{shell_word(str(error.filename))}: " if error.filename else ""
        click.echo(printable(f"keystone-agent: {where}{error.strerror or error}"), err=True)
        sys.exit(1)


def _discard_output() -> None:
    """Send what is left of standard output to /dev/null.

    Otherwise Python would flush standard output when it exits, and report the same failure again.
    """
    with suppress(OSError, ValueError):
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, sys.stdout.fileno())
        os.close(null_device)


if __name__ == "__main__":
    main()
