"""`status --watch`: shows the status again and again while the agent runs.

A terminal gets one screen that is drawn again in place. Anything else gets blocks of lines, and
so does a terminal that can only print lines (TERM=dumb).
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from agent.adapters.clock import RealClock
from agent.adapters.control import Control
from agent.adapters.status_file import StatusFile
from agent.cli.options import print_json, print_line
from agent.cli.status_lines import read_state_folder, text_lines
from agent.model.errors import AgentError

_INTERVAL_SECONDS = 1.0
_EXIT_CODE_NOT_RUNNING = 3

# The values of TERM for terminals that only print one line after the other.
_DUMB_TERMINALS = ("", "dumb", "unknown")


def watch(state_dir: Path, *, as_json: bool) -> None:
    """Show the status until Ctrl-C.

    Where no agent runs, or the agent stops, the process exits with the code 3.
    """
    # A shell lets its background jobs ignore SIGINT, and a process inherits that.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        answers = _answers(state_dir)
        if as_json:
            shown = _print_json_lines(answers)
        elif _can_draw():
            shown = _draw(answers)
        else:
            shown = _print_blocks(answers)
        click.echo("the agent has stopped" if shown else "the agent is not running", err=True)
        sys.exit(_EXIT_CODE_NOT_RUNNING)


def _can_draw() -> bool:
    """Return whether standard output is a terminal that can move its cursor."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in _DUMB_TERMINALS


def _answers(state_dir: Path) -> Iterator[dict[str, Any]]:
    """Yield answers like those of `status`, about one a second, until the agent stops."""
    for agent in _agent_documents(state_dir):
        document = dict(agent)
        # An agent that has only just started does not publish the state of its history yet.
        standing = document.pop("standing", None)
        if standing is not None:
            yield {
                "agent": document,
                **standing,
                **read_state_folder(state_dir),
                "agent_failure": None,
            }


def _agent_documents(state_dir: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the agent's status documents, from its socket or else from its status file."""
    # The socket ends the loop with an error where the agent has stopped, or has no socket. Then
    # the status file decides whether the agent still runs.
    with suppress(AgentError), closing(Control(state_dir)) as control:
        yield from control.watch(_INTERVAL_SECONDS)
    status_file = StatusFile(state_dir)
    clock = RealClock()
    while (agent := status_file.read()) is not None:
        yield agent
        clock.wait(_INTERVAL_SECONDS)


def _print_json_lines(answers: Iterator[dict[str, Any]]) -> bool:
    """Print each answer that differs from the one before. Return whether there was any answer."""
    before = None
    for answer in answers:
        if answer != before:
            print_json(answer, indent=None)
        before = answer
    return before is not None


def _print_blocks(answers: Iterator[dict[str, Any]]) -> bool:
    """Print a block of lines for each change. Return whether there was any answer."""
    before = None
    for answer in answers:
        block = list(text_lines(answer))
        if block != before:
            now = datetime.now()  # noqa: DTZ005 - people read the time of their own zone
            print_line(f"{now:%Y-%m-%d %H:%M:%S}")
            for line in block:
                print_line(line)
            click.echo()
        before = block
    return before is not None


def _draw(answers: Iterator[dict[str, Any]]) -> bool:
    """Draw each answer over the one before. Return whether there was any answer."""
    # Other commands start faster without rich.
    from rich.console import Console  # noqa: PLC0415 - see above
    from rich.live import Live  # noqa: PLC0415 - see above

    from agent.cli.status_screen import StatusScreen  # noqa: PLC0415 - see above

    shown = False
    with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        for answer in answers:
            live.update(StatusScreen(answer), refresh=True)
            shown = True
    return shown
