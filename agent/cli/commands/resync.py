"""`resync`: uploads recordings again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from agent.cli.completion import episodes_or_files
from agent.cli.offline_operator import operator
from agent.cli.options import settings_of, with_config, with_json
from agent.cli.targets import absolute_target, print_answers


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
            answers = agent.resync([absolute_target(target) for target in targets], reason)
    print_answers(answers, as_json=as_json)
