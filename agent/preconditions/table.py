"""A table of preconditions, which are checked one after the other.

Each check is bounded in time, whatever the disk and the network do.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.dispatch.outcome import outcome_of
from agent.model.unforeseen import shortage

# The longest time that one check may take.
PATIENCE_SECONDS = 10.0

_REMEDY_IF_LATE = "check the disk or the network that it lies on"
_REMEDY_OF_OS_ERROR = "check the disk, and the rights of the agent's user"
_REMEDY_OF_BUG = "this is a mistake in the agent: report this line"


class Note(NamedTuple):
    """What a check returns where a text alone does not say everything.

    ``advice`` is what the operator should know or do, "" for nothing. ``at`` is a time in UTC that
    ``says`` contains, so that the commands can show it in the robot's own zone.
    """

    says: str
    advice: str = ""
    at: str = ""
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Precondition:
    """One thing that must be so before a recording can be uploaded.

    ``check`` returns what is so. Where uploads would fail, it raises AgentError with a hint, or
    returns a Note that is not ok. The check runs on a thread of its own, and only where all
    preconditions that ``needs`` names were ok. ``remedy_if_late`` is what to do where the check
    does not end in time.
    """

    name: str
    check: Callable[[], str | Note]
    needs: Sequence[str] = ()
    remedy_if_late: str = _REMEDY_IF_LATE


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check has found.

    ``remedy`` says what has to be done where the finding is not ok. Where the finding is ok,
    ``remedy`` is empty or an advice. ``at`` is a time in UTC that ``says`` contains, "" for none.
    """

    name: str
    ok: bool
    says: str
    remedy: str = ""
    at: str = ""


def findings(
    table: Sequence[Precondition], patience_seconds: float = PATIENCE_SECONDS
) -> Iterator[Finding]:
    """Check one precondition after the other, each for ``patience_seconds`` at most.

    A precondition that needs another one which is not ok is not checked. Its finding names the
    precondition that is the cause.
    """
    cause_of: dict[str, str] = {}
    for precondition in table:
        cause = next((cause_of[name] for name in precondition.needs if name in cause_of), "")
        if cause:
            finding = Finding(precondition.name, False, f"not tried: see {cause}")
        else:
            finding = _check_in_time(precondition, patience_seconds)
        if not finding.ok:
            cause_of[precondition.name] = cause or precondition.name
        yield finding


def _check_in_time(precondition: Precondition, patience_seconds: float) -> Finding:
    """Check a precondition on another thread.

    A name server or a network disk that does not answer can block a thread for minutes.
    """
    found: list[Finding] = []
    thread = threading.Thread(
        target=lambda: found.append(_check(precondition)),
        name=f"check {precondition.name}",
        daemon=True,
    )
    try:
        thread.start()
    except RuntimeError as error:
        return _failure(precondition, error)
    thread.join(patience_seconds)
    if found:
        return found[0]
    says = f"no answer within {patience_seconds:.0f} s"
    return Finding(precondition.name, False, says, precondition.remedy_if_late)


def _check(precondition: Precondition) -> Finding:
    try:
        result = precondition.check()
    except Exception as error:  # noqa: BLE001 - a line that says what is wrong beats a traceback
        return _failure(precondition, error)
    if isinstance(result, Note):
        return Finding(precondition.name, result.ok, result.says, result.advice, result.at)
    return Finding(precondition.name, True, result)


def _failure(precondition: Precondition, error: Exception) -> Finding:
    """Return the finding for an error, with the agent's own words for errors of uploads."""
    if isinstance(error, OSError) and error.filename and not shortage(error):
        says = f"{error.filename}: {error.strerror}"
        return Finding(precondition.name, False, says, _REMEDY_OF_OS_ERROR)
    fault = outcome_of(error, attempts=1, max_attempts=2, others_passed=False).fault
    if fault is None:
        return Finding(precondition.name, False, str(error))
    remedy = _REMEDY_OF_BUG if fault.means("bug") else fault.hint
    return Finding(precondition.name, False, fault.message, remedy)
