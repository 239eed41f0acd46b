"""What the shell completes beside commands and options: episode ids, where that costs nothing."""

from __future__ import annotations

from itertools import islice

import click
from click.shell_completion import CompletionItem

from agent.cli.options import opened_history, settings_of

_MOST = 50  # that are offered
_LOOKED_AT = 2000  # documents, newest first
_LARGEST = 16 << 20  # bytes of a history, with what it sets aside, that opens before anybody notices


def episodes(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Episode ids that begin so, those of the newest documents first. Never fails: a prompt is no place for errors."""
    del parameter
    try:
        settings = settings_of(context.params.get("config_path"))
        if (settings.agent.state_dir / "history" / "journal").stat().st_size > _LARGEST:
            return []
        with opened_history(settings) as documents:
            newest = (log.episode_id for log in islice(documents.newest_first(), _LOOKED_AT))
            found = dict.fromkeys(episode for episode in newest if episode.startswith(begun))
    except Exception:  # noqa: BLE001 - whatever it is
        return []
    return [CompletionItem(episode) for episode in islice(found, _MOST)]
