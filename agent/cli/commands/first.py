"""`first`: puts recordings ahead of the queue."""

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
@click.argument(
    "targets", nargs=-1, required=True, metavar="EPISODE|PATH...", shell_complete=episodes_or_files
)
def first(config_path: Path | None, as_json: bool, targets: Sequence[str]) -> None:
    """Put recordings ahead of the queue."""
    with operator(settings_of(config_path)) as agent:
        answers = agent.first([absolute_target(target) for target in targets])
    print_answers(answers, as_json=as_json)
