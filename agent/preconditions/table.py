"""One precondition, and what is found when somebody looks at it: bounded in time, whatever disk and network do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.dispatch.outcome import outcome_of
from agent.model.errors import WHOLE
from agent.model.unforeseen import shortage

PATIENCE = 10.0  # seconds that one look may take
_LATE = "check the disk or the network that it lies on"
_RIGHTS = "check the disk, and the rights of the agent's user"
_MISTAKE = "this is a mistake in the agent: report this line"


class Note(NamedTuple):
    """All is well, but this is worth knowing."""

    says: str
    advice: str


@dataclass(frozen=True, slots=True)
class Precondition:
    """``look`` tells what is so, and raises AgentError with a hint where that won't do.

    It is asked only where all that it ``needs``, by name, was found to be well. ``late`` is what to do where it does
    not come back.
    """

    name: str
    look: Callable[[], str | Note]
    needs: Sequence[str] = ()
    late: str = _LATE


@dataclass(frozen=True, slots=True)
class Finding:
    """What is so, and what to do: needed where it is not ok, worth knowing where it is."""

    name: str
    ok: bool
    says: str
    remedy: str = ""


def findings(table: Sequence[Precondition], patience: float = PATIENCE) -> Iterator[Finding]:
    """Look at each in turn, ``patience`` seconds at most. What needs something that is not ok is not tried."""
    blamed: dict[str, str] = {}  # what is not ok -> the line that says why
    for each in table:
        cause = next((blamed[name] for name in each.needs if name in blamed), "")
        found = (
            Finding(each.name, False, f"not tried: see {cause}") if cause else _look(each, patience)
        )
        if not found.ok:
            blamed[each.name] = cause or each.name
        yield found


def _look(each: Precondition, patience: float) -> Finding:
    """Look on another thread: a resolver, or a share that hung up, may keep whoever asks for minutes."""
    found: list[Finding] = []
    thread = threading.Thread(
        target=lambda: found.append(_judged(each)), name=f"check {each.name}", daemon=True
    )
    try:
        thread.start()
    except RuntimeError as error:
        return _failed(each, error)
    thread.join(patience)
    return (
        found[0]
        if found
        else Finding(each.name, False, f"no answer within {patience:.0f} s", each.late)
    )


def _judged(each: Precondition) -> Finding:
    try:
        told = each.look()
    except Exception as error:  # noqa: BLE001 - a line that says what is wrong helps more than a traceback
        return _failed(each, error)
    return Finding(each.name, True, *(told if isinstance(told, Note) else (told, "")))


def _failed(each: Precondition, error: Exception) -> Finding:
    """What ``error`` says, as the agent itself would judge it, were this the first of its recordings."""
    if isinstance(error, OSError) and error.filename and not shortage(error, WHOLE):
        return Finding(each.name, False, f"{error.filename}: {error.strerror}", _RIGHTS)
    fault = outcome_of(error, attempts=1, max_attempts=2, others_passed=False).fault
    if fault is None:
        return Finding(each.name, False, str(error))
    return Finding(each.name, False, fault.message, _MISTAKE if fault.code == "bug" else fault.hint)
