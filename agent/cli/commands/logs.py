"""`logs`: prints the agent's log across rotated files, and follows it while it is written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import click

from agent.adapters.clock import RealClock
from agent.adapters.logtail import LogLine, LogTail, Wanted
from agent.cli.completion import episodes
from agent.cli.options import (
    Moment,
    local_time,
    print_line,
    settings_of,
    with_config,
    with_json,
)
from agent.model.printable import escaped_json, log_field

_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

# How many lines are shown where neither a number nor a time is given.
_DEFAULT_LINES = 100

_FOLLOW_INTERVAL_SECONDS = 0.25


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
    "--level",
    type=click.Choice(_LEVELS[:4], case_sensitive=False),
    help="This level and all that are more serious.",
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
            "log.dir is empty: the agent logs to standard error only; "
            "under systemd: journalctl -u keystone-agent"
        )
    lowest = _LEVELS.index((level or "DEBUG").upper())

    def wanted(line: LogLine) -> bool:
        return (
            (lowest == 0 or line.values.get("level") in _LEVELS[lowest:])
            and episode in (None, line.values.get("episode_id"))
            and (since is None or str(line.values.get("time", "")) >= since)
        )

    # A shell lets its background jobs ignore SIGINT, and a process inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    everything = since is not None and count is None
    shown = False
    with closing(LogTail(folder / "json" / "agent.jsonl")) as tail, suppress(KeyboardInterrupt):
        for line in _lines(tail, count, wanted, everything=everything, follow=follow):
            _print_log_line(line, as_json=as_json)
            shown = True
    if not (shown or follow):
        click.echo("no log lines match", err=True)


def _lines(
    tail: LogTail, count: int | None, wanted: Wanted, *, everything: bool, follow: bool
) -> Iterator[LogLine]:
    """Yield the lines that are there and, with ``follow``, those that come, without an end."""
    if everything:
        yield from filter(wanted, tail.news())
    else:
        yield from tail.last(_DEFAULT_LINES if count is None else count, wanted)
    clock = RealClock()
    while follow:
        yield from filter(wanted, tail.news())
        clock.wait(_FOLLOW_INTERVAL_SECONDS)


def _print_log_line(line: LogLine, *, as_json: bool) -> None:
    if as_json:
        # Earlier versions wrote some characters into the file that a terminal obeys.
        click.echo(escaped_json(line.text))
        return
    fields = dict(line.values)
    time, level, event, message = (
        str(fields.pop(name, "")) for name in ("time", "level", "event", "message")
    )
    traceback = str(fields.pop("exception", ""))
    rest = "".join(
        f" {log_field(name, value)}" for name, value in fields.items() if value is not None
    )
    print_line(f"{_time_text(time)} {level:<7} {event}: {message}{rest}")
    for traceback_line in traceback.splitlines():
        print_line(f"    {traceback_line}")


def _time_text(time: str) -> str:
    """Return a UTC time as local time, and any other text as it is."""
    try:
        return local_time(time)
    except ValueError:
        return time
