"""`logs`: what the agent wrote into its log, across rotated files, and as it writes it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import click

from agent.adapters.clock import RealClock
from agent.adapters.logtail import LogLine, LogTail, Wanted
from agent.cli.completion import episodes
from agent.cli.options import Moment, local, say, settings_of, with_config, with_json

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SHOWN = 100  # lines, where neither a number nor a time is asked for
_LOOK_EVERY = 0.25  # seconds


@click.command()
@with_config
@with_json
@click.option(
    "-f", "--follow", is_flag=True, help="Go on with what is written from now on; Ctrl-C ends it."
)
@click.option(
    "-n",
    "--lines",
    "count",
    type=click.IntRange(0),
    help="How many. [default: 100; all with --since]",
)
@click.option(
    "--level", type=click.Choice(_LEVELS[:4], case_sensitive=False), help="This and what is graver."
)
@click.option("--episode", shell_complete=episodes, help="Only what is about this episode.")
@click.option("--since", type=Moment(), help="ISO 8601, an age such as 12h, or yesterday.")
def logs(
    *,
    config_path: Path | None,
    as_json: bool,
    follow: bool,
    count: int | None,
    level: str | None,
    episode: str | None,
    since: str | None,
) -> None:
    """Show the agent's log, oldest line first."""
    folder = settings_of(config_path).log.dir
    if folder is None:
        raise click.ClickException(
            "log.dir is empty: the agent logs to standard error only; under systemd: journalctl -u keystone-agent"
        )
    least = _LEVELS.index((level or "DEBUG").upper())

    def wanted(line: LogLine) -> bool:
        return (
            (least == 0 or line.values.get("level") in _LEVELS[least:])
            and episode in (None, line.values.get("episode_id"))
            and (since is None or str(line.values.get("time", "")) >= since)
        )

    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job inherits a deaf ear
    shown = False
    with closing(LogTail(folder / "json" / "agent.jsonl")) as tail, suppress(KeyboardInterrupt):
        for line in _chosen(
            tail, count, wanted, everything=since is not None and count is None, follow=follow
        ):
            _show(line, as_json=as_json)
            shown = True
    if not (shown or follow):
        click.echo("no line", err=True)


def _chosen(
    tail: LogTail, count: int | None, wanted: Wanted, *, everything: bool, follow: bool
) -> Iterator[LogLine]:
    if everything:
        yield from filter(wanted, tail.news())
    else:
        yield from tail.last(_SHOWN if count is None else count, wanted)
    clock = RealClock()
    while follow:
        yield from filter(wanted, tail.news())
        clock.wait(_LOOK_EVERY)


def _show(line: LogLine, *, as_json: bool) -> None:
    if as_json:
        click.echo(line.text)
        return
    facts = dict(line.values)
    time, level, event, message = (
        str(facts.pop(name, "")) for name in ("time", "level", "event", "message")
    )
    trace = str(facts.pop("exception", ""))
    rest = "".join(f" {name}={_text(value)}" for name, value in facts.items() if value is not None)
    say(f"{_when(time)} {level:<7} {event}: {message}{rest}")
    for traced in trace.splitlines():
        say(f"    {traced}")


def _when(time: str) -> str:
    try:
        return local(time)
    except ValueError:
        return time


def _text(value: Any) -> str:
    return (
        value
        if isinstance(value, str) and " " not in value
        else json.dumps(value, ensure_ascii=False)
    )
