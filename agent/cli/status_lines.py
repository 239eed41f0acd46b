"""What there is to say of an agent, line by line: the same for `status` and for those who watch it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from agent.cli.options import local
from agent.cli.units import rate_text, size_text, span_text
from agent.model.errors import HistoryFullError
from agent.preconditions import REMEDIES, full_disk

Tone = Literal["", "good", "bad", "advice"]

_NAMED = 20  # documents that wait and are named
_SINCE = re.compile(
    r"(?<=no change since )[\d-]+T[\d:.]+Z(?=\)$)"
)  # as the snapshot has it, in UTC
_LABELS = {"waiting": "not yet"}  # documents wait, too
_COUNTED = {"waiting": "not yet", "recording": "still recording"}
_REMEDIES = {
    "unfinished": "mend them (`mcap recover`) or delete them; watch.unfinished can have them sent as they are",
    "skipped": "watch.newer_than passes over them; touch FILE.resync sends one all the same",
    "unasked": "watch.auto is false: touch FILE.resync, or keystone-agent resync PATH, sends one",
    "ignored": "no recordings of MCAP: see watch.include; for links set watch.follow_symlinks, or watch their targets",
    "rejected": "the reason is in the file; delete it once you have read it",
    **REMEDIES,
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One line: what it is about ("" goes on with the line before), what is so, and whether that is good."""

    label: str
    text: str
    tone: Tone = ""

    def __str__(self) -> str:
        return f"{self.label:<9} {self.text}"


def facts(answer: Mapping[str, Any]) -> Iterator[Fact]:
    """All of an answer of `status` but the uploads, the most urgent first."""
    agent = answer["agent"]
    if agent is None:
        yield Fact("agent", "stopped", "bad")
    else:
        pid = f", process {agent['pid']}" if agent.get("pid") else ""
        yield Fact("agent", f"running{pid}", "good")
        yield from _upgrade(agent.get("upgrade"))
        yield from _settings(agent.get("settings", {}))
        yield from _profiles(agent.get("profiles"))
    yield from _gate(agent)
    counts = answer["recordings"]
    yield Fact("documents", ", ".join(f"{counts[name]} {name}" for name in counts))
    yield from _queue(answer)
    yield from _from_agent(agent or {})
    yield from _waiting(answer, stopped=agent is None)
    for document in answer["failed"]:
        yield from _problem("failed", document["path"], document["error"])
    if answer["recordings"].get("failed", 0) > len(answer["failed"]) > 0:
        yield Fact("", "all that ever failed: keystone-agent history --status failed", "advice")
    for name, files in (agent or {}).get("files", {}).items():
        yield from _files(name, files)
    yield from _not_deleted((agent or {}).get("not_deleted", ()))
    yield from _upkeep(answer)


def plain(answer: Mapping[str, Any]) -> Iterator[str]:
    """All of an answer as lines without colours."""
    told = facts(answer)
    yield str(next(told))
    for upload in (answer["agent"] or {}).get("uploads", ()):
        bar = ("#" * round(share_of(upload) * 20)).ljust(20, ".")
        left = upload.get("seconds_left")
        pace = rate_text(upload["bytes_per_second"]) + (
            f", {span_text(left)} left" if left is not None else ""
        )
        yield str(Fact("uploads", f"[{bar}] {share_of(upload):4.0%} {pace}  {upload['path']}"))
    yield from map(str, told)


def share_of(upload: Mapping[str, Any]) -> float:
    """How much of it is there, 0 to 1."""
    share: float = upload["bytes_sent"] / max(upload["file_size"], 1)
    return min(1.0, max(0.0, share))


def _gate(agent: Mapping[str, Any] | None) -> Iterator[Fact]:
    if agent is None or "gate" not in agent:
        return
    gate = agent["gate"]
    if gate is None:
        yield Fact("gate", "open", "good")
        return
    next_time = "until" if gate["cause"] == "hold" else "tried again at"
    until = f", {next_time} {local(gate['next_probe'])}" if gate["next_probe"] else ""
    yield Fact("gate", f"closed since {local(gate['since'])}{until}", "bad")
    yield Fact("", gate["reason"], "bad")
    if gate["hint"]:
        yield Fact("", f"→ {gate['hint']}", "advice")


def _upgrade(upgrade: Mapping[str, Any] | None) -> Iterator[Fact]:
    if upgrade is not None:
        text = f"upgraded from {upgrade['from'] or 'an earlier version'} to {upgrade['to']}"
        again = "recordings that had failed for good are tried again where they are found"
        yield Fact(
            "", f"{text}: {upgrade['recordings']} {again}" if upgrade["recordings"] else text
        )


def _settings(settings: Mapping[str, Any]) -> Iterator[Fact]:
    if settings.get("refused"):
        yield Fact(
            "settings",
            f"the configuration is refused, and an older one holds: {settings['refused']}",
            "bad",
        )
        yield Fact(
            "",
            "→ mend it (keystone-agent config validate), then reload the agent once more",
            "advice",
        )
    if settings.get("unknown_keys"):
        names = ", ".join(settings["unknown_keys"])
        yield Fact("settings", f"this version does not know and ignores {names}", "bad")
        advice = "→ remove these keys, or install again the newer version that accepted them"
        yield Fact("", advice, "advice")
    if settings.get("restart_for"):
        yield Fact("settings", f"restart for {', '.join(settings['restart_for'])}", "bad")
        yield Fact("", "→ restart the agent: a reload can't change that", "advice")


def _profiles(fault: Mapping[str, str] | None) -> Iterator[Fact]:
    if fault is not None:
        yield Fact("profiles", fault["message"], "bad")
        yield Fact("", f"→ {fault['hint']}", "advice")


def _queue(answer: Mapping[str, Any]) -> Iterator[Fact]:
    count = answer["queue_length"]
    if not count:
        yield Fact("queue", "empty", "good")
        return
    recordings = (
        f"{count} recording{'s' if count > 1 else ''}, {size_text(answer['backlog_bytes'])}"
    )
    oldest = (
        f", the oldest unsynced since {local(answer['oldest_unsynced'])}"
        if answer["oldest_unsynced"]
        else ""
    )
    yield Fact("queue", recordings + oldest)


def _from_agent(agent: Mapping[str, Any]) -> Iterator[Fact]:
    lease = agent.get("lease_remaining_seconds")
    if lease is not None:
        yield Fact("lease", f"{span_text(lease)} left")
    if error := agent.get("last_error"):
        yield Fact("error", f"{local(error['at'])} {error['path']}")
        yield Fact("", error["message"])
    for path in agent.get("waiting_markers", ()):
        yield Fact("marker", f"{path} waits")
    if agent.get("waiting_markers"):
        yield Fact(
            "",
            "→ nothing to do: it is served once what it names is finished and was looked at",
            "advice",
        )
    if agent.get("watcher_up") is False:
        why = "; ".join(agent.get("watch_failures", ())) or "it is being rebuilt"
        yield Fact("watcher", f"down: {why}", "bad")
        yield Fact("", f"→ {REMEDIES['watcher']}", "advice")


def _waiting(answer: Mapping[str, Any], *, stopped: bool) -> Iterator[Fact]:
    """What a running agent has queued goes as soon as the gate lets it; a stopped one leaves only the error behind."""
    waiting = [
        document for document in answer["waiting"] if stopped or document["status"] == "failed"
    ]
    for document in islice(waiting, _NAMED):
        yield from _problem("waits", document["path"], document["error"], document["next_retry_at"])
    unnamed = answer["waiting_count"] - len(answer["waiting"]) + max(0, len(waiting) - _NAMED)
    if unnamed:
        yield Fact("waits", f"{unnamed} more: keystone-agent history, or status --json")


def _problem(
    label: str, path: str, error: Mapping[str, Any] | None, until: str | None = None
) -> Iterator[Fact]:
    yield Fact(label, path)
    if error is None:
        return
    yield Fact("", error["message"], "bad")
    advice = [f"until {local(until)}"] if until else []
    if error["hint"]:
        advice.append(error["hint"])
    if advice:
        yield Fact("", f"→ {'; '.join(advice)}", "advice")


def _files(name: str, files: Mapping[str, int] | Sequence[str]) -> Iterator[Fact]:
    label = _LABELS.get(name, name)
    if isinstance(files, Mapping):
        counts = [f"{count} {_COUNTED.get(kind, kind)}" for kind, count in files.items() if count]
        if counts:
            yield Fact(label, ", ".join(counts))
        if counts and name in _REMEDIES:
            yield Fact("", f"→ {_REMEDIES[name]}", "advice")
        return
    for file in files:
        yield Fact(label, _SINCE.sub(lambda since: local(since[0]), file))
    if files and name in _REMEDIES:
        yield Fact("", f"→ {_REMEDIES[name]}", "advice")


def _not_deleted(kinds: Sequence[Mapping[str, Any]]) -> Iterator[Fact]:
    """Uploaded files that retention has to leave, the first of each kind by name."""
    for kind in kinds:
        count = kind["count"]
        yield Fact(
            "kept",
            f"{count} uploaded file{'s are' if count > 1 else ' is'} not deleted by retention:",
            "bad",
        )
        yield Fact("", kind["message"], "bad")
        for path in kind["paths"]:
            yield Fact("", path)
        if count > len(kind["paths"]):
            yield Fact("", f"{count - len(kind['paths'])} more")
        yield Fact("", f"→ {kind['hint']}", "advice")


def _upkeep(answer: Mapping[str, Any]) -> Iterator[Fact]:
    """What somebody should look after some day."""
    if answer["disk_full"]:
        yield Fact("disk", answer["disk_full"], "bad")
        yield Fact("", f"→ {HistoryFullError.hint}", "advice")
    if answer["damaged_lines"]:
        text = (
            f"{answer['damaged_lines']} damaged lines were set aside (*.damaged); the rest is sound"
        )
        yield Fact("history", text, "bad")
        yield Fact("", f"→ {REMEDIES['damage']}", "advice")
    if answer["orphaned_uploads"]:
        yield Fact(
            "orphans", f"{answer['orphaned_uploads']} given-up uploads still lie in the bucket"
        )
        yield Fact(
            "",
            "→ nothing to do: they are removed while the cloud answers, else by the bucket's rule",
            "advice",
        )
    for path in answer["rejected_markers"]:
        yield Fact("marker", f"{path} could not be served", "bad")
        yield Fact("", "→ the reason is in the file; delete it once you have read it", "advice")
    for path in answer["stuck_markers"]:
        yield Fact("marker", f"{path} is served but can't be removed", "bad")
        yield Fact("", "→ remove it, or let the agent's user write to its folder", "advice")


def from_disk(state_dir: Path) -> dict[str, Any]:
    """What the state folder itself tells of an answer, whatever an agent could write down."""
    return {"rejected_markers": _rejected(state_dir), "disk_full": full_disk(state_dir)}


def _rejected(state_dir: Path) -> list[str]:
    """Markers in the state folder that could not be served, some of them."""
    with suppress(OSError), os.scandir(state_dir / "markers") as listing:
        return sorted(
            islice((entry.path for entry in listing if entry.name.endswith(".rejected")), _NAMED)
        )
    return []
