"""Runs jobs again and again, every so many seconds, with APScheduler.

This is the only module that knows the library.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

from apscheduler.events import (
    EVENT_JOB_ERROR,
    EVENT_JOB_MAX_INSTANCES,
    JobExecutionEvent,
    JobSubmissionEvent,
)
from apscheduler.executors.pool import BasePoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

_log = logging.getLogger(__name__)

_SECOND = timedelta(seconds=1)

# Some jobs may hang for a while, in the network or at a disk. The others must run nevertheless.
_THREADS = 6

# How often the log tells that a job still runs at its next time.
_SKIPPED_INTERVAL_SECONDS = 3600.0


class Every(BaseTrigger):  # type: ignore[misc] # apscheduler has no types
    """A trigger of APScheduler that fires one period after the present.

    The triggers of the library fire at dates that are fixed before. When the wall clock jumps,
    such a job is not run for long, or many times in a row.

    A period of a second or more ends on a full second, so that jobs which wake the machine up do
    so together.
    """

    def __init__(self, seconds: float) -> None:
        """Fire every ``seconds``."""
        self.period = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return one period after ``now``, less the part of a second; ``now`` the first time."""
        if previous_fire_time is None:
            return now
        due = now + self.period
        return due.replace(microsecond=0) if self.period >= _SECOND else due


class _ThreadsFromTheStart(BasePoolExecutor):  # type: ignore[misc] # apscheduler has no types
    """A pool whose threads all exist before the first job.

    A pool that needs one more thread and does not get it keeps the job that it has refused, and
    runs it some time later, perhaps at the same time as its next run. This pool never needs one
    more.
    """

    def __init__(self) -> None:
        """Start all threads.

        Raises:
            RuntimeError: The system refuses a thread.
        """
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="scheduler")
        # Each thread waits until all of them have started. So no thread takes two of these jobs.
        together = threading.Barrier(_THREADS)
        try:
            for _ in range(_THREADS):
                pool.submit(together.wait)
        except BaseException:
            together.abort()
            raise
        super().__init__(pool)


class Scheduler:
    """Runs jobs in a few threads, each job at most once at a time.

    It exists so that no feature needs a thread of its own for what is done from time to time.

    Any thread may use it.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Start the threads of the pool. No job runs before :meth:`start`.

        Args:
            monotonic: Returns the time in seconds.

        Raises:
            RuntimeError: The system refuses a thread.
        """
        self._monotonic = monotonic
        self._next_skipped = float("-inf")
        # The library warns each time that a job is due while it still runs. Some jobs may take
        # long, such as the reading of whole files before retention deletes them.
        logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)
        self._scheduler = BackgroundScheduler(
            executors={"default": _ThreadsFromTheStart()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone=timezone.utc,
        )
        self._scheduler.add_listener(_report_job_error, EVENT_JOB_ERROR)
        self._scheduler.add_listener(self._report_skipped, EVENT_JOB_MAX_INSTANCES)

    @property
    def running(self) -> bool:
        """Whether the scheduler runs jobs."""
        return bool(self._scheduler.running)

    def set(self, jobs: Iterable[tuple[Callable[[], Any], float]]) -> None:
        """Run these jobs from now on, and no others.

        ``jobs`` are functions with the seconds between their runs. Each job runs at once and then
        after every period. What it raises is logged. A job that replaces another one of the same
        name does not run at the same time as that one.
        """
        wanted = {job.__qualname__: (job, Every(seconds)) for job, seconds in jobs}
        for known in self._scheduler.get_jobs():
            if known.id not in wanted:
                known.remove()
        for name, (job, every) in wanted.items():
            self._scheduler.add_job(job, every, id=name, replace_existing=True)

    def start(self) -> None:
        """Begin to run the jobs."""
        self._scheduler.start()

    def stop(self) -> None:
        """Run no more jobs. A job that is running is not waited for."""
        self._scheduler.shutdown(wait=False)

    def pull_back(self) -> None:
        """Run those jobs now whose next run lies too far ahead.

        This happens when the wall clock was set back.
        """
        now = datetime.now(timezone.utc)
        for job in self._scheduler.get_jobs():
            if job.next_run_time is not None and job.next_run_time > now + 2 * job.trigger.period:
                job.modify(next_run_time=now)

    def _report_skipped(self, event: JobSubmissionEvent) -> None:
        """Log that a job was skipped. Only the library's thread calls this."""
        now = self._monotonic()
        if now < self._next_skipped:
            return
        self._next_skipped = now + _SKIPPED_INTERVAL_SECONDS
        _log.info(
            "scheduled job %s is skipped once, because it still runs",
            event.job_id,
            extra={"event": "job_skipped"},
        )


def _report_job_error(event: JobExecutionEvent) -> None:
    _log.error(
        "scheduled job %s failed: %s",
        event.job_id,
        event.exception,
        extra={"event": "bug"},
        exc_info=event.exception,
    )
