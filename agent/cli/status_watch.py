"""`status --watch`: the picture drawn again in place while it changes; blocks of lines where there is no terminal."""

from __future__ import annotations

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
from agent.cli.options import print_json, say
from agent.cli.status_lines import from_disk, plain
from agent.model.errors import AgentError

_LOOK_EVERY = 1.0  # seconds
_NOT_RUNNING = 3  # the exit code


def watch(state_dir: Path, *, as_json: bool) -> None:
    """Show the agent until Ctrl-C; ends with exit code 3 when none runs (any more)."""
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # a shell's background job inherits a deaf ear to the latter
        signal.signal(number, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        answers = _answers(state_dir)
        if as_json:
            shown = _stream(answers)
        elif sys.stdout.isatty():
            shown = _draw(answers)
        else:
            shown = _blocks(answers)
        click.echo("the agent has stopped" if shown else "the agent is not running", err=True)
        sys.exit(_NOT_RUNNING)


def _answers(state_dir: Path) -> Iterator[dict[str, Any]]:
    """What the running agent tells of itself, again and again, as `status` has it; ends with the agent."""
    for agent in _told(state_dir):
        facts = dict(agent)
        standing = facts.pop("standing", None)
        if standing is not None:  # else it has only started
            yield {"agent": facts, **standing, **from_disk(state_dir)}


def _told(state_dir: Path) -> Iterator[Mapping[str, Any]]:
    """By its socket; where that is not to be had, by the file that it writes."""
    with (
        suppress(AgentError),
        closing(Control(state_dir)) as control,
    ):  # it has stopped, or serves no socket
        yield from control.watch(_LOOK_EVERY)
    written, clock = StatusFile(state_dir), RealClock()
    while (agent := written.read()) is not None:
        yield agent
        clock.wait(_LOOK_EVERY)


def _stream(answers: Iterator[dict[str, Any]]) -> bool:
    before = None
    for answer in answers:
        if answer != before:
            print_json(answer, indent=None)
        before = answer
    return before is not None


def _blocks(answers: Iterator[dict[str, Any]]) -> bool:
    """One block of lines for each change."""
    before = None
    for answer in answers:
        block = list(plain(answer))
        if block != before:
            say(f"{datetime.now():%Y-%m-%d %H:%M:%S}")  # noqa: DTZ005 - for people where they are
            for line in block:
                say(line)
            click.echo()
        before = block
    return before is not None


def _draw(answers: Iterator[dict[str, Any]]) -> bool:
    from rich.console import Console  # noqa: PLC0415 - only for those who watch
    from rich.live import Live  # noqa: PLC0415

    from agent.cli.status_screen import StatusScreen  # noqa: PLC0415

    shown = False
    with Live(console=Console(highlight=False), screen=True, auto_refresh=False) as live:
        for answer in answers:
            live.update(StatusScreen(answer), refresh=True)
            shown = True
    return shown
