"""Answers what other parts of the agent ask about the files below the watched folders."""

# Paths are plain text here, as in the table of files.
# ruff: noqa: PTH116

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from agent.discovery.file_table import State, mark_of, stamp_of
from agent.discovery.file_tracker import FileTracker
from agent.discovery.state_rules import WaitingRules
from agent.discovery.walk import GONE


class FileQueries:
    """Reads the table of files for retention, requests, marker files and uploads.

    Some answers compare the table with the disk first, because a file may have changed since the
    last scan.

    May be used from any thread.
    """

    def __init__(
        self,
        tracker: FileTracker,
        rules: WaitingRules,
        hint: Callable[[str], None],
        *,
        follow_symlinks: bool,
    ) -> None:
        """Answer from the files of ``tracker``.

        Args:
            tracker: Holds the files.
            rules: How long is waited for what.
            hint: Has the finder's thread look at a path soon.
            follow_symlinks: Whether links are followed.
        """
        self._tracker = tracker
        self._rules = rules
        self._hint = hint
        self._follow = follow_symlinks

    def state(self, path: Path) -> tuple[State, str] | None:
        """Return the state of a file and the reason for it; None for a file that is not known."""
        with self._tracker.lock:
            file = self._tracker.table.find(*os.path.split(path))
            return (file.state, file.why) if file else None

    def state_now(self, path: Path) -> tuple[State, str] | None:
        """Return the same, but compare the file on the disk first.

        A file that has changed since it was seen counts as settling.
        """
        with self._tracker.lock:
            file = self._tracker.table.find(*os.path.split(path))
            if file is None:
                return None
            # Without the lock the row may become that of another file.
            stamp, state, why = file.stamp, file.state, file.why
        with suppress(OSError):
            if stamp_of(os.stat(path, follow_symlinks=self._follow)) != stamp:
                self._hint(os.path.abspath(path))  # noqa: PTH100 - hints are plain text
                return "settling", "it was changed just now; it is still settling"
        return state, why

    def below(self, folder: Path) -> Sequence[Path]:
        """Return the complete files in ``folder`` and below, and those skipped by age, sorted."""
        with self._tracker.lock:
            known = [
                path
                for path, file in self._tracker.table.below(str(folder))
                if file.state in ("complete", "skipped")
            ]
        return [Path(path) for path in sorted(known)]

    def unsettled(self, folder: Path, since: float) -> bool:
        """Return whether a file in ``folder`` or below has not been examined yet.

        Only files that were there at the monotonic time ``since`` count. A file that waits for its
        sidecar counts, too.
        """
        with self._tracker.lock:
            return any(
                file.state == "settling"
                or (
                    file.state == "waiting"
                    and file.due <= file.since + self._rules.sidecar_wait_seconds
                )
                for _, file in self._tracker.table.below(str(folder))
                if file.since <= since
            )

    def names(self, fingerprint: str) -> Sequence[Path]:
        """Return where the bytes of ``fingerprint``, given as text, lie now, sorted.

        A file that is gone is forgotten, so it counts as new when it comes back: its document may
        have ended by then.
        """
        wanted = mark_of(fingerprint)
        with self._tracker.lock:
            known = [
                (f"{folder}/{name}", file.stamp)
                for folder, name, file in self._tracker.table.files()
                if file.mark == wanted
            ]
        found = []
        for path, stamp in known:
            try:
                changed = stamp_of(os.stat(path, follow_symlinks=self._follow)) != stamp
            except OSError as error:
                if error.errno in GONE:
                    self._tracker.forget(path)
                continue
            if changed:
                self._tracker.settle_again(Path(path))
            found.append(Path(path))
        return sorted(found)

    def there(self) -> Callable[[str], bool]:
        """Return a function that tells whether the bytes of a fingerprint lay on the disk just now.

        The function takes the fingerprint as text.
        """
        with self._tracker.lock:
            among = self._tracker.table.marks()
        return lambda fingerprint: among(mark_of(fingerprint))

    def may_lie(self) -> Callable[[str], bool]:
        """Return a function that tells whether the bytes of a fingerprint may lie on the disk.

        A file that was not examined, or was skipped by its age, may be any recording of its size.
        The function takes the fingerprint as text.
        """
        with self._tracker.lock:
            among = self._tracker.table.marks()
            unexamined = [
                (folder, name)
                for folder, name, file in self._tracker.table.files()
                if not file.mark
            ]
        sizes = {_size(f"{folder}/{name}") for folder, name in unexamined}

        def may_be_there(fingerprint: str) -> bool:
            # The text of a fingerprint begins with the size of its file.
            return among(mark_of(fingerprint)) or fingerprint.partition("-")[0] in sizes

        return may_be_there


def _size(path: str) -> str:
    """Return the size of a file as text; "" where the file can't be found."""
    try:
        return str(os.stat(path).st_size)
    except OSError:
        return ""
