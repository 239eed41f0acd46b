"""What commands share that take recordings as targets: reading them, and printing the answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from agent.cli.options import absolute, print_json, print_line
from agent.model.printable import shell_word
from agent.model.values import Answer

_JSON_KEYS = ("target", "episode_id", "status", "message")


def absolute_target(target: str) -> str:
    """Return a path as an absolute path, and an episode id as it is.

    A target is a path where it has a slash, or where a file or folder of this name exists.
    """
    return str(absolute(Path(target))) if "/" in target or os.path.lexists(target) else target


def print_answers(answers: Sequence[Answer], *, as_json: bool) -> None:
    """Print what became of each target. Exit with the code 1 where a target was refused."""
    if as_json:
        print_json([{key: getattr(answer, key) for key in _JSON_KEYS} for answer in answers])
    else:
        for answer in answers:
            print_line(_answer_line(answer))
    refused = sum(answer.status in ("not_found", "rejected") for answer in answers)
    if refused:
        click.echo(f"{refused} of {len(answers)} could not be done", err=True)
        sys.exit(1)
    if not answers:
        click.echo("nothing to do", err=True)


def _answer_line(answer: Answer) -> str:
    line = f"{answer.status:<14} {shell_word(answer.target)}"
    if answer.episode_id not in ("", answer.target):
        line += f"  episode {shell_word(answer.episode_id)}"
    if answer.message:
        line += f"  ({answer.message})"
    return line
