"""Runs the real command with short periods of the retention, so that no test waits for them.

Run as a program: ``python -m tests.harness.quick_retention ARGUMENTS…``.
"""

from __future__ import annotations

from agent.__main__ import main
from agent.assembly import jobs
from agent.retention import uploaded_recordings

# The time between two runs of the retention, and between two readings of the history.
_PERIOD_SECONDS = 0.3

if __name__ == "__main__":
    jobs._RETENTION_SECONDS = _PERIOD_SECONDS
    uploaded_recordings._READ_SECONDS = _PERIOD_SECONDS
    uploaded_recordings._PAUSE_FACTOR = 1
    main()
