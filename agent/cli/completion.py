"""What the shell completes beside commands and options: episode ids, and by itself file names."""

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

_MOST = 50  # that are offered
_LOOKED_AT = 2000  # documents, newest first
_LARGEST = (
    16 << 20
)  # bytes of a history, with what it sets aside, that opens before anybody notices
# An id comes from a sidecar or a file name, so anybody who may record can choose it. The shell puts
# it on the command line as it is: only characters that no shell gives a meaning are offered, and
# nothing that the command would take for an option.
_HARMLESS = re.compile(r"(?!-)[A-Za-z0-9._:@+-]+")


def episodes(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Episode ids that begin so, those of the newest documents first. Never fails: a prompt is no place for errors."""
    del parameter
    try:
        settings = configuration_of(context.params.get("config_path")).settings
        if (settings.agent.state_dir / "history" / "journal").stat().st_size > _LARGEST:
            return []
        with opened_history(settings) as documents:
            newest = (log.episode_id for log in islice(documents.newest_first(), _LOOKED_AT))
            harmless = filter(_HARMLESS.fullmatch, newest)
            found = dict.fromkeys(episode for episode in harmless if episode.startswith(begun))
    except Exception:  # noqa: BLE001 - whatever it is
        return []
    return [CompletionItem(episode) for episode in islice(found, _MOST)]


def episodes_or_files(
    context: click.Context, parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Return episode ids that begin so; where there are none, let the shell complete file names.

    The shell does that by itself, so the names are quoted by its own rules.
    """
    return episodes(context, parameter, begun) or [CompletionItem(begun, type="file")]


# An item of another type than "plain" tells the shell to complete file names by itself. The library
# prints beside the type what the operator has begun, and the script in the shell reads that line by
# line. A file name with a line break, completed half, could thus write items of its own, and the
# shell would put them on the command line without quotes.


@add_completion_class
class _Bash(BashComplete):
    """The library's, but it does not print what was begun, which the script in bash never uses."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        if item.type != "plain":
            item = CompletionItem("_", type=item.type)
        return super().format_completion(item)


@add_completion_class
class _Zsh(ZshComplete):
    """The library's, but it does not print what was begun, which the script in zsh never uses."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        if item.type != "plain":
            item = CompletionItem("_", type=item.type)
        return super().format_completion(item)


@add_completion_class
class _Fish(FishComplete):
    """The library's, but it prints what was begun only where that is one line of text."""

    def format_completion(self, item: CompletionItem[Any]) -> str:
        if item.type != "plain" and not item.value.isprintable():
            item = CompletionItem("", type=item.type)
        return super().format_completion(item)
