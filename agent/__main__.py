"""The entry point of the command line: arguments in, exit code out.

The exit codes are 0 (done), 1 (failed) and 2 (wrong usage or configuration).
"""

from __future__ import annotations

import io
import logging
import os
import sys
from contextlib import suppress

import click

from agent.adapters.config import ConfigError
from agent.adapters.standard_error import is_journal, with_priority
from agent.cli import cli
from agent.model.errors import AgentError, SetupError
from agent.model.printable import printable, printable_lines, shell_word


def main() -> None:
    """Run the command line and exit. Each expected failure is one message on standard error."""
    _use_utf8()
    try:
        cli.main(prog_name="keystone-agent")
    except AgentError as error:
        text = printable_lines(error.message)
        if error.hint:
            text += f"\n→ {printable(error.hint)}"
        _print_error(text)
        sys.exit(2 if isinstance(error, (ConfigError, SetupError)) else 1)
    except OSError as error:
        # Most of these errors come from the disk behind standard output. A closed pipe does not
        # arrive here, because click handles it.
        _discard_output()
        where = f"{shell_word(str(error.filename))}: " if error.filename else ""
        _print_error(printable(f"keystone-agent: {where}{error.strerror or error}"))
        sys.exit(1)


def _use_utf8() -> None:
    """Read arguments and file names as UTF-8 and print UTF-8, whatever the locale is.

    The agent runs as a service, where Python reads names as UTF-8. A command in a locale with
    another encoding would look for other names in the history, and could not print all of them.
    """
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        # Python decides this once, when it starts.
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606 - itself, once more
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # PYTHONIOENCODING may ask for something else.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _print_error(text: str) -> None:
    """Print lines on standard error, as errors if the journal of systemd reads them."""
    journal = is_journal(os.environ)
    click.echo(with_priority(text, logging.ERROR) if journal else text, err=True)


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
