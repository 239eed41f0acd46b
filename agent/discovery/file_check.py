"""Checks a file that has settled: examines it, and sets its state by what is found."""

# Paths are plain text here, as in the table of files.
# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import errno
import logging
import math
import os
from pathlib import Path

from agent.discovery.error_log import Mistakes
from agent.discovery.examine import Examiner, NotYet
from agent.discovery.file_table import FileRow, State, mark_of, stamp_of
from agent.discovery.file_tracker import FileTracker, WaitingRules
from agent.discovery.walk import GONE, MISTAKE
from agent.files.writers import has_writer
from agent.model.errors import FileChangedError, RecordingError
from agent.model.ports import Clock
from agent.model.values import Damaged, Recording

_log = logging.getLogger(__name__)


class FileChecker:
    """Decides the state of a file when its time to be checked has come.

    A file that looks the same as before is examined. Where the file lacks something, this class
    decides how long that is waited for, and in which state the file waits.

    Used only by the finder's thread.
    """

    def __init__(
        self,
        tracker: FileTracker,
        examiner: Examiner,
        clock: Clock,
        rules: WaitingRules,
        mistakes: Mistakes,
        *,
        follow_symlinks: bool,
        boot_time: float,
    ) -> None:
        """Check the files of ``tracker``.

        Args:
            tracker: Holds the files, and schedules the next check of a file.
            examiner: Says what lies at a path.
            clock: Its monotonic time is used.
            rules: How long is waited for what.
            mistakes: Logs unexpected errors over single files.
            follow_symlinks: Whether links are followed.
            boot_time: When this robot started, in seconds since 1970.
        """
        self._tracker = tracker
        self._examiner = examiner
        self._clock = clock
        self._rules = rules
        self._mistakes = mistakes
        self._follow = follow_symlinks
        self._boot_time = boot_time

    def check(self, folder: str, name: str, file: FileRow) -> Recording | Damaged | None:
        """Check a file that is due. Return what it is, or None where it is not complete.

        An unexpected error is logged, and the next scan has the file checked again. So an error
        over one file does not lose the others of this step.
        """
        try:
            return self._check(folder, name, file)
        except Exception as error:  # noqa: BLE001 - the other files must be checked
            self._mistakes.log(os.path.join(folder, name), error)
            file.set_state("unreadable", MISTAKE, "bug")
            return None
        finally:
            self._tracker.changed()

    def _check(self, folder: str, name: str, file: FileRow) -> Recording | Damaged | None:
        path = os.path.join(folder, name)
        # A file that keeps growing is checked ever more rarely: a recorder may write for hours.
        pause = 2 * (file.due - file.since)
        file.due = math.inf
        try:
            state = os.stat(path, follow_symlinks=self._follow)
            sidecar = self._tracker.sidecar_stamp(folder, name)
            if (stamp_of(state), sidecar) != (file.stamp, file.sidecar):
                pause = min(pause, max(self._rules.rescan_seconds, self._rules.settle_seconds))
                self._tracker.see(folder, name, state, sidecar, pause=pause)
                return None
            result = self._examine(path, file)
            if isinstance(result, NotYet):
                self._hold(path, file, result, state)
                return None
        except RecordingError:
            self._tracker.forget(path)
            return None
        except FileChangedError:
            self._tracker.see(folder, name, state, sidecar)
            return None
        except OSError as error:
            self._fail(path, file, error)
            return None
        if isinstance(result, Damaged):
            file.set_state("damaged", result.reason)
        else:
            file.set_state("complete")
        file.mark = mark_of(str(result.fingerprint))
        return result

    def _examine(self, path: str, file: FileRow) -> Recording | Damaged | NotYet:
        """Return what lies at ``path``, given how long the file has been unchanged."""
        now = self._clock.monotonic()
        unchanged_for_long = now >= file.since + self._rules.unfinished_seconds
        return self._examiner.look(
            Path(path),
            sidecar_overdue=now >= file.since + self._rules.sidecar_wait_seconds,
            writer_overdue=unchanged_for_long,
            done_overdue=unchanged_for_long,
            end_overdue=file.state == "unfinished",
        )

    def _hold(self, path: str, file: FileRow, lacking: NotYet, state: os.stat_result) -> None:
        """Keep a file that lacks something, and schedule the next check where time changes that.

        Raises OSError where the file can't be read any more.
        """
        before = file.state
        file.why, file.reason = lacking.message, lacking.why
        patience = self._rules.unfinished_seconds
        if lacking.why == "recording":
            file.state = self._recording_state(path, file, state.st_mtime)
        elif lacking.why == "writer":
            file.state = "recording"
        else:
            file.state = "waiting"
            if lacking.why == "sidecar":
                patience = self._rules.sidecar_wait_seconds
        folder, name = os.path.split(path)
        if file.state == "unfinished":
            if before != "unfinished":
                if self._examiner.send_unfinished:
                    now = self._clock.monotonic()
                    self._tracker.schedule(folder, name, file, now, state.st_mtime_ns)
                _log.warning(
                    "%s has no end and no writer", path, extra={"event": "unfinished", "path": path}
                )
            return
        # These are waited for only for a limited time. So one more check follows, even if that time
        # has passed while this check lasted.
        is_limited = lacking.why in ("sidecar", "writer", "done_marker")
        if is_limited or file.since + patience > self._clock.monotonic():
            due = file.since + patience
            self._tracker.schedule(folder, name, file, due, state.st_mtime_ns)

    def _recording_state(self, path: str, file: FileRow, mtime: float) -> State:
        """Return whether a file without an end may still be written to, and set the reason.

        ``mtime`` is the time of the last change, in seconds since 1970.
        """
        unchanged_for_long = self._clock.monotonic() >= file.since + self._rules.unfinished_seconds
        before_boot = mtime < self._boot_time
        if not unchanged_for_long and not before_boot:
            return "recording"
        writer = has_writer(Path(path))
        # No program of before the boot can still write to the file.
        if writer is False or (before_boot and writer is None):
            file.why = "no end, and no program writes to it: its recorder did not finish it"
            file.reason = "no_writer"
            return "unfinished"
        if writer is None:
            file.why = "no end; whether a program still writes to it can't be seen"
            file.reason = "writer_unknown"
        return "recording"

    def _fail(self, path: str, file: FileRow, error: OSError) -> None:
        """Note that a file can't be read, and log each reason once. Forget a file that is gone."""
        if error.errno in GONE:
            self._tracker.forget(path)
            return
        why = error.strerror or str(error)
        if (file.state, file.why) != ("unreadable", why):
            _log.warning(
                "can't read %s: %s", path, why, extra={"event": "unreadable", "path": path}
            )
        file.set_state("unreadable", why, errno.errorcode.get(error.errno or 0, ""))
