"""What of the uploaded recordings may leave this disk, and when: some time after the upload, or when space is short.

Nothing goes that is not proven to be in the bucket at that moment, all of its bytes included. The history is only read.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.model.ports import Clock, History
from agent.model.sync_log import SyncLog
from agent.model.values import utc_seconds
from agent.retention.clock_safe_age import ClockSafeAge
from agent.retention.confirm import Confirm
from agent.retention.deletion import Deletion, NotDeletableError, VerifiedFile
from agent.retention.verify import Finding, Verify, reason_of, remedy_of

_log = logging.getLogger(__name__)

_SURVEY = 10.0  # seconds between two readings of the history, at least
_SHARE = 1000  # after a reading there is none for so many times its own duration
_AGAIN = 600.0  # seconds until what could not be deleted is tried again
_GIB = 1024**3
# Comparing files with their uploads takes long. After so many seconds no other file is begun, so that
# the space on the disk is looked at again.
_LOOK_SECONDS = 60.0

Free = Callable[[Path], tuple[int, float]]
"""The device that a folder lies on, and the bytes free there; raises OSError."""


def free_space(folder: Path) -> tuple[int, float]:
    """What programs without special rights may still write."""
    space = os.statvfs(folder)
    return folder.stat().st_dev, space.f_bavail * space.f_frsize


@dataclass(slots=True)
class _Uploaded:
    """A completed document whose recording lies here."""

    completed_at: float  # wall clock, as it was then
    seen: float  # monotonic time of the first sight
    device: int | None  # None: not known
    not_before: float = 0.0  # monotonic time at which it may be tried again
    told: str = ""  # why it stays
    # What was found in its files and logged.
    findings: frozenset[Finding] = frozenset()


class Retention:
    """``look`` is called every few seconds, by one thread at a time; it costs nothing while nothing may go."""

    def __init__(
        self,
        *,
        history: History,
        confirm: Confirm,
        removal: Deletion,
        ages: ClockSafeAge,
        clock: Clock,
        names: Callable[[str], Sequence[Path]],
        there: Callable[[], Callable[[str], bool]],
        busy: Callable[[str], bool],
        roots: Sequence[Path],
        keep_seconds: float | None,
        min_free: float,
        free: Free = free_space,
    ) -> None:
        """Delete nothing yet.

        Args:
            history: Says what is uploaded.
            confirm: Asks whether it still is.
            removal: Deletes.
            ages: Of documents.
            clock: Its monotonic side.
            names: Where the bytes of a fingerprint lie now.
            there: Tells of many fingerprints whether they lie anywhere.
            busy: Whether a fingerprint is in flight.
            roots: The watched folders.
            keep_seconds: After the upload; None: for ever.
            min_free: Bytes; while less is free the oldest go. 0: off.
            free: Measures a file system.
        """
        self._history = history
        self._confirm = confirm
        self._removal = removal
        self._ages = ages
        self._clock = clock
        self._names = names
        self._there = there
        self._busy = busy
        self._roots = roots
        self._keep_seconds = keep_seconds
        self._min_free = min_free
        self._free = free
        self._verify = Verify(clock.now)
        self._working = threading.Lock()
        self._stopped = False
        self._uploaded: dict[int, _Uploaded] = {}  # by document id, the oldest first
        self._outlived: deque[int] = deque()  # those of them that have been kept long enough
        self._survey_due = 0.0
        self._short_looks: Counter[int] = (
            Counter()
        )  # by device: looks in a row in which nothing could go
        self._told_folders: set[Path] = set()

    def stop(self, seconds: float) -> bool:
        """Delete nothing more; tells whether what was under way has ended within ``seconds``."""
        self._stopped = True
        if not self._working.acquire(timeout=seconds):
            return False
        self._working.release()
        return True

    def kept(self) -> Sequence[dict[str, Any]]:
        """Files that stay because nothing shows that all of their bytes were uploaded; JSON, from any thread."""
        return self._verify.kept()

    def look(self) -> None:
        """Delete what may go now."""
        with self._working:
            if self._stopped:
                return
            began = self._clock.monotonic()
            self._ages.look()
            short = dict(self._short())
            if (
                short or self._keep_seconds is not None
            ) and self._clock.monotonic() >= self._survey_due:
                self._survey()
            self._confirm.begin()
            for device, root in short.items():
                self._make_room(device, root)
            while (
                self._outlived
                and self._may_go_on()
                and self._clock.monotonic() < began + _LOOK_SECONDS
            ):
                id_ = self._outlived.popleft()
                if id_ in self._uploaded and self._is_outlived(self._uploaded[id_]):
                    self._delete(id_, "retention.keep_hours have passed")
            self._confirm.end()

    def _may_go_on(self) -> bool:
        return not self._stopped and self._confirm.may_ask()

    # -- what is there

    def _survey(self) -> None:
        """Read which of the recordings that lie here are uploaded. The history may be long: seldom."""
        began = self._clock.monotonic()
        there, known, seen = self._there(), set(), {}
        for log in self._history.newest_first("completed"):
            if self._stopped:
                return
            if log.fingerprint not in known and there(log.fingerprint):
                known.add(log.fingerprint)
                seen[log.id] = self._uploaded.get(log.id) or _first_sight(log, began)
        self._uploaded = dict(sorted(seen.items()))
        self._verify.keep(self._uploaded.keys())
        self._outlived = deque(
            id_ for id_, uploaded in self._ready() if self._is_outlived(uploaded)
        )
        now = self._clock.monotonic()
        self._survey_due = now + max(_SURVEY, _SHARE * (now - began))

    def _ready(self, device: int | None = None) -> Iterator[tuple[int, _Uploaded]]:
        now = self._clock.monotonic()
        for id_, uploaded in list(self._uploaded.items()):
            if uploaded.not_before <= now and (device is None or uploaded.device in (None, device)):
                yield id_, uploaded

    def _is_outlived(self, uploaded: _Uploaded) -> bool:
        if self._keep_seconds is None:
            return False
        age = self._ages.of(uploaded.completed_at, uploaded.seen)
        return age is not None and age >= self._keep_seconds

    # -- space

    def _short(self) -> Iterator[tuple[int, Path]]:
        """The devices of the watched folders on which less is free than there should be."""
        for root in self._roots if self._min_free else ():
            with suppress(OSError):  # a disk that is taken out
                device, free = self._free(root)
                if free < self._min_free:
                    yield device, root
                else:
                    self._short_looks.pop(device, None)

    def _make_room(self, device: int, root: Path) -> None:
        """The oldest on ``device`` go, one by one, until enough is free."""
        lacking, gone = self._lacking(root), 0
        for id_, _ in self._ready(device):
            # What was deleted counts, too: some file systems need a while to show it.
            if gone >= lacking or self._lacking(root) <= 0 or not self._may_go_on():
                break
            gone += self._delete(id_, "less than retention.min_free_gib was free", device)
        if gone:
            self._short_looks.pop(device, None)
        elif not self._stopped:
            self._tell_shortage(device, root)

    def _lacking(self, root: Path) -> float:
        try:
            return self._min_free - self._free(root)[1]
        except OSError:
            return 0.0

    def _tell_shortage(self, device: int, root: Path) -> None:
        """Say it once, when it was so twice: just after the start nobody knows yet what lies here."""
        self._short_looks[device] += 1
        if self._short_looks[device] != 2:
            return
        held_up = [f"{len(self._history.open())} recordings are not uploaded yet"]
        if self._uploaded:
            held_up.append(f"{len(self._uploaded)} uploaded ones can't be deleted now")
        if closed := self._confirm.closed():
            held_up.append(f"the cloud is not asked: {closed}")
        _log.warning(
            "%.2f GiB less than retention.min_free_gib are free below %s, and nothing may be deleted: %s",
            self._lacking(root) / _GIB,
            root,
            "; ".join(held_up),
            extra={"event": "space_short", "path": str(root)},
        )

    # -- one recording

    def _delete(self, id_: int, reason: str, device: int | None = None) -> int:
        """Delete a recording by all its names, on ``device`` alone where one is given; returns the bytes freed."""
        uploaded = self._uploaded[id_]
        uploaded.not_before = self._clock.monotonic() + _AGAIN  # unless it goes
        log = self._newest(id_)
        everywhere = self._names(log.fingerprint) if log else ()
        self._verify.keep_names(id_, everywhere if log else ())
        if log is None or not everywhere:
            del self._uploaded[id_]  # it was asked for again, or is gone
            return 0
        names = everywhere if device is None else _freeing(everywhere, device)
        if self._busy(log.fingerprint):
            return 0
        names = [path for path in names if self._is_writable(path.parent)]
        names = [
            path
            for path in names
            if self._at(path, log, lambda doomed: self._promise(doomed, log)) is not None
        ]
        if not names:
            return 0  # then nobody need be asked
        wait = self._confirm.ask(log)
        if wait is not None:
            uploaded.not_before = self._clock.monotonic() + wait
            return 0
        freed = [
            self._at(path, log, lambda doomed: self._unlink(doomed, log, reason)) for path in names
        ]
        if len(names) == len(everywhere) and None not in freed:
            del self._uploaded[id_]
        return sum(size for size in freed if size)

    def _newest(self, id_: int) -> SyncLog | None:
        """The document, if it still is the newest of its recording."""
        with suppress(KeyError):  # it was forgotten
            log = self._history.get(id_)
            newest = self._history.newest(log.fingerprint)
            if newest is not None and newest.id == id_ and newest.synced:
                return log
        return None

    def _at(
        self, path: Path, log: SyncLog, act: Callable[[VerifiedFile], int | None]
    ) -> int | None:
        """Do something about a name that may be deleted; None when it stays."""
        try:
            with self._removal.checked(path, log.fingerprint, log.mtime) as doomed:
                return act(doomed)
        except FileNotFoundError:
            return 0
        except NotDeletableError as stays:
            self._tell_stays(path, log, str(stays))
        except OSError as error:
            self._tell_folder(path.parent, error.strerror or str(error))
        return None

    def _promise(self, doomed: VerifiedFile, log: SyncLog) -> int | None:
        """0 where reading the file may show that it was uploaded or has shown it; None when it stays."""
        finding = self._verify.known(doomed, log)
        if finding is None or finding == "same":
            return 0
        self._tell_finding(doomed.path, log, finding)
        return None

    def _is_uploaded(self, doomed: VerifiedFile, log: SyncLog) -> bool:
        """Whether all bytes of the file are those that were uploaded."""
        finding = self._verify.compare(doomed, log, lambda: self._stopped)
        if finding is not None and finding != "same":
            self._tell_finding(doomed.path, log, finding)
        return finding == "same"

    def _unlink(self, doomed: VerifiedFile, log: SyncLog, reason: str) -> int | None:
        """Bytes freed; None when it stays."""
        if not self._is_uploaded(doomed, log):
            return None
        with self._history.transaction():  # nobody asks for it again between the look and the deed
            if self._stopped or self._newest(log.id) is None:
                return None
            doomed.unlink()
        about = {"path": str(doomed.path), "episode_id": log.episode_id, "document": log.id}
        _log.info(
            "deleted %s (%d bytes): it is stored as %s, and %s",
            doomed.path,
            log.file_size,
            log.object_key,
            reason,
            extra={
                "event": "deleted",
                "size": log.file_size,
                "reason": reason,
                "object_key": log.object_key,
                **about,
            },
        )
        self._told_folders.discard(doomed.path.parent)
        try:
            self._removal.tidy(doomed.path)
        except (NotDeletableError, OSError) as error:
            _log.warning(
                "what belonged to %s stays: %s",
                doomed.path,
                error,
                extra={"event": "leftovers", **about},
            )
        return doomed.freed

    def _is_writable(self, folder: Path) -> bool:
        if os.access(folder, os.W_OK | os.X_OK):
            return True
        self._tell_folder(folder, "the agent may not write there")
        return False

    def _tell_stays(self, path: Path, log: SyncLog, why: str) -> None:
        """Once for a document, as long as it is for the same reason."""
        uploaded = self._uploaded[log.id]
        if uploaded.told != why:
            uploaded.told = why
            text = "%s is not deleted: %s"
            _log.info(
                text,
                path,
                why,
                extra={"event": "not_deleted", "path": str(path), "document": log.id},
            )

    def _tell_finding(self, path: Path, log: SyncLog, finding: Finding) -> None:
        """Once for a document and a finding."""
        uploaded = self._uploaded[log.id]
        if finding in uploaded.findings:
            return
        uploaded.findings |= {finding}
        # A file that was changed is a loss that nobody may have noticed; the others tell of the store.
        level = logging.WARNING if finding in ("differs", "unclear") else logging.INFO
        _log.log(
            level,
            "%s is not deleted: %s (%s)",
            path,
            reason_of(finding),
            remedy_of(finding, path),
            extra={
                "event": "not_deleted",
                "path": str(path),
                "document": log.id,
                "reason": finding,
            },
        )

    def _tell_folder(self, folder: Path, why: str) -> None:
        """Once for a folder, until something could be deleted there."""
        if folder not in self._told_folders:
            self._told_folders.add(folder)
            text = "uploaded recordings in %s can't be deleted: %s"
            _log.warning(text, folder, why, extra={"event": "undeletable", "path": str(folder)})


def _first_sight(log: SyncLog, now: float) -> _Uploaded:
    device = None
    with suppress(OSError):
        device = os.lstat(log.path).st_dev
    return _Uploaded(utc_seconds(log.completed_at or log.queued_at), now, device)


def _freeing(names: Sequence[Path], device: int) -> Sequence[Path]:
    """Those on ``device`` whose bytes the disk gets back: with a name elsewhere they would stay."""
    states = {}
    for path in names:
        with suppress(OSError):
            state = path.lstat()
            if state.st_dev == device:
                states[path] = state
    ours = Counter(state.st_ino for state in states.values())
    return [path for path, state in states.items() if state.st_nlink <= ours[state.st_ino]]
