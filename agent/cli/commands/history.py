"""`history`: the documents of the sync history, or one row for each episode."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from agent.adapters.history import TinyHistory, to_json
from agent.cli.completion import episodes_or_files
from agent.cli.opening import Opener
from agent.cli.options import (
    Moment,
    absolute,
    local,
    mark_of,
    opened_history,
    print_json_rows,
    say,
    settings_of,
    with_config,
    with_json,
)
from agent.model.values import Status, SyncLog


@click.command()
@with_config
@with_json
@click.argument(
    "target", required=False, metavar="[EPISODE|PATH]", shell_complete=episodes_or_files
)
@click.option(
    "--status", "wanted", type=click.Choice(["pending", "in_progress", "completed", "failed"])
)
@click.option("--since", type=Moment(), help="ISO 8601, an age such as 12h, or yesterday.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True)
@click.option("--summary", is_flag=True, help="One row per episode, judged by its newest document.")
def history(
    *,
    config_path: Path | None,
    as_json: bool,
    target: str | None,
    wanted: Status | None,
    since: str | None,
    limit: int,
    offset: int,
    summary: bool,
) -> None:
    """Show the documents of the sync history, newest first."""
    earliest = since or ""
    settings = settings_of(config_path)
    opener = Opener(settings.watch)
    with opened_history(settings) as documents:
        if summary:
            found = _summaries(_about(documents, opener, target, None), wanted, earliest)
        else:
            about = (to_json(log) for log in _about(documents, opener, target, wanted))
            every = documents.shown(wanted) if target is None else about
            found = (document for document in every if document["queued_at"] >= earliest)
        rows = islice(found, offset, offset + limit)
        if as_json:
            shown = print_json_rows(rows)
        else:
            shown = 0
            for row in rows:
                shown += 1
                say(_summary_line(row) if summary else _line(row))
    if not shown:
        click.echo("no document", err=True)


def _about(
    documents: TinyHistory, opener: Opener, target: str | None, wanted: Status | None
) -> Iterator[SyncLog]:
    if target is None:
        yield from documents.newest_first(wanted)
        return
    path = absolute(Path(target))
    newest = documents.newest(mark) if (mark := mark_of(path, opener)) else None
    found = {log.id: log for log in [*documents.of_episode(target), *documents.at_path(path)]}
    if newest is not None:
        same = (
            log
            for log in documents.of_episode(newest.episode_id)
            if log.fingerprint == newest.fingerprint
        )
        found |= {log.id: log for log in same}
    for log in sorted(found.values(), key=lambda log: -log.id):
        if wanted in (None, log.status):
            yield log


def _summaries(
    logs: Iterator[SyncLog], wanted: Status | None, since: str
) -> Iterator[dict[str, Any]]:
    """One row for each episode whose newest document has the status that is wanted and is not older than ``since``."""
    rows: dict[str, dict[str, Any]] = {}
    hidden: set[str] = set()
    for log in logs:
        row = rows.get(log.episode_id)
        if row is None:
            row = rows[log.episode_id] = _row(log)
            if wanted not in (None, log.status) or log.queued_at < since:
                hidden.add(log.episode_id)
        row["documents"] += 1
        if log.synced and not row["synced"]:
            row |= {"synced": True, "synced_at": log.completed_at, "object_key": log.object_key}
    for episode, row in rows.items():
        if episode not in hidden:
            yield row


def _row(newest: SyncLog) -> dict[str, Any]:
    return {
        "episode_id": newest.episode_id,
        "status": newest.status,
        "synced": False,
        "synced_at": None,
        "object_key": newest.object_key,
        "attempts": newest.attempt_count,
        "documents": 0,
    }


def _line(document: dict[str, Any]) -> str:
    error = document["error"]
    tail = f"  {error['message']}" if error and document["status"] != "completed" else ""
    when = document["completed_at"] or document["queued_at"]
    key = f"  {document['object_key']}" if document["object_key"] else ""
    return f"{document['id']:>6}  {local(when)}  {document['status']:<11}  {document['path']}{key}{tail}"


def _summary_line(row: dict[str, Any]) -> str:
    synced = f"synced {local(row['synced_at'])}" if row["synced"] else "not synced"
    key = f"  {row['object_key']}" if row["object_key"] else ""
    count = f"{row['documents']} document{'s' if row['documents'] > 1 else ''}"
    return f"{row['episode_id']}  {row['status']}  {synced}{key}  {count}"
