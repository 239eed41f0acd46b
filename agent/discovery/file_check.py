"""Checks a file that has settled: notes its state, and schedules the next check."""

# Paths are plain text here, as in the table of files.
# ruff: noqa: PTH116, PTH118

from __future__ import annotations

import errno
import logging
import math
import os
from pathlib import Path

from agent.discovery.error_log import Mistakes
from agent.discovery.file_table import FileRow, State, mark_of, stamp_of
from agent.discovery.file_tracker import FileTracker
from agent.discovery.state_rules import StateRules, Unchanged
from agent.discovery.walk import GONE, MISTAKE
from agent.model.errors import FileChangedError, RecordingError
from agent.model.ports import Clock
from agent.model.values import Damaged, Recording

_log = logging.getLogger(__name__)


class FileChecker:
    """Decides the state of a file when its time to be checked has come.

    A file that looks the same as before is judged by the rules for states. This class notes the
    state, and schedules the next check of a file that still lacks something.

    Used only by the finder's thread.
    """

    def __init__(
        self,
        tracker: FileTracker,
        rules: StateRules,
        clock: Clock,
        mistakes: Mistakes,
        *,
        follow_symlinks: bool,
    ) -> None:
        """Check the files of ``tracker``.

        Args:
            tracker: Holds the files, and schedules the next check of a file.
            rules: Decide the state of a file.
            clock: Its monotonic time is used.
            mistakes: Logs unexpected errors over single files.
            follow_symlinks: Whether links are followed.
        """
        self._tracker = tracker
        self._rules = rules
        self._clock = clock
        self._mistakes = mistakes
        self._follow = follow_symlinks

    def check(self, folder: str, name: str, file: FileRow) -> Recording | Damaged | None:
        """Check a file that is due. Return what it is, or None where it is not complete.

        An unexpected error is logged, and the next scan has the file checked again. So an error
        over one file does not lose the others of this step.
        """
        try:
            return self._check(folder, name, file)
        except Exception as error:  # noqa: BLE001 - the other files must be checked
            self._mistakes.log(os.path.join(folder, name), error)
            self._set_state(file, "unreadable", MISTAKE, "bug")
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
                waits = self._rules.waits
                pause = min(pause, max(waits.rescan_seconds, waits.settle_seconds))
                self._tracker.see(folder, name, state, sidecar, pause=pause)
                return None
            unchanged = Unchanged(file.since, self._clock.monotonic())
            decision = self._rules.judge(Path(path), state, unchanged)
        except RecordingError:
            self._tracker.forget(path)
            return None
        except FileChangedError:
            self._tracker.see(folder, name, state, sidecar)
            return None
        except OSError as error:
            self._fail(path, file, error)
            return None
        if decision.reason == "no_end" and file.state != "unfinished":
            _log.warning(
                "%s has no end and no writer", path, extra={"event": "unfinished", "path": path}
            )
        self._set_state(file, decision.state, decision.message, decision.reason)
        if decision.found is not None:
            file.mark = mark_of(str(decision.found.fingerprint))
        elif math.isfinite(decision.check_at):
            self._tracker.schedule(folder, name, file, decision.check_at, state.st_mtime_ns)
        return decision.found

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
        self._set_state(file, "unreadable", why, errno.errorcode.get(error.errno or 0, ""))

    def _set_state(self, file: FileRow, state: State, why: str, reason: str) -> None:
        """Set the state of a file. A report of another thread has all of it, or none."""
        with self._tracker.lock:
            file.set_state(state, why, reason)
