"""`status` and `why`: what the agent knows and does, read from the disk; it may run or not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import click

from agent.cli.options import (
    absolute,
    local,
    opened_history,
    print_json,
    say,
    settings_of,
    with_config,
    with_json,
    word_of_agent,
)
from agent.cli.reasons import Reason, Rules
from agent.edges.clock import RealClock
from agent.edges.config import Settings
from agent.edges.history import TinyHistory, to_json
from agent.model.errors import HistoryFullError
from agent.model.nouns import SyncLog
from agent.preconditions import REMEDIES, full_disk

_MIB = 1024 * 1024
_NAMED = 20  # documents that wait and are named
_SINCE = re.compile(r"(?<=no change since )[\d-]+T[\d:.]+Z(?=\)$)")  # as the snapshot has it, in UTC
_DO = {  # about files that are held up
    "unfinished": "mend them (`mcap recover`), or set watch.unfinished",
    "ignored": "no recordings of MCAP: see watch.include; for links set watch.follow_symlinks, or watch their targets",
    "disk": HistoryFullError.hint,
    **REMEDIES,
}
_LABELS = {"waiting": "not yet"}  # documents wait, too


@click.command()
@with_config
@with_json
def status(config_path: Path | None, as_json: bool) -> None:
    """Show recordings by state, uploads under way, and what holds them up."""
    answer = _status(settings_of(config_path))
    if as_json:
        print_json(answer)
        return
    agent = answer["agent"]
    pid = f", process {agent['pid']}" if agent else ""
    say(f"agent     {'stopped' if agent is None else 'running' + pid}")
    counts = answer["recordings"]
    say("documents " + ", ".join(f"{counts[name]} {name}" for name in counts))
    if answer["oldest_unsynced"]:
        say(f"oldest    {local(answer['oldest_unsynced'])}, {answer['backlog_bytes'] / _MIB:.0f} MiB to send")
    if agent and agent["gate"]:
        _show_gate(agent["gate"])
    if answer["disk_full"]:
        say(f"disk      {answer['disk_full']}")
        _advise("disk")
    for upload in agent["uploads"] if agent else ():
        _show_upload(upload)
    _show_documents(answer)
    for name, files in (agent or {}).get("files", {}).items():
        _show_files(name, files)
    if agent and agent.get("watcher_up") is False:
        say("watcher   not every folder can be watched: there only scans find recordings")
        _advise("watcher")
    if answer["damaged_lines"]:
        say(f"history   {answer['damaged_lines']} damaged lines were set aside (*.damaged); the rest is sound")
        _advise("damage")


@click.command()
@with_config
@with_json
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def why(config_path: Path | None, as_json: bool, paths: Sequence[Path]) -> None:
    """Say for each PATH which rule lets it go or holds it up, and what to do."""
    settings = settings_of(config_path)
    with opened_history(settings) as documents:
        rules = Rules(settings, documents, RealClock(), word_of_agent(settings))
        found = {str(path): rules.reasons(absolute(path)) for path in paths}
    if as_json:
        print_json([{"path": path, "rules": [reason.as_dict() for reason in told]} for path, told in found.items()])
        return
    for path, told in found.items():
        say(path)
        for reason in told:
            _show_reason(reason)


def _status(settings: Settings) -> dict[str, Any]:
    with opened_history(settings) as documents:
        waiting = documents.open()
        return {
            "agent": word_of_agent(settings),
            "recordings": dict(documents.counts()),
            "oldest_unsynced": min((log.queued_at for log in waiting if not log.resync), default=None),
            "backlog_bytes": sum(log.file_size for log in waiting),
            "waiting": [_in_short(log) for log in waiting if log.error is not None],
            "given_up": [_in_short(log) for log in islice(_given_up(documents), _NAMED)],
            "damaged_lines": documents.damage(),
            "disk_full": full_disk(settings.agent.state_dir),  # then the agent itself can write down nothing new
        }


def _given_up(documents: TinyHistory) -> Iterator[SyncLog]:
    """What failed for good and was not taken up again since, newest first."""
    for log in documents.newest_first("failed"):
        newest = None if log.open else documents.newest(log.fingerprint)
        if newest is not None and newest.id == log.id:
            yield log


def _in_short(log: SyncLog) -> dict[str, Any]:
    document = to_json(log)
    fields = ("id", "episode_id", "path", "status", "attempt_count", "error", "next_retry_at")
    return {field: document[field] for field in fields}


def _show_gate(gate: dict[str, Any]) -> None:
    next_time = "until" if gate["cause"] == "hold" else "tried again at"
    until = f", {next_time} {local(gate['next_probe'])}" if gate["next_probe"] else ""
    say(f"gate      closed since {local(gate['since'])}{until}")
    say(f"          {gate['reason']}")
    if gate["hint"]:
        say(f"          → {gate['hint']}")


def _show_upload(upload: dict[str, Any]) -> None:
    share = min(1.0, upload["bytes_sent"] / max(upload["file_size"], 1))
    rate = upload["bytes_per_second"]
    left = f", {(upload['file_size'] - upload['bytes_sent']) / rate:.0f} s left" if rate else ""
    bar = ("#" * round(share * 20)).ljust(20, ".")
    say(f"uploads   [{bar}] {share:4.0%} {rate / 1e6:.1f} MB/s{left}  {upload['path']}")


def _show_documents(answer: dict[str, Any]) -> None:
    """Those that wait for something, and those that failed for good."""
    # What a running agent has queued goes as soon as the gate lets it; a stopped one leaves only the error behind.
    waiting = [document for document in answer["waiting"] if answer["agent"] is None or document["status"] == "failed"]
    for document in islice(waiting, _NAMED):
        _show_waiting(document)
    if len(waiting) > _NAMED:
        say(f"waits     {len(waiting) - _NAMED} more: keystone-agent history, or status --json")
    for document in answer["given_up"]:
        _show_waiting(document, "failed")


def _show_waiting(document: dict[str, Any], label: str = "waits") -> None:
    error, retry_at = document["error"], document["next_retry_at"]
    say(f"{label:<9} {document['path']}")
    if error is None:
        return
    say(f"          {error['message']}")
    advice = [f"until {local(retry_at)}"] if retry_at else []
    if error["hint"]:
        advice.append(error["hint"])
    if advice:
        say(f"          → {'; '.join(advice)}")


def _show_files(name: str, files: Any) -> None:
    label = _LABELS.get(name, name)
    if isinstance(files, dict):
        if files:
            counts = (f"{count} {_LABELS.get(kind, kind)}" for kind, count in files.items())
            say(f"{label:<9} " + ", ".join(counts))
    else:
        for file in files:
            say(f"{label:<9} " + _SINCE.sub(lambda since: local(since[0]), file))
    if files:
        _advise(name)


def _advise(about: str) -> None:
    if about in _DO:
        say(f"          → {_DO[about]}")


def _show_reason(reason: Reason) -> None:
    at = f" at {local(reason.at)}" if reason.at else ""
    say(f"  {'ok ' if reason.ok else 'NO '} {reason.rule}: {reason.says}{at}")
    if reason.remedy:
        say(f"      → {reason.remedy}")
