"""`resync`, `first`, `pause`, `resume`, `rescan`: what an operator asks of the agent."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from agent.cli.completion import episodes_or_files
from agent.cli.offline_operator import operator
from agent.cli.options import absolute, print_json, say, settings_of, with_config, with_json
from agent.model.values import Answer

_SHOWN = ("target", "episode_id", "status", "message")


@click.command()
@with_config
@with_json
@click.argument("targets", nargs=-1, metavar="[EPISODE|PATH]...", shell_complete=episodes_or_files)
@click.option("--failed", is_flag=True, help="All that failed, instead of some that are named.")
@click.option("--code", default="", help="With --failed: only what failed with this error code.")
@click.option("--reason", default="", help="Kept in the history.")
def resync(
    *,
    config_path: Path | None,
    as_json: bool,
    targets: Sequence[str],
    failed: bool,
    code: str,
    reason: str,
) -> None:
    """Upload recordings again: files, all in a folder, or episodes by their id."""
    if failed == bool(targets):
        raise click.UsageError("name what to upload again, or say --failed")
    if code and not failed:
        raise click.UsageError("--code goes with --failed")
    with operator(settings_of(config_path)) as agent:
        if failed:
            answers = agent.resync_failed(code, reason)
        else:
            answers = agent.resync([_named(target) for target in targets], reason)
    _tell(answers, as_json=as_json)


@click.command()
@with_config
@with_json
@click.argument(
    "targets", nargs=-1, required=True, metavar="EPISODE|PATH...", shell_complete=episodes_or_files
)
def first(config_path: Path | None, as_json: bool, targets: Sequence[str]) -> None:
    """Put recordings ahead of the queue."""
    with operator(settings_of(config_path)) as agent:
        answers = agent.first([_named(target) for target in targets])
    _tell(answers, as_json=as_json)


@click.command()
@with_config
def pause(config_path: Path | None) -> None:
    """Start no new part until `resume`, also after a restart; parts in flight finish."""
    with operator(settings_of(config_path)) as agent:
        agent.pause()
    say("paused; go on with: keystone-agent resume")


@click.command()
@with_config
def resume(config_path: Path | None) -> None:
    """Go on after `pause`."""
    with operator(settings_of(config_path)) as agent:
        agent.resume()
    say("no longer paused")


@click.command()
@with_config
def rescan(config_path: Path | None) -> None:
    """Look at everything below the watched folders now; an agent that starts does so anyway."""
    with operator(settings_of(config_path)) as agent:
        agent.rescan()


def _named(target: str) -> str:
    """A file or folder from the root on, where there is one or it looks like one; else an episode id as it is."""
    return str(absolute(Path(target))) if "/" in target or os.path.lexists(target) else target


def _tell(answers: Sequence[Answer], *, as_json: bool) -> None:
    """Print what became of each; exit code 1 when something came to nothing."""
    if as_json:
        print_json([{key: getattr(answer, key) for key in _SHOWN} for answer in answers])
    for answer in () if as_json else answers:
        episode = (
            f"  episode {answer.episode_id}" if answer.episode_id not in ("", answer.target) else ""
        )
        message = f"  ({answer.message})" if answer.message else ""
        say(f"{answer.status:<14} {answer.target}{episode}{message}")
    vain = sum(answer.status in ("not_found", "rejected") for answer in answers)
    if vain:
        click.echo(f"{vain} of {len(answers)} can't be done", err=True)
        sys.exit(1)
    if not answers:
        click.echo("nothing to do", err=True)
