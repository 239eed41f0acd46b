"""What the design promises holds after every step, for any order of events.

The events concern files, cloud, clock, disk and process. The agent is built by the assembly of the
running agent, on a clock that is moved by hand and on faulty fakes. Hypothesis chooses what happens
next. ``make soak`` runs many more steps with a seed of its own.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from agent.model.errors import CloudError
from agent.model.sync_log import Marker, SyncLog
from agent.model.values import (
    CredentialLease,
    Damaged,
    DeviceProfile,
    Recording,
    Sighting,
    utc_text,
)
from agent.operations import marker_file
from agent.retention.deletion import VerifiedFile
from tests.harness.fakes.clock import FakeClock
from tests.harness.fakes.gateway import GATEWAY_CALLS, PROFILE
from tests.harness.fakes.store import STORE_CALLS, FakeStore
from tests.harness.recorders import write_mcap
from tests.harness.robot import Robot

# `make soak` sets the number of runs, and gives each run twice as many steps.
SOAK = int(os.environ.get("SOAK_RUNS", "0"))
RUNS = SOAK or 300
STEPS = 100 if SOAK else 50

OTHER = DeviceProfile("robot-2", "api-key-2", {"site": "there"}, "http://auth", "http://gateway")
STORE_ERRORS = {
    "reset": 0,
    "timeout": 0,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
    "HTTP_500": 500,
    "AccessDenied": 403,
    "ExpiredToken": 400,
    "NoSuchBucket": 404,
    "checksum": 0,
    "Peculiar": 400,
    "EntityTooLarge": 400,
    "certificate": 0,
    "no_http": 0,
    "unexpected_answer": 0,
    "out_of_descriptors": 0,
    "out_of_memory": 0,
}
GATEWAY_ERRORS = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "INTERNAL",
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "KEY_DISABLED",
    "dns",
    "INVALID_ARGUMENT",
    "UNKNOWN",
    "unexpected_answer",
    "out_of_threads",
)

# Errors that may hide a success.
MAYBE_DONE = frozenset(
    {
        "reset",
        "timeout",
        "ServiceUnavailable",
        "HTTP_500",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "INTERNAL",
        "UNKNOWN",
    }
)
NAMES = st.sampled_from(["a", "b", "c", "d", "day/a", "day/e"])
TIMES = st.sampled_from([1, 2, 5, 10_000])

# An upload of three parts makes about twenty calls and writes.
CALLS = st.integers(1, 24)
SIZES = st.sampled_from([200, 1500, 4000])
TO_FILE = ("touch", "delete", "rename", "replace", "rewrite", "append", "truncate")
TO_AGENT = (
    "crash",
    "turn",
    "wait",
    "days",
    "expire_leases",
    "expire_tokens",
    "fill_disk",
    "lose_object",
    "end_session",
)

# Counts over all runs. A simulation in which nothing happens proves nothing.
SEEN: Counter[str] = Counter()


class Crash(BaseException):
    """The power fails."""


class TrueClock(FakeClock):
    """The time in the cloud.

    The time goes on with the robot's time, and no jump of the robot's wall clock moves it.
    """

    def __init__(self, robot: FakeClock) -> None:
        super().__init__()
        self._robot = robot
        self._ahead = robot.now() - robot.monotonic()

    def now(self) -> float:
        return self._robot.monotonic() + self._ahead


class WatchedStore(FakeStore):
    """A store that ends leases at their time and notes requests that must never come."""

    def __init__(self) -> None:
        super().__init__()
        self.true = TrueClock(FakeClock())
        self.robot = FakeClock()
        self.complaints: list[str] = []

    def enter(self, call: str, lease: CredentialLease) -> Callable[[], None]:
        if not lease.usable(self.robot.monotonic()):
            self.complaints.append(f"{call} was signed with a lease known to be over")
        done = super().enter(call, lease)
        if self.true.now() >= lease.expires_at:
            raise CloudError(call, "ExpiredToken", status=400)
        return done


class Simulation(RuleBasedStateMachine):
    """One robot, its files and its cloud."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="simulation-"))
        self.store = WatchedStore()
        self.robot = Robot(
            self.place / "recordings", store=self.store, upload={"max_concurrent": 2}
        )
        self.store.robot, self.store.true = self.robot.clock, TrueClock(self.robot.clock)
        self.robot.gateway.clock = self.store.true
        self.robot.gateway.profiles[OTHER.api_key] = OTHER
        self.robot.profiles.profiles = {PROFILE.asset_id: PROFILE, OTHER.asset_id: OTHER}
        self.robot.assets["robot"] = PROFILE.asset_id
        (self.robot.folder / "day").mkdir()
        self.outside = self.place / "outside"
        self.outside.mkdir()
        # Finished recordings by fingerprint.
        self.whole: dict[str, bytes] = {}
        # For each file that grows: all that its recorder will have written, and the bytes so far.
        self.growing: dict[Path, tuple[bytes, int]] = {}
        # The monotonic time of the last write.
        self.changed: dict[Path, float] = {}
        # Each entry is the number of calls until an event, and the event.
        self.plan: list[tuple[int, str]] = []
        self.ended: dict[int, SyncLog] = {}
        # The keys of sessions that the platform took away. The robot can not tidy up there.
        self.excused: set[str] = set()
        # Whether the store has refused to list multipart uploads. One whose id was lost before it
        # was written down can't be found then.
        self.listing_refused = False
        # The fingerprints of recordings that had two names.
        self.twins: set[str] = set()
        # The ids of documents.
        self.known: set[int] = set()
        # How often each marker was touched.
        self.marks: Counter[Path] = Counter()
        self.read_only = False
        self.unlink = marker_file.unlink
        marker_file.unlink = self._unlink
        self.seeds = itertools.count(1)
        self.stamps = itertools.count(1_700_000_000)
        self.store.before = lambda call: self._run_planned_events(call, at_store=True)
        self.robot.gateway.before = self._run_planned_events
        self.robot.history.before = self._run_planned_events
        self._witness()

    # These rules change files.

    @rule(name=NAMES, size=SIZES, way=st.sampled_from(["write", "move"]), noticed=st.booleans())
    def drop(self, name: str, size: int, way: str, noticed: bool) -> None:
        self._put(self._path(name), self._recording(size), way, noticed=noticed)

    @rule(name=NAMES, size=SIZES, share=st.floats(0, 0.99))
    def begin(self, name: str, size: int, share: float) -> None:
        content = self._recording(size)
        self._put(self._path(name), content[: int(len(content) * share)], "write")
        self.growing[self._path(name)] = content, int(len(content) * share)

    @rule(name=NAMES, end=st.booleans(), noticed=st.booleans())
    def go_on(self, name: str, end: bool, noticed: bool) -> None:
        path = self._path(name)
        if path in self.growing:
            content, written = self.growing[path]
            written = len(content) if end else written + (len(content) - written) // 2
            self._put(path, content[:written], "write", noticed=noticed)
            if not end:
                self.growing[path] = content, written

    @rule(name=NAMES, kind=st.sampled_from(["good", "other", "bad", "none"]), noticed=st.booleans())
    def sidecar(self, name: str, kind: str, noticed: bool) -> None:
        path = self._path(name).with_suffix(".json")
        path.unlink(missing_ok=True)
        if kind != "none":
            path.write_text(
                "[1" if kind == "bad" else json.dumps({"episode_id": f"ep-{name}", "kind": kind})
            )
            self._stamp(path)
        if noticed:
            self.robot.discover.sight(Sighting(path))

    @rule(what=st.sampled_from(TO_FILE), name=NAMES, noticed=st.booleans())
    def disturb(self, what: str, name: str, noticed: bool) -> None:
        self._disturb(what, self._path(name), noticed=noticed)

    @rule(name=NAMES, other=NAMES, noticed=st.booleans())
    def copy(self, name: str, other: str, noticed: bool) -> None:
        source, target = self._path(name), self._path(other)
        if source.exists() and source != target:
            self.twins.add(_fingerprint(source.read_bytes()))
            self._put(target, source.read_bytes(), "move", noticed=noticed)

    @rule(name=NAMES)
    def take_out(self, name: str) -> None:
        path = self._path(name)
        if path.exists() and path not in self.growing:
            path.rename(self.outside / name.replace("/", "-"))

    @rule(name=NAMES)
    def put_back(self, name: str) -> None:
        kept = self.outside / name.replace("/", "-")
        if kept.exists():
            self.growing.pop(self._path(name), None)
            kept.rename(self._path(name))

    @rule(
        name=st.one_of(NAMES, st.sampled_from(["", "day/"])),
        ask=st.sampled_from(["resync", "resync", "first"]),
        noticed=st.booleans(),
    )
    def mark(self, name: str, ask: str, noticed: bool) -> None:
        """Touch a marker file beside a recording, or in a folder."""
        folder = not name or name.endswith("/")
        self._drop_marker(
            self.robot.folder / (f"{name}.resync" if folder else f"{name}.mcap.{ask}"),
            noticed=noticed,
        )

    @rule(name=NAMES)
    def mark_episode(self, name: str) -> None:
        """Touch a marker with the episode from the recording's sidecar, if there is one."""
        self._drop_marker(self.robot.marked / f"ep-{name.replace('/', '-')}.resync", noticed=False)

    @rule(name=NAMES)
    def mark_that_stays(self, name: str) -> None:
        """Touch a marker that can't be removed while its resync lasts.

        The next scans find the marker again.
        """
        self.read_only = True
        self.mark(name, "resync", noticed=True)
        self.settle()
        self.wait(900)
        self.read_only = False

    @rule(name=NAMES, calls=CALLS)
    def interrupted_mark(self, name: str, calls: int) -> None:
        self.mark(name, "resync", noticed=True)
        self.meanwhile(calls, "crash")
        self.settle()

    # These rules move the time and run the agent.

    @rule(seconds=st.sampled_from([1, 4, 10, 60, 900, 7200, 86_400, 5 * 86_400]))
    def wait(self, seconds: float) -> None:
        self._alive(lambda: self.robot.pass_time(seconds))

    @rule()
    def settle(self) -> None:
        """Wait for the time that a finished file needs until it is sent."""
        self._alive(lambda: self.robot.pass_time(16, steps=6))

    @rule(calls=CALLS, what=st.sampled_from([*TO_FILE, *TO_AGENT]))
    def meanwhile(self, calls: int, what: str) -> None:
        """Plan an event within an upload, perhaps much later."""
        self.plan.append((calls, what))

    @rule(name=NAMES, size=SIZES, calls=CALLS, what=st.sampled_from([*TO_FILE, *TO_AGENT]))
    def disturbed_upload(self, name: str, size: int, calls: int, what: str) -> None:
        self.drop(name, size, "write", noticed=True)
        self.meanwhile(calls, what)
        self.settle()

    @rule(name=NAMES, size=SIZES, calls=CALLS)
    def interrupted_upload(self, name: str, size: int, calls: int) -> None:
        self.disturbed_upload(name, size, calls, "crash")

    @rule()
    def retain(self) -> None:
        """Delete uploaded recordings at once."""
        self._alive(self.robot.retention.delete_due)

    @rule()
    def power_cycle(self) -> None:
        self._restart()

    @rule(now=st.sampled_from([0.0, 1_000.0, "+1 year", "-1 hour", "true"]))
    def jump(self, now: float | str) -> None:
        clock, true = self.robot.clock, self.store.true.now()
        named = {"+1 year": true + 365 * 86_400, "-1 hour": true - 3600, "true": true}
        clock.set_now(named[now] if isinstance(now, str) else now)

    # These rules change the cloud.

    @rule(
        call=st.sampled_from(STORE_CALLS),
        code=st.sampled_from(sorted(STORE_ERRORS)),
        times=TIMES,
        lost=st.booleans(),
    )
    def store_fails(self, call: str, code: str, times: int, lost: bool) -> None:
        if (call, code) == ("AbortMultipartUpload", "AccessDenied"):
            # A store that forbids the call leaves orphans to the bucket's lifecycle rule.
            return
        if (call, code) == ("ListMultipartUploads", "AccessDenied"):
            self.listing_refused = True
        error = CloudError(call, code, status=STORE_ERRORS[code])
        self.store.fail(call, error=error, times=times, lost=lost and code in MAYBE_DONE)

    @rule(
        call=st.sampled_from(GATEWAY_CALLS),
        code=st.sampled_from(GATEWAY_ERRORS),
        times=TIMES,
        lost=st.booleans(),
    )
    def gateway_fails(self, call: str, code: str, times: int, lost: bool) -> None:
        error = CloudError(call, code)
        self.robot.gateway.fail(call, error=error, times=times, lost=lost and code in MAYBE_DONE)

    @rule(times=st.sampled_from([1, 3, 50]))
    def damage_parts(self, times: int) -> None:
        self.store.flip(times)

    @rule(seconds=st.sampled_from([20.0, 90.0, 3600.0]))
    def shorten(self, seconds: float) -> None:
        self.robot.gateway.lease_seconds = self.robot.gateway.token_seconds = seconds

    @rule(asset=st.sampled_from([PROFILE.asset_id, OTHER.asset_id, ""]))
    def bind(self, asset: str) -> None:
        self.robot.assets["robot"] = asset
        self._alive(self.robot.dispatch.cause_changed)

    @rule(missing=st.booleans())
    def profile_file(self, missing: bool) -> None:
        self.robot.profiles.error = (
            CloudError("DeviceProfiles", "profile_file") if missing else None
        )
        self._alive(self.robot.dispatch.cause_changed)

    @rule(full=st.booleans())
    def disk(self, full: bool) -> None:
        self.robot.history.full = full

    @rule()
    def mend(self) -> None:
        self.store.mend()
        self.robot.gateway.mend()
        self.robot.history.full = False
        self.robot.profiles.error = None

    # These invariants must hold.

    @invariant()
    def promises_hold(self) -> None:
        self._nothing_forbidden_happened()
        self._what_has_ended_never_changes_and_is_stored()
        self._ids_only_go_up_and_one_document_of_a_recording_is_live()
        self._a_recording_is_completed_once()
        self._each_marker_is_served_once()

    def _nothing_forbidden_happened(self) -> None:
        assert not self.store.complaints, self.store.complaints

    def _what_has_ended_never_changes_and_is_stored(self) -> None:
        for log in self.robot.history.documents.values():
            if log.id in self.ended:
                assert log == self.ended[log.id]
            elif not log.open:
                assert log.error is not None or log.status == "completed"
                assert log.error is None or log.error.code not in {"bug", "io_error"}, log.error
                if log.status == "completed":
                    assert self.robot.stored(log) == self.whole[log.fingerprint]
                SEEN[log.status] += 1
                SEEN[f"failed: {log.error.code}" if log.error else "completed"] += 1
                self.ended[log.id] = log

    def _ids_only_go_up_and_one_document_of_a_recording_is_live(self) -> None:
        ids = set(self.robot.history.documents)
        assert self.known <= ids
        assert all(id_ > max(self.known, default=0) for id_ in ids - self.known)
        self.known = ids
        live = Counter(log.fingerprint for log in self.robot.history.open())
        assert all(count == 1 for count in live.values())

    def _a_recording_is_completed_once(self) -> None:
        # A document that tells of a late sidecar uploads nothing.
        completed = [
            log
            for log in self.ended.values()
            if log.status == "completed" and log.trigger != "sidecar"
        ]
        found = [log for log in completed if not log.resync]
        assert len({log.fingerprint for log in found}) == len(found)
        assert len({log.object_key for log in completed}) == len(completed)

    def _each_marker_is_served_once(self) -> None:
        asked = Counter(
            Path(log.path)
            for log in self.robot.history.documents.values()
            if log.trigger == "marker"
        )
        for path, documents in asked.items():
            beside = {path.with_name(f"{path.name}{suffix}") for suffix in (".resync", ".first")}
            above = {folder / ".resync" for folder in path.parents}
            touches = sum(
                count
                for marker, count in self.marks.items()
                if marker in beside | above or marker.parent == self.robot.marked
            )
            assert documents <= touches, f"{path} was sent again more often than somebody asked for"
        SEEN["resync"] += bool(asked)

    def teardown(self) -> None:
        """End all faults: each complete recording ends, and nothing is left over."""
        try:
            self._cease()
            self.promises_hold()
            self._check_the_end()
            self._check_what_is_kept()
        finally:
            marker_file.unlink = self.unlink
            shutil.rmtree(self.place)

    def _cease(self) -> None:
        self.mend()
        self.plan.clear()
        self.robot.clock.set_now(self.store.true.now())
        self.robot.gateway.lease_seconds = self.robot.gateway.token_seconds = 3600
        self.robot.assets["robot"] = PROFILE.asset_id
        self.robot.dispatch.cause_changed()
        for _ in range(50):
            for seconds in (3, 3, 6, 60, 1800):
                self.robot.clock.advance(seconds)
                self.robot.run_due_work()
            if not self.robot.history.open() and not self.robot.history.orphans():
                break
        # A scan checks a complete file again only every fifth time. A requested scan checks all
        # files. The files that it finds have their documents only some steps later.
        for _ in range(3):
            self.robot.discover.rescan()
            self.robot.pass_time(120, steps=20)
        self.robot.pass_time(4000, steps=20)

    def _check_the_end(self) -> None:
        assert list(self.robot.history.open()) == []
        self._check_that_each_recording_ended()
        self._check_that_no_marker_is_left()
        held = {multipart.place[1] for multipart in self.store.multiparts.values()} - self.excused
        assert not held or self.listing_refused, "multiparts left in the bucket"
        assert list(self.robot.history.orphans()) == []
        self._check_that_nothing_is_stored_twice()

    def _check_that_each_recording_ended(self) -> None:
        for path in sorted(self.robot.folder.rglob("*.mcap")):
            content = path.read_bytes()
            name = _fingerprint(content)
            if self.whole.get(name) != content:
                continue
            log = self.robot.history.newest(name)
            assert log is not None, f"{path} was never queued: {self.robot.discover.state(path)}"
            assert log.status == "completed" or self._rightly_failed(log, content), log

    def _check_that_no_marker_is_left(self) -> None:
        for marker in (
            *self.robot.folder.rglob("*.mcap.resync"),
            *self.robot.folder.rglob("*.mcap.first"),
        ):
            # A marker without its recording is rejected.
            content = marker.with_suffix("").read_bytes()
            assert self.whole.get(_fingerprint(content)) != content, f"{marker} was never served"
        leftover = [*self.robot.folder.rglob(".resync"), *self.robot.marked.glob("*.resync")]
        assert leftover == []
        assert self.robot.history.markers == {}

    def _check_that_nothing_is_stored_twice(self) -> None:
        """Find at most one object for each document that is completed or failed with a key."""
        keys = {log.object_key for log in self.robot.history.documents.values()}
        contents = Counter(
            _fingerprint(content)
            for (_, key), (content, _) in self.store.objects.items()
            if key in keys
        )
        completed = Counter(
            log.fingerprint for log in self.ended.values() if log.status == "completed"
        )
        failed = Counter(
            log.fingerprint
            for log in self.ended.values()
            if log.status == "failed" and log.object_key
        )
        for name, count in completed.items():
            assert contents[name] <= count + failed[name], "stored twice"

    def _check_what_is_kept(self) -> None:
        """Delete what is uploaded, and nothing else.

        A recording that was written to since it was queued stays.
        """
        before = {path: path.read_bytes() for path in self.robot.folder.rglob("*.mcap")}
        uploaded = set()
        for path, content in before.items():
            log = self.robot.history.newest(_fingerprint(content))
            if (
                log is not None
                and log.status == "completed"
                and utc_text(path.stat().st_mtime) == log.mtime
            ):
                uploaded.add(path)
        self.robot.clock.advance(100_000)
        self.robot.retention.delete_due()
        assert not self.store.complaints, self.store.complaints
        assert before.keys() - set(self.robot.folder.rglob("*.mcap")) == uploaded

    def _rightly_failed(self, log: SyncLog, content: bytes) -> bool:
        assert log.error is not None
        if log.error.code == "sidecar_invalid" and log.fingerprint in self.twins:
            # The sidecar of the recording's other name was bad. When that name disappears, the
            # recording is not examined again.
            return True
        if log.error.code == "sidecar_invalid":
            names = [
                path for path in self.robot.folder.rglob("*.mcap") if path.read_bytes() == content
            ]
            sidecars = [path.with_suffix(".json") for path in names]
            return any(path.exists() and path.read_text() == "[1" for path in sidecars)
        if log.error.kind == "final":
            return log.error.code in {"INVALID_ARGUMENT", "EntityTooLarge"}
        return log.attempt_count >= 5

    # These functions do the work of the rules.

    def _alive(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Crash:
            self._restart()

    def _restart(self) -> None:
        SEEN["restart"] += 1
        full = self.robot.history.full
        self.robot.restart()
        self.robot.history.full = full
        self._witness()

    def _witness(self) -> None:
        """Record what discovery offers and what retention deletes; space is always short."""
        self.robot.retention = self.robot.retaining(keep_seconds=0, min_free=1e18)
        deletion = self.robot.retention._recordings._deletion
        step = self.robot.discover.step
        self.robot.discover.step = lambda: self._check_offer(step())  # type: ignore[method-assign] # the simulation watches it
        verified_file = deletion.verified_file

        @contextmanager
        def witnessed(path: Path, wanted: str, mtime: str) -> Iterator[VerifiedFile]:
            content = path.read_bytes() if path.exists() else b""
            with verified_file(path, wanted, mtime) as file:
                yield file
            if not path.exists():
                self._check_deletion(path, content)

        deletion.verified_file = witnessed  # type: ignore[method-assign] # the simulation watches it

    def _run_planned_events(self, call: str, *, at_store: bool = False) -> None:
        """Before a call, let the planned events happen."""
        SEEN[call] += 1
        due = [what for calls, what in self.plan if calls <= 1 and (at_store or what != "turn")]
        self.plan = [
            (calls - 1, what)
            for calls, what in self.plan
            if calls > 1 or (what == "turn" and not at_store)
        ]
        for what in due:
            self._happen(what)

    def _happen(self, what: str) -> None:
        SEEN[what] += 1
        robot = self.robot
        if what in TO_FILE:
            for claim in robot.dispatch.in_flight()[:1]:
                self._disturb(what, Path(claim.log.path), noticed=False)
        elif what == "turn":
            robot.run_due_work()
        elif what in {"wait", "days"}:
            robot.clock.advance(45 if what == "wait" else 200_000)
        elif what == "expire_leases":
            robot.gateway.expire_leases()
        elif what == "expire_tokens":
            robot.gateway.expire_tokens()
        elif what == "fill_disk":
            robot.history.full = True
        elif what == "lose_object":
            self._lose_object()
        elif what == "end_session":
            self._end_session()
        else:
            raise Crash

    def _open_sessions(self) -> Iterator[SyncLog]:
        for log in self.robot.history.open():
            kept = log.session and self.robot.gateway.sessions.get(log.session.logical_upload_id)
            if kept and kept.stage == "active":
                yield log

    def _lose_object(self) -> None:
        """Let the platform find out that a stored object is gone."""
        for log in self._open_sessions():
            if self.store.objects.pop((log.require_session().bucket, log.object_key), None):
                self.robot.gateway.sessions[
                    log.require_session().logical_upload_id
                ].stage = "completing"
                return

    def _end_session(self) -> None:
        for log in self._open_sessions():
            self.robot.gateway.sessions[log.require_session().logical_upload_id].stage = "terminal"
            self.excused.add(log.object_key)
            return

    def _check_offer(self, offered: list[Recording | Damaged]) -> list[Recording | Damaged]:
        for found in offered:
            if isinstance(found, Damaged):
                self.store.complaints.append(f"{found.path} is called damaged: {found.reason}")
            elif self.whole.get(str(found.fingerprint)) != found.path.read_bytes():
                self.store.complaints.append(f"{found.path} was offered unfinished")
            elif self.robot.clock.monotonic() < self.changed.get(found.path, 0) + 2:
                self.store.complaints.append(f"{found.path} was offered before it had settled")
        return offered

    def _check_deletion(self, path: Path, content: bytes) -> None:
        """Check that what retention deleted is in the bucket byte for byte."""
        SEEN["deleted"] += 1
        log = self.robot.history.newest(_fingerprint(content))
        if log is None or log.status != "completed" or self.robot.stored(log) != content:
            self.store.complaints.append(f"{path} was deleted, but is not stored: {log}")

    def _unlink(self, marker: Marker) -> None:
        """Remove a marker, which is allowed only when its outcome is durable.

        The power may fail before and after the removal.
        """
        try:
            self._run_planned_events("unlink")
        except Crash:
            SEEN["lost between serving and removing"] += 1
            raise
        served = self.robot.history.markers.get(marker.path)
        reason = Path(f"{marker.path}.rejected")
        if (served is None or served.through is not None) and not reason.exists():
            self.store.complaints.append(f"{marker} was removed, but not served")
        if self.read_only:
            SEEN["can't be removed"] += 1
            raise OSError(errno.EROFS, "Read-only file system")
        self.unlink(marker)
        self._run_planned_events("unlinked")

    def _drop_marker(self, path: Path, *, noticed: bool) -> None:
        path.touch()
        self._stamp(path)
        self.marks[path] += 1
        if noticed:
            self.robot.discover.sight(Sighting(path))

    def _path(self, name: str) -> Path:
        return self.robot.folder / f"{name}.mcap"

    def _recording(self, size: int) -> bytes:
        """Return a complete recording that differs from all before."""
        content = write_mcap(
            self.place / "aside.mcap", size=size, seed=next(self.seeds)
        ).read_bytes()
        self.whole[_fingerprint(content)] = content
        return content

    def _put(self, path: Path, content: bytes, way: str, *, noticed: bool = False) -> None:
        self.growing.pop(path, None)
        if way == "write":
            path.write_bytes(content)
            self._stamp(path)
        else:
            aside = self.place / "moved"
            aside.write_bytes(content)
            self._stamp(aside)
            aside.rename(path)
        self.changed[path] = self.robot.clock.monotonic()
        if noticed:
            self.robot.discover.sight(Sighting(path))

    def _disturb(self, what: str, path: Path, *, noticed: bool) -> None:
        if not path.exists():
            return
        self.changed[path] = self.robot.clock.monotonic()
        content = path.read_bytes()
        if what == "touch":
            self._stamp(path)
        elif what == "rename":
            path.rename(path.with_name(f"{path.stem}-.mcap"))
            self.growing.pop(path, None)
        elif what == "delete":
            path.unlink()
            self.growing.pop(path, None)
        elif what in {"replace", "rewrite"}:
            self._put(path, self._recording(len(content)), "move" if what == "replace" else "write")
        elif len(content) > 100:
            # Fewer bytes are not the beginning of a recording.
            self._put(
                path,
                content + b"more" if what == "append" else content[: len(content) // 2],
                "write",
            )
        if noticed:
            self.robot.discover.sight(Sighting(path))

    def _stamp(self, path: Path) -> None:
        """Set times so that no two writes have the same one.

        The kernel's own times are too coarse for a clock that stands still.
        """
        moment = next(self.stamps) * 1_000_000_000
        os.utime(path, ns=(moment, moment))


def _fingerprint(content: bytes) -> str:
    """Return the fingerprint of a file so small that it is hashed as a whole."""
    return f"{len(content)}-{hashlib.sha256(content).hexdigest()}"


@pytest.fixture
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def simulate(runs: int, least: int) -> None:
    """Run the simulation ``runs`` times, and check that each end was met ``least`` times."""
    SEEN.clear()
    run_state_machine_as_test(
        Simulation,
        settings=settings(
            max_examples=runs,
            stateful_step_count=STEPS,
            derandomize=not SOAK,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    ends = ("completed", "crash", "failed", "deleted", "resync", "can't be removed")
    assert min(SEEN[end] for end in ends) >= least, SEEN


@pytest.mark.usefixtures("_quiet")
@pytest.mark.timeout(600)
def test_what_is_promised_holds_in_a_few_runs() -> None:
    simulate(30, least=1)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.timeout(0 if SOAK else 900)
@pytest.mark.slow
def test_what_is_promised_holds_whatever_happens() -> None:
    simulate(RUNS, least=RUNS // 2)
    assert set(STORE_CALLS) | set(GATEWAY_CALLS) | set(TO_FILE) | set(TO_AGENT) <= set(SEEN)
    assert SEEN["lost between serving and removing"] >= RUNS // 20, SEEN
