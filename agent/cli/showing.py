"""`status`, `why` and `history`: what the agent knows and does, read from the disk; it may run or not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from agent.cli.options import moment, print_json, settings_of, with_config, with_json
from agent.cli.reasons import Reason, reasons
from agent.edges.clock import RealClock
from agent.edges.config import Settings
from agent.edges.history import TinyHistory, to_json
from agent.edges.status import StatusFile
from agent.flow.examine import fingerprint
from agent.model.nouns import Status, SyncLog

_MIB = 1024 * 1024


@click.command()
@with_config
@with_json
def status(config_path: Path | None, as_json: bool) -> None:
    """Show recordings by state, uploads under way, and what holds them up."""
    settings = settings_of(config_path)
    answer = _status(settings)
    if as_json:
        print_json(answer)
        return
    click.echo(f"agent     {'running, process ' + str(answer['agent']['pid']) if answer['agent'] else 'stopped'}")
    counts = answer["recordings"]
    click.echo("documents " + ", ".join(f"{counts[name]} {name}" for name in counts))
    if answer["oldest_unsynced"]:
        click.echo(f"oldest    {_local(answer['oldest_unsynced'])}, {answer['backlog_bytes'] / _MIB:.0f} MiB to send")
    gate = answer["agent"] and answer["agent"]["gate"]
    if gate:
        next_time = "until" if gate["cause"] == "hold" else "tried again at"
        until = f", {next_time} {_local(gate['next_probe'])}" if gate["next_probe"] else ""
        click.echo(f"gate      closed since {_local(gate['since'])}{until}: {gate['reason']}")
        click.echo(f"          → {gate['hint']}")
    for upload in (answer["agent"] or {"uploads": []})["uploads"]:
        _show_upload(upload)
    for waiting in answer["waiting"]:
        click.echo(f"waits     {waiting['path']}: {waiting['error']['message']}")
        click.echo(f"          → until {_local(waiting['next_retry_at'])}; {waiting['error']['hint']}")
    for name, files in ((answer["agent"] or {}).get("files") or {}).items():
        _show_files(name, files)
    if answer["damaged_lines"]:
        click.echo(f"history   {answer['damaged_lines']} damaged lines were set aside (*.damaged); the rest is sound")


@click.command()
@with_config
@with_json
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def why(config_path: Path | None, as_json: bool, paths: Sequence[Path]) -> None:
    """Say for each PATH which rule lets it go or holds it up, and what to do."""
    settings = settings_of(config_path)
    with _history(settings) as documents:
        found = {
            str(path): reasons(path.absolute(), settings, documents, StatusFile(settings.agent.state_dir).read())
            for path in paths
        }
    if as_json:
        print_json([{"path": path, "rules": [reason.as_dict() for reason in rules]} for path, rules in found.items()])
        return
    for path, rules in found.items():
        click.echo(path)
        for reason in rules:
            _show_reason(reason)


@click.command()
@with_config
@with_json
@click.argument("target", required=False, metavar="[EPISODE|PATH]")
@click.option("--status", "wanted", type=click.Choice(["pending", "in_progress", "completed", "failed"]))
@click.option("--since", metavar="T", help="ISO 8601, an age such as 12h, or yesterday.")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True)
@click.option("--summary", is_flag=True, help="One row per episode.")
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
    settings = settings_of(config_path)
    earliest = moment(since) if since else ""
    with _history(settings) as documents:
        chosen = (log for log in _about(documents, target, wanted) if log.queued_at >= earliest)
        rows: list[dict[str, Any]] = list(_summaries(chosen)) if summary else [to_json(log) for log in chosen]
    rows = rows[offset : offset + limit]
    if as_json:
        print_json(rows)
        return
    for row in rows:
        click.echo(_summary_line(row) if summary else _line(row))


class _history:  # noqa: N801 - reads as a function: with _history(settings) as documents
    """The history, read-only; one that was never written is empty."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.agent.state_dir / "history"
        self._documents: TinyHistory | None = None

    def __enter__(self) -> TinyHistory:
        self._documents = TinyHistory(self._folder, RealClock(), read_only=True)
        return self._documents

    def __exit__(self, *_: object) -> None:
        if self._documents is not None:
            self._documents.close()


def _status(settings: Settings) -> dict[str, Any]:
    with _history(settings) as documents:
        unsynced = [log for log in documents.open() if not log.resync]
        return {
            "agent": StatusFile(settings.agent.state_dir).read(),
            "recordings": dict(documents.counts()),
            "oldest_unsynced": min((log.queued_at for log in unsynced), default=None),
            "backlog_bytes": sum(log.file_size for log in documents.open()),
            "waiting": [
                {key: document[key] for key in ("id", "episode_id", "path", "error", "next_retry_at")}
                for document in map(to_json, documents.open())
                if document["status"] == "failed"
            ],
            "damaged_lines": documents.damage(),
        }


def _about(documents: TinyHistory, target: str | None, wanted: Status | None) -> Iterator[SyncLog]:
    if target is None:
        yield from documents.newest_first(wanted)
        return
    path = Path(target).absolute()
    newest = documents.newest(mark) if (mark := _mark(path)) else None
    found = {log.id: log for log in [*documents.of_episode(target), *documents.at_path(path)]}
    if newest is not None:
        same = (log for log in documents.of_episode(newest.episode_id) if log.fingerprint == newest.fingerprint)
        found |= {log.id: log for log in same}
    for log in sorted(found.values(), key=lambda log: -log.id):
        if wanted in (None, log.status):
            yield log


def _mark(path: Path) -> str:
    """The fingerprint of what lies at ``path``, "" when that is no file that can be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return str(fingerprint(descriptor, os.fstat(descriptor).st_size))
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def _summaries(logs: Iterator[SyncLog]) -> Iterator[dict[str, Any]]:
    episodes: dict[str, list[SyncLog]] = {}
    for log in logs:
        episodes.setdefault(log.episode_id, []).append(log)
    for episode, of_it in episodes.items():
        synced = next((log for log in of_it if log.synced), None)
        yield {
            "episode_id": episode,
            "status": of_it[0].status,
            "synced": synced is not None,
            "synced_at": synced.completed_at if synced else None,
            "object_key": synced.object_key if synced else of_it[0].object_key,
            "attempts": of_it[0].attempt_count,
            "documents": len(of_it),
        }


def _show_upload(upload: dict[str, Any]) -> None:
    share = min(1.0, upload["bytes_sent"] / max(upload["file_size"], 1))
    rate = upload["bytes_per_second"]
    left = f", {(upload['file_size'] - upload['bytes_sent']) / rate:.0f} s left" if rate else ""
    bar = ("#" * round(share * 20)).ljust(20, ".")
    click.echo(f"uploads   [{bar}] {share:4.0%} {rate / 1e6:.1f} MB/s{left}  {upload['path']}")


def _show_files(name: str, files: Any) -> None:
    if isinstance(files, dict):
        if files:
            click.echo(f"{name:<9} " + ", ".join(f"{count} {kind}" for kind, count in files.items()))
        return
    for file in files:
        click.echo(f"{name:<9} {file}")


def _show_reason(reason: Reason) -> None:
    click.echo(f"  {'ok ' if reason.ok else 'NO '} {reason.rule}: {reason.says}")
    if reason.remedy:
        click.echo(f"      → {reason.remedy}")


def _line(document: dict[str, Any]) -> str:
    error = document["error"]
    tail = f"  {error['code']}: {error['message']}" if error and document["status"] != "completed" else ""
    when = document["completed_at"] or document["queued_at"]
    key = f"  {document['object_key']}" if document["object_key"] else ""
    return f"{document['id']:>6}  {_local(when)}  {document['status']:<11}  {document['path']}{key}{tail}"


def _summary_line(row: dict[str, Any]) -> str:
    synced = f"synced {_local(row['synced_at'])}" if row["synced"] else "not synced"
    return f"{row['episode_id']}  {row['status']}  {synced}  {row['object_key']}  {row['documents']} documents"


def _local(text: str) -> str:
    moment_of = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone()
    return moment_of.strftime("%Y-%m-%d %H:%M:%S")
