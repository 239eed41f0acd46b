"""Turns the answer of `status` into lines of text, for `status` and for `status --watch`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from agent.cli.options import local_time
from agent.cli.units import rate_text, size_text, span_text
from agent.model.errors import HistoryFullError
from agent.model.printable import shell_word
from agent.preconditions import REMEDIES, full_disk

Tone = Literal["", "good", "bad", "advice"]

# How many waiting documents, and how many rejected marker files, are named.
_MAX_NAMED = 20

_BAR_COLUMNS = 20

# Documents can wait, too, so files that wait have another label.
_NOT_YET = "not yet"
_COUNT_LABELS = {"waiting": _NOT_YET, "recording": "still recording"}

_REMEDIES = {
    "unfinished": (
        "repair them with `mcap recover`, or delete them; "
        'watch.unfinished = "upload" sends them as they are'
    ),
    "skipped": "they are older than watch.newer_than; to send one all the same, touch FILE.resync",
    "unasked": (
        "watch.auto is false; to send one, touch FILE.resync, or run keystone-agent resync PATH"
    ),
    "ignored": (
        "these are no MCAP recordings: see watch.include; "
        "for links, set watch.follow_symlinks or watch the folders that they lead to"
    ),
    "rejected": "the reason is in the file; delete it once you have read it",
    **REMEDIES,
}


@dataclass(frozen=True, slots=True)
class StatusLine:
    """One line: a label, a text, and a tone that says whether the text is good news.

    A line without a label continues the line before.
    """

    label: str
    text: str
    tone: Tone = ""

    def __str__(self) -> str:
        return f"{self.label:<9} {self.text}"


def status_lines(answer: Mapping[str, Any]) -> Iterator[StatusLine]:
    """Yield everything that an answer of `status` says, except its uploads.

    ``answer`` is the document that `status --json` prints. The most urgent lines come first.
    """
    agent = answer["agent"]
    if agent is None:
        yield StatusLine("agent", "stopped", "bad")
        if failure := answer.get("agent_failure"):
            text = f"since {local_time(failure['at'])}: {failure['message']}"
            yield StatusLine("", text, "bad")
    else:
        pid = f", process {agent['pid']}" if agent.get("pid") else ""
        yield StatusLine("agent", f"running{pid}", "good")
        yield from _upgrade(agent.get("upgrade"))
        yield from _settings(agent.get("settings", {}))
        yield from _profiles(agent.get("profiles"))
    yield from _gate(agent)
    counts = answer["recordings"]
    yield StatusLine("documents", ", ".join(f"{counts[name]} {name}" for name in counts))
    yield from _queue(answer)
    yield from _agent_details(agent or {})
    yield from _waiting(answer, stopped=agent is None)
    yield from _failed(answer)
    yield from _files(agent or {})
    yield from _not_deleted((agent or {}).get("not_deleted", ()))
    yield from _maintenance(answer)


def text_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """Yield everything that an answer of `status` says, uploads included, as plain text."""
    lines = status_lines(answer)
    yield str(next(lines))
    for upload in (answer["agent"] or {}).get("uploads", ()):
        share = upload_share(upload)
        bar = ("#" * round(share * _BAR_COLUMNS)).ljust(_BAR_COLUMNS, ".")
        left = upload.get("seconds_left")
        pace = rate_text(upload["bytes_per_second"])
        if left is not None:
            pace += f", {span_text(left)} left"
        yield str(
            StatusLine("uploads", f"[{bar}] {share:4.0%} {pace}  {shell_word(upload['path'])}")
        )
    yield from map(str, lines)


def upload_share(upload: Mapping[str, Any]) -> float:
    """Return how much of an upload is in the bucket, from 0 to 1."""
    share: float = upload["bytes_sent"] / max(upload["file_size"], 1)
    return min(1.0, max(0.0, share))


def read_state_folder(state_dir: Path) -> dict[str, Any]:
    """Return the part of an answer that is read from the state folder itself.

    This part is right even where no agent runs, or where an agent could not write its status.
    """
    full = full_disk(state_dir)
    fields = (
        {"path": str(full.path), "lacks": full.lacks, "message": full.message} if full else None
    )
    return {
        "rejected_markers": _rejected_markers(state_dir),
        "full_disk": fields,
        # This key has the sentence alone. It stays until version 0.3.
        "disk_full": full.message if full else "",
    }


def _rejected_markers(state_dir: Path) -> list[str]:
    """Return the paths of some marker files in the state folder that were rejected."""
    with suppress(OSError), os.scandir(state_dir / "markers") as listing:
        rejected = (entry.path for entry in listing if entry.name.endswith(".rejected"))
        return sorted(islice(rejected, _MAX_NAMED))
    return []


def _advice(text: str) -> StatusLine:
    """Return a line that says what to do about the line before."""
    return StatusLine("", f"→ {text}", "advice")


def _gate(agent: Mapping[str, Any] | None) -> Iterator[StatusLine]:
    if agent is None or "gate" not in agent:
        return
    gate = agent["gate"]
    if gate is None:
        yield StatusLine("gate", "open", "good")
        return
    until = ""
    if gate["next_probe"]:
        next_time = "until" if gate["cause"] == "hold" else "next try at"
        until = f", {next_time} {local_time(gate['next_probe'])}"
    yield StatusLine("gate", f"closed since {local_time(gate['since'])}{until}", "bad")
    yield StatusLine("", gate["reason"], "bad")
    if gate["hint"]:
        yield _advice(gate["hint"])


def _upgrade(upgrade: Mapping[str, Any] | None) -> Iterator[StatusLine]:
    if upgrade is None:
        return
    text = f"upgraded from {upgrade['from'] or 'an earlier version'} to {upgrade['to']}"
    if upgrade["recordings"]:
        text += (
            f": {upgrade['recordings']} recordings that had failed permanently "
            "are tried again when they are found"
        )
    yield StatusLine("", text)


def _settings(settings: Mapping[str, Any]) -> Iterator[StatusLine]:
    if settings.get("refused"):
        text = f"the new configuration was refused, the old one stays: {settings['refused']}"
        yield StatusLine("settings", text, "bad")
        yield _advice("correct it (keystone-agent config validate), then reload the agent again")
    if settings.get("unknown_keys"):
        names = ", ".join(settings["unknown_keys"])
        yield StatusLine("settings", f"this version does not know and ignores {names}", "bad")
        yield _advice("remove these keys, or install the newer version that accepted them again")
    if settings.get("restart_for"):
        yield StatusLine("settings", f"restart for {', '.join(settings['restart_for'])}", "bad")
        yield _advice("restart the agent: a reload can't change these settings")


def _profiles(fault: Mapping[str, str] | None) -> Iterator[StatusLine]:
    if fault is not None:
        yield StatusLine("profiles", fault["message"], "bad")
        yield _advice(fault["hint"])


def _queue(answer: Mapping[str, Any]) -> Iterator[StatusLine]:
    count = answer["queue_length"]
    if not count:
        yield StatusLine("queue", "empty", "good")
        return
    text = f"{count} recording{'s' if count > 1 else ''}, {size_text(answer['backlog_bytes'])}"
    if answer["oldest_unsynced"]:
        text += f", the oldest unsynced since {local_time(answer['oldest_unsynced'])}"
    yield StatusLine("queue", text)


def _agent_details(agent: Mapping[str, Any]) -> Iterator[StatusLine]:
    """Yield what only a running agent knows: its lease, its last error, markers, its watcher."""
    lease = agent.get("lease_remaining_seconds")
    if lease is not None:
        yield StatusLine("lease", f"{span_text(lease)} left")
    if error := agent.get("last_error"):
        yield StatusLine("error", f"{local_time(error['at'])} {shell_word(error['path'])}")
        yield StatusLine("", error["message"])
    for path in agent.get("waiting_markers", ()):
        yield StatusLine("marker", f"{shell_word(path)} waits")
    if agent.get("waiting_markers"):
        yield _advice(
            "nothing to do: it takes effect once the recording that it names is complete and found"
        )
    if agent.get("watcher_up") is False:
        reason = "; ".join(_folders(agent.get("unwatched_folders", ()))) or "it is being rebuilt"
        yield StatusLine("watcher", f"down: {reason}", "bad")
        yield _advice(REMEDIES["watcher"])


def _waiting(answer: Mapping[str, Any], *, stopped: bool) -> Iterator[StatusLine]:
    """Yield the documents that wait, with their errors.

    A running agent sends its queue as soon as the gate is open, and the gate has its own lines.
    Then only failed documents are named. A stopped agent leaves nothing but the error behind, so
    all of its documents are named.
    """
    waiting = [
        document for document in answer["waiting"] if stopped or document["status"] == "failed"
    ]
    for document in waiting[:_MAX_NAMED]:
        yield from _problem("waits", document["path"], document["error"], document["next_retry_at"])
    more = answer["waiting_count"] - len(answer["waiting"]) + max(0, len(waiting) - _MAX_NAMED)
    if more:
        yield StatusLine("waits", f"{more} more: keystone-agent history, or status --json")


def _failed(answer: Mapping[str, Any]) -> Iterator[StatusLine]:
    for document in answer["failed"]:
        yield from _problem("failed", document["path"], document["error"])
    if answer["recordings"].get("failed", 0) > len(answer["failed"]) > 0:
        text = "all that ever failed: keystone-agent history --status failed"
        yield StatusLine("", text, "advice")


def _problem(
    label: str, path: str, error: Mapping[str, Any] | None, until: str | None = None
) -> Iterator[StatusLine]:
    yield StatusLine(label, shell_word(path))
    if error is None:
        return
    yield StatusLine("", error["message"], "bad")
    advice = [f"until {local_time(until)}"] if until else []
    if error["hint"]:
        advice.append(error["hint"])
    if advice:
        yield _advice("; ".join(advice))


def _files(agent: Mapping[str, Any]) -> Iterator[StatusLine]:
    """Yield the files that are no recordings, and how many files there are of each kind."""
    named, held = agent.get("files", {}), agent.get("held_files", ())
    in_progress = ("recording", "unfinished")
    for state in in_progress:
        yield from _group(state, _held(file for file in held if file["state"] == state))
    yield from _group(_NOT_YET, _held(file for file in held if file["state"] not in in_progress))
    yield from _group("skipped", map(shell_word, named.get("skipped", ())))
    yield from _group("copies", _copies(agent.get("copies", ())))
    yield from _group("missing", map(shell_word, named.get("missing", ())))
    yield from _group("unreadable", _folders(agent.get("unreadable_folders", ())))
    yield from _group("rejected", map(shell_word, named.get("rejected", ())))
    for label in ("files", "ignored", "unasked"):
        counts = [
            f"{count} {_COUNT_LABELS.get(kind, kind)}"
            for kind, count in named.get(label, {}).items()
            if count
        ]
        yield from _group(label, [", ".join(counts)] if counts else ())


def _held(files: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Yield the text for each file that is no recording yet."""
    for file in files:
        since = local_time(file["since"])
        yield f"{shell_word(file['path'])} ({file['message']}, no change since {since})"


def _copies(copies: Iterable[Iterable[str]]) -> Iterator[str]:
    """Yield the text for each recording that lies at several paths."""
    for paths in copies:
        yield " = ".join(map(shell_word, paths))


def _folders(folders: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Yield the text for each folder with which something is wrong."""
    for folder in folders:
        yield f"{shell_word(folder['path'])} ({folder['message']})"


def _group(label: str, texts: Iterable[str]) -> Iterator[StatusLine]:
    """Yield a line for each text, and then what to do about all of them."""
    lines = [StatusLine(label, text) for text in texts]
    yield from lines
    if lines and label in _REMEDIES:
        yield _advice(_REMEDIES[label])


def _not_deleted(kinds: Sequence[Mapping[str, Any]]) -> Iterator[StatusLine]:
    """Yield the uploaded files that retention has to keep, the first ones of each kind by name."""
    for kind in kinds:
        count = kind["count"]
        are = "s are" if count > 1 else " is"
        yield StatusLine("kept", f"{count} uploaded file{are} not deleted by retention:", "bad")
        yield StatusLine("", kind["message"], "bad")
        for path in kind["paths"]:
            yield StatusLine("", shell_word(path))
        if count > len(kind["paths"]):
            yield StatusLine("", f"{count - len(kind['paths'])} more")
        yield _advice(kind["hint"])


def _maintenance(answer: Mapping[str, Any]) -> Iterator[StatusLine]:
    """Yield what does not stop any upload now, but needs attention some day."""
    if answer["full_disk"]:
        yield StatusLine("disk", answer["full_disk"]["message"], "bad")
        yield _advice(HistoryFullError.hint)
    if answer["damaged_lines"]:
        count = answer["damaged_lines"]
        text = f"{count} damaged lines were set aside (*.damaged); all other lines are intact"
        yield StatusLine("history", text, "bad")
        yield _advice(REMEDIES["damage"])
    if answer["orphaned_uploads"]:
        text = f"{answer['orphaned_uploads']} orphaned uploads may still have parts in the bucket"
        yield StatusLine("orphans", text)
        yield _advice(
            "nothing to do: they are removed while the cloud answers, "
            "or else by the bucket's lifecycle rule"
        )
    for path in answer["rejected_markers"]:
        yield StatusLine("marker", f"{shell_word(path)} was rejected", "bad")
        yield _advice(_REMEDIES["rejected"])
    for path in answer["stuck_markers"]:
        yield StatusLine(
            "marker", f"{shell_word(path)} has taken effect but can't be removed", "bad"
        )
        yield _advice("remove it, or let the agent's user write to its folder")
