"""APScheduler: what is done every so many seconds, whatever the clock does. The only room that knows the library."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

from apscheduler.events import EVENT_JOB_ERROR, JobExecutionEvent
from apscheduler.executors.pool import BasePoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

_log = logging.getLogger(__name__)

_SECOND = timedelta(seconds=1)
# The library warns each time that a job is due while it still runs. Some jobs may take long: what
# retention reads before it deletes, for one.
logging.getLogger("apscheduler.scheduler").setLevel(logging.ERROR)

_THREADS = 6  # some jobs may hang for a while, in the network or at a disk; the others must not


class Every(BaseTrigger):  # type: ignore[misc] # apscheduler has no types
    """Fires a period after now, never at a date fixed before: a clock that jumps neither stalls nor floods it.

    From a second on, on the second: jobs that wake the machine wake it together.
    """

    def __init__(self, seconds: float) -> None:
        """``seconds`` is the period."""
        self.period = timedelta(seconds=seconds)

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """A period after ``now``, or less by part of a second; at once the first time."""
        if previous_fire_time is None:
            return now
        due = now + self.period
        return due.replace(microsecond=0) if self.period >= _SECOND else due


class _ThreadsFromTheStart(BasePoolExecutor):  # type: ignore[misc] # apscheduler has no types
    """A pool whose threads are all there before the first job.

    A pool that needs one more thread and does not get it keeps the job that it has refused, and runs it some time
    later, perhaps beside itself. This pool never needs one more.
    """

    def __init__(self) -> None:
        """Raises RuntimeError where the system refuses a thread."""
        pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="scheduler")
        together = threading.Barrier(_THREADS)
        try:
            for _ in range(_THREADS):
                pool.submit(together.wait)
        except BaseException:
            together.abort()
            raise
        super().__init__(pool)


class Scheduler:
    """Jobs in a few threads, each at most once at a time."""

    def __init__(self) -> None:
        """Nothing is done yet."""
        self._scheduler = BackgroundScheduler(
            executors={"default": _ThreadsFromTheStart()},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
            timezone=timezone.utc,
        )
        self._scheduler.add_listener(_report_job_error, EVENT_JOB_ERROR)

    @property
    def running(self) -> bool:
        """Whether anything is done."""
        return bool(self._scheduler.running)

    def set(self, jobs: Iterable[tuple[Callable[[], Any], float]]) -> None:
        """Have these done, and nothing else: at once and then again and again, every so many seconds.

        What one raises is logged. One that takes the place of another with its name does not run beside it.
        """
        wanted = {job.__qualname__: (job, Every(seconds)) for job, seconds in jobs}
        for known in self._scheduler.get_jobs():
            if known.id not in wanted:
                known.remove()
        for name, (job, every) in wanted.items():
            self._scheduler.add_job(job, every, id=name, replace_existing=True)

    def start(self) -> None:
        """Begin."""
        self._scheduler.start()

    def stop(self) -> None:
        """Begin nothing more; what runs is not waited for."""
        self._scheduler.shutdown(wait=False)

    def pull_back(self) -> None:
        """After the clock went back a job may be dated far ahead: date it anew."""
        now = datetime.now(timezone.utc)
        for job in self._scheduler.get_jobs():
            if job.next_run_time is not None and job.next_run_time > now + 2 * job.trigger.period:
                job.modify(next_run_time=now)


def _report_job_error(event: JobExecutionEvent) -> None:
    _log.error(
        "scheduled job %s failed: %s",
        event.job_id,
        event.exception,
        extra={"event": "bug"},
        exc_info=event.exception,
    )
