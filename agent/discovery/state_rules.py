"""The rules for states: which state a file has, why, and when it must be checked again.

The running agent and the commands `why`, `ls` and `scan` decide by these rules. The two differ only
in what they know about time, which :class:`Unchanged` holds.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from agent.discovery.examine import Examiner, Lack, NotYet, is_compressor_gone
from agent.discovery.file_names import COMPRESSED
from agent.discovery.file_table import State
from agent.files.writers import has_writer
from agent.model.ports import Clock
from agent.model.values import Damaged, Recording

# Why a file has its state. Beside what the file may lack:
#
# - changing: the file has changed since it was last seen.
# - writer_unknown: a file without an end of which this user can't see whether it is written to.
# - no_end: a file that its recorder never finished. A complete file has this reason where it is
#   uploaded as it is. A complete file with an end has the reason "".
Reason = Literal["", "settling", "changing", "damaged", "no_end", "writer_unknown"] | Lack

# How long a compressed file settles at least. A compressor writes no end that could be checked.
_SETTLE_COMPRESSED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class WaitingRules:
    """How long discovery waits for what, in seconds."""

    # How long a file must stay unchanged before it is examined.
    settle_seconds: float

    # The time from one scan to the next. A file that keeps growing is checked no more rarely.
    rescan_seconds: float

    # How long a complete recording waits for its sidecar.
    sidecar_wait_seconds: float

    # How long an unchanged file is waited for: for its end, its writer or its done marker.
    unfinished_seconds: float

    def settling_seconds(self, name: str) -> float:
        """Return how long the file ``name`` must stay unchanged before it is examined."""
        if name.endswith(COMPRESSED):
            return max(self.settle_seconds, _SETTLE_COMPRESSED_SECONDS)
        return self.settle_seconds


class Unchanged(NamedTuple):
    """Since when a file is unchanged, and what time it is now, in seconds of one clock.

    The running agent knows when it first saw the file as it is, by the monotonic clock, and
    examines only what has settled. A command knows the date of the last change, by the wall clock.
    """

    since: float
    now: float

    # Whether the file and its sidecar have settled.
    settled: bool = True

    def has_lasted(self, seconds: float) -> bool:
        """Return whether the file has been unchanged for so long."""
        # The agent is woken up at the sum. A difference may be rounded to less than ``seconds``.
        return self.now >= self.since + seconds


class Decision(NamedTuple):
    """The state of a file, and why the file has this state.

    ``reason`` is for decisions, ``message`` is for people. ``check_at`` is the time at which the
    state may change although the file does not, by the clock of :class:`Unchanged`. It is infinite
    where only a change, or what the next scan sees, can change the state.
    """

    state: State
    reason: Reason = ""
    message: str = ""
    check_at: float = math.inf

    # What the file is, if it is complete or damaged.
    found: Recording | Damaged | None = None


_SETTLING = Decision("settling", "settling", "it was changed just now")


@dataclass(frozen=True, slots=True)
class StateRules:
    """Decides the states of files, by one examiner and one set of settings.

    The wall time of ``clock`` is used. ``boot_time`` is when this robot started, in seconds since
    1970. Any thread may use the rules.
    """

    examiner: Examiner
    waits: WaitingRules
    clock: Clock
    boot_time: float = -math.inf

    def judge(self, path: Path, state: os.stat_result, unchanged: Unchanged) -> Decision:
        """Examine the file at the absolute ``path``, and return its state.

        Raises:
            RecordingError: The file can't be a recording.
            FileChangedError: The file became shorter while it was read.
            OSError: The file can't be read now; FileNotFoundError when it is gone.
        """
        decision = self._examined(path, state, unchanged, end_overdue=False)
        if decision.state != "unfinished" or not self.examiner.send_unfinished or not state.st_size:
            return decision
        return self._examined(path, state, unchanged, end_overdue=True)

    def _examined(
        self, path: Path, state: os.stat_result, unchanged: Unchanged, *, end_overdue: bool
    ) -> Decision:
        unchanged_for_long = unchanged.has_lasted(self.waits.unfinished_seconds)
        found = self.examiner.look(
            path,
            sidecar_overdue=unchanged.has_lasted(self.waits.sidecar_wait_seconds),
            writer_overdue=unchanged_for_long,
            done_overdue=unchanged_for_long,
            end_overdue=end_overdue,
            compressor_overdue=unchanged_for_long
            and is_compressor_gone(path, self.clock.now(), self.waits.unfinished_seconds),
        )
        return decide(
            found,
            unchanged,
            self.waits,
            before_boot=state.st_mtime < self.boot_time,
            writer=lambda: has_writer(path),
        )


def may_be_recording(state: os.stat_result) -> bool:
    """Return whether a file with this state can be a recording: whether it is a regular file."""
    return stat.S_ISREG(state.st_mode)


def is_too_old(state: os.stat_result, oldest: float | None) -> bool:
    """Return whether a file with this state is skipped because of its age when it is first seen.

    ``oldest`` is the oldest time of the last change that is wanted, in seconds since 1970. None
    skips no file.
    """
    return oldest is not None and state.st_mtime < oldest


def decide(
    found: Recording | Damaged | NotYet,
    unchanged: Unchanged,
    waits: WaitingRules,
    *,
    before_boot: bool,
    writer: Callable[[], bool | None],
) -> Decision:
    """Return the state of a file that was examined.

    What no end or a writer says of a file holds before the file has settled, too. A file that is
    being recorded never settles.

    Args:
        found: What the file is, or what it lacks.
        unchanged: Since when the file is unchanged.
        waits: How long is waited for what.
        before_boot: Whether the file was last changed before this robot started.
        writer: Returns whether a program has the file open for writing; None if that can't be seen.

    Raises:
        OSError: The file can't be read any more.
    """
    if isinstance(found, NotYet):
        return _lacking(found, unchanged, waits, before_boot=before_boot, writer=writer)
    if not unchanged.settled:
        return _SETTLING
    if isinstance(found, Damaged):
        return Decision("damaged", "damaged", found.reason, found=found)
    has_end = found.own_tags.get("mcap_complete") != "false"
    return Decision("complete", "" if has_end else "no_end", found=found)


def _lacking(
    lacking: NotYet,
    unchanged: Unchanged,
    waits: WaitingRules,
    *,
    before_boot: bool,
    writer: Callable[[], bool | None],
) -> Decision:
    """Return the state of a file that still lacks something."""
    if lacking.why == "recording":
        return _without_end(lacking, unchanged, waits, before_boot=before_boot, writer=writer)
    wait = waits.sidecar_wait_seconds if lacking.why == "sidecar" else waits.unfinished_seconds
    check_at = _end_of_wait(unchanged, wait)
    if lacking.why == "writer":
        return Decision("recording", lacking.why, lacking.message, check_at)
    if not unchanged.settled:
        return _SETTLING
    return Decision("waiting", lacking.why, lacking.message, check_at)


def _without_end(
    lacking: NotYet,
    unchanged: Unchanged,
    waits: WaitingRules,
    *,
    before_boot: bool,
    writer: Callable[[], bool | None],
) -> Decision:
    """Return whether a file without an end is still recorded, or was left unfinished."""
    check_at = _end_of_wait(unchanged, waits.unfinished_seconds)
    reason: Reason = lacking.why
    message = lacking.message
    if before_boot or unchanged.has_lasted(waits.unfinished_seconds):
        is_written = writer()
        # No program of before the boot can still write to the file.
        if is_written is False or (before_boot and is_written is None):
            message = "no end, and no program writes to it: it is unfinished"
            return Decision("unfinished", "no_end", message)
        if is_written is None:
            reason = "writer_unknown"
            message = "no end; whether a program still writes to it can't be seen"
        else:
            message = "no end; a program has it open for writing"
    return Decision("recording", reason, message, check_at)


def _end_of_wait(unchanged: Unchanged, seconds: float) -> float:
    """Return when the file will have been unchanged for so long; infinite if it has been already.

    In that case the next scan has the file checked again.
    """
    end = unchanged.since + seconds
    return end if end > unchanged.now else math.inf
