"""What a shell completes for the commands' arguments: episode ids, or else file names."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
)

from agent.cli.options import configuration_of, opened_history

# How many episode ids are offered.
_MAX_OFFERED = 50

# How many of the newest documents are searched.
_MAX_DOCUMENTS = 2000

# A larger journal takes so long to read that the operator would notice the delay.
_MAX_JOURNAL_BYTES = 16 << 20

# An id comes from a sidecar or a file name, so anybody who may record can choose it. The shell puts
# the id on the command line without quotes. Only characters without a meaning to any shell are
# offered, and no id that the command would take for an option.
_HARMLESS = re.compile(r"(?!-)[A-Za-z0-9._:@+-]+")


def episodes(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the episode ids that begin with ``begun``, those of the newest documents first.

    This function never fails, because an error message would disturb the operator's prompt.
    """
    del parameter
    try:
        settings = configuration_of(context.params.get("config_path")).settings
        journal = settings.agent.state_dir / "history" / "journal"
        if journal.stat().st_size > _MAX_JOURNAL_BYTES:
            return []
        with opened_history(settings) as documents:
            newest = (log.episode_id for log in islice(documents.newest_first(), _MAX_DOCUMENTS))
            harmless = filter(_HARMLESS.fullmatch, newest)
            found = dict.fromkeys(episode for episode in harmless if episode.startswith(begun))
    except Exception:  # noqa: BLE001 - whatever fails, nothing is offered
        return []
    return [CompletionItem(episode) for episode in islice(found, _MAX_OFFERED)]


def episodes_or_files(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return the episode ids that begin with ``begun``, or else let the shell complete file names.

    The shell completes file names itself, and so quotes them by its own rules.
    """
    return episodes(context, parameter, begun) or [CompletionItem(begun, type="file")]


# An item of another type than "plain" tells the shell to complete file names itself. Beside the
# type, click prints the text that the operator has typed, and the script in the shell reads that
# output line by line. A half-completed file name with a line break could thus add items of its own,
# and the shell would put these on the command line without quotes. The three classes prevent this.


@add_completion_class
class _Bash(BashComplete):
    """click's completion for bash, without the typed text, which the script in bash never uses."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        if item.type != "plain":
            item = CompletionItem("_", type=item.type)
        return super().format_completion(item)


@add_completion_class
class _Zsh(ZshComplete):
    """click's completion for zsh, without the typed text, which the script in zsh never uses."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        if item.type != "plain":
            item = CompletionItem("_", type=item.type)
        return super().format_completion(item)


@add_completion_class
class _Fish(FishComplete):
    """click's completion for fish, with the typed text only where that is one line of text."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        if item.type != "plain" and not item.value.isprintable():
            item = CompletionItem("", type=item.type)
        return super().format_completion(item)
