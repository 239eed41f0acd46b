"""`history`: prints the documents of the sync history, or one row for each episode."""

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
    fingerprint_at,
    local_time,
    opened_history,
    print_json_rows,
    print_line,
    settings_of,
    with_config,
    with_json,
)
from agent.model.printable import shell_word
from agent.model.sync_log import Status, SyncLog


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
            rows = _summaries(_logs(documents, opener, target, None), wanted, earliest)
        else:
            rows = _documents(documents, opener, target, wanted, earliest)
        rows = islice(rows, offset, offset + limit)
        if as_json:
            shown = print_json_rows(rows)
        else:
            shown = 0
            for row in rows:
                shown += 1
                print_line(_summary_line(row) if summary else _document_line(row))
    if not shown:
        click.echo("no documents match", err=True)


def _documents(
    documents: TinyHistory, opener: Opener, target: str | None, wanted: Status | None, since: str
) -> Iterator[dict[str, Any]]:
    """Yield documents as JSON objects, newest first."""
    if target is None:
        rows = documents.shown(wanted)
    else:
        rows = (to_json(log) for log in _logs(documents, opener, target, wanted))
    return (row for row in rows if row["queued_at"] >= since)


def _logs(
    documents: TinyHistory, opener: Opener, target: str | None, wanted: Status | None
) -> Iterator[SyncLog]:
    """Yield the documents of a path or an episode id, newest first. None stands for all of them.

    A file is found by its bytes as well, because it may have been moved since it was uploaded.
    """
    if target is None:
        yield from documents.newest_first(wanted)
        return
    path = absolute(Path(target))
    fingerprint = fingerprint_at(path, opener)
    found = {log.id: log for log in [*documents.of_episode(target), *documents.at_path(path)]}
    newest = documents.newest(fingerprint) if fingerprint else None
    if newest is not None:
        for log in documents.of_episode(newest.episode_id):
            if log.fingerprint == newest.fingerprint:
                found[log.id] = log
    for log in sorted(found.values(), key=lambda log: -log.id):
        if wanted in (None, log.status):
            yield log


def _summaries(
    logs: Iterator[SyncLog], wanted: Status | None, since: str
) -> Iterator[dict[str, Any]]:
    """Yield one row for each episode, from documents that come newest first.

    An episode is left out where its newest document has another status than ``wanted``, or is
    older than ``since``.
    """
    rows: dict[str, dict[str, Any]] = {}
    hidden: set[str] = set()
    for log in logs:
        row = rows.get(log.episode_id)
        if row is None:
            row = rows[log.episode_id] = _summary(log)
            if wanted not in (None, log.status) or log.queued_at < since:
                hidden.add(log.episode_id)
        row["documents"] += 1
        if log.synced and not row["synced"]:
            row |= {"synced": True, "synced_at": log.completed_at, "object_key": log.object_key}
    for episode, row in rows.items():
        if episode not in hidden:
            yield row


def _summary(newest: SyncLog) -> dict[str, Any]:
    """Return the row of an episode before any of its documents has been counted."""
    return {
        "episode_id": newest.episode_id,
        "status": newest.status,
        "synced": False,
        "synced_at": None,
        "object_key": newest.object_key,
        "attempts": newest.attempt_count,
        "documents": 0,
    }


def _document_line(document: dict[str, Any]) -> str:
    error = document["error"]
    time = local_time(document["completed_at"] or document["queued_at"])
    line = f"{document['id']:>6}  {time}  {document['status']:<11}  "
    line += shell_word(document["path"])
    if document["object_key"]:
        line += f"  {shell_word(document['object_key'])}"
    if error and document["status"] != "completed":
        line += f"  {error['message']}"
    return line


def _summary_line(row: dict[str, Any]) -> str:
    synced = f"synced {local_time(row['synced_at'])}" if row["synced"] else "not synced"
    key = f"  {shell_word(row['object_key'])}" if row["object_key"] else ""
    count = f"{row['documents']} document{'s' if row['documents'] > 1 else ''}"
    return f"{shell_word(row['episode_id'])}  {row['status']}  {synced}{key}  {count}"
