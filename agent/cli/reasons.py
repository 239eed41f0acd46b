"""Each rule that a file must pass on its way into the bucket, in order, with the first one that holds it up."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.edges.config import Settings
from agent.edges.config.kinds import newer_than
from agent.flow.examine import Examiner, NotYet, has_writer
from agent.model.errors import RecordingError
from agent.model.nouns import Damaged
from agent.model.ports import History

_REMEDIES = {
    "recording": "nothing to do: it goes once its recorder has closed it",
    "sidecar": "nothing to do: it goes without one after watch.sidecar_wait_seconds",
    "done_marker": "nothing to do: it goes once its recorder has written the rest",
    "compressing": "nothing to do: the compressed file replaces it",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule, whether the file passes it, what is so, and what to do where it does not."""

    rule: str
    ok: bool
    says: str
    remedy: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def reasons(path: Path, settings: Settings, history: History, agent: dict[str, Any] | None) -> Sequence[Reason]:
    """All rules up to and with the first that is not ok; ``agent`` is what a running one published, else None."""
    told = []
    for reason in _rules(path, settings, history, agent):
        told.append(reason)
        if not reason.ok:
            break
    return told


def _rules(path: Path, settings: Settings, history: History, agent: dict[str, Any] | None) -> Iterator[Reason]:
    watch = settings.watch
    root = next((root for root in watch.roots if path.is_relative_to(root)), None)
    yield Reason(
        "root", root is not None, f"below {root}" if root else "below no watched folder", "" if root else "watch.roots"
    )
    assert root is not None  # noqa: S101 - the first rule that is not ok ends the walk
    included = any(fnmatch.fnmatchcase(path.name, glob) for glob in watch.include)
    yield Reason("include", included, ", ".join(watch.include), "" if included else "rename it, or set watch.include")
    excluding = _excluding(path.relative_to(root), watch.exclude)
    yield Reason("exclude", not excluding, excluding or "not excluded", "rename it, or set watch.exclude")
    try:
        state = path.lstat()
        yield Reason("file", True, f"{state.st_size} bytes")
        yield _age(state.st_mtime, settings)
        yield from _content(path, settings, history, agent)
    except FileNotFoundError:
        yield Reason("file", False, "is not there", "history shows what became of it")
    except OSError as error:
        yield Reason("file", False, f"can't be read: {error.strerror}", "give the agent's user the right to read it")


def _excluding(below: Path, globs: Sequence[str]) -> str:
    hits = (f"{part} matches {glob}" for part in below.parts for glob in globs if fnmatch.fnmatchcase(part, glob))
    return next(hits, "")


def _age(mtime: float, settings: Settings) -> Reason:
    limit = newer_than(settings.watch.newer_than)
    if limit is None:
        return Reason("age", True, "any age")
    oldest = limit.timestamp() if isinstance(limit, datetime) else time.time() - limit.total_seconds()
    return Reason("age", mtime >= oldest, f"watch.newer_than = {settings.watch.newer_than}", "set watch.newer_than")


def _content(path: Path, settings: Settings, history: History, agent: dict[str, Any] | None) -> Iterator[Reason]:
    examiner = Examiner(settings.watch.roots, settings.watch.sidecar, follow_symlinks=settings.watch.follow_symlinks)
    try:
        found = examiner.look(path)
    except RecordingError as error:
        yield Reason("file", False, error.message, error.hint)
        return
    if isinstance(found, NotYet):
        if found.why == "recording" and has_writer(path) is False:
            yield Reason("complete", False, "no footer, and nobody writes: it is unfinished", "try `mcap recover`")
        yield Reason("complete", False, found.message, _REMEDIES[found.why])
        return
    yield Reason("complete", not isinstance(found, Damaged), getattr(found, "reason", "a whole MCAP"), "`mcap recover`")
    log = history.newest(str(found.fingerprint))
    if log is None:
        remedy = "the next scan finds it" if agent else "start the agent"
        yield Reason("queued", False, "no document yet: it settles, or is not found yet", remedy)
        return
    yield Reason("queued", True, f"document {log.id}, {log.status}, attempt {log.attempt_count}")
    if log.status == "completed":
        yield Reason("uploaded", True, f"{log.bucket}/{log.object_key} at {log.completed_at}")
    elif log.error is not None and log.status == "failed":
        when = f"; tried again at {log.next_retry_at}" if log.next_retry_at else "; for good"
        yield Reason("uploaded", False, log.error.message + when, log.error.hint)
    else:
        ahead = sum(other.id < log.id for other in history.open())
        gate = agent and agent["gate"]
        yield Reason("gate", not gate, gate["reason"] if gate else "open", gate["hint"] if gate else "")
        yield Reason("uploaded", False, f"{log.status}, {ahead} ahead of it", "" if agent else "start the agent")
