"""Run a command and print its cost as one line of JSON: ``python -I -S launch.py COMMAND…``.

This is a small process of its own, because Linux counts the memory that a parent held when it
started a child as part of the child's peak. CPU is that of the command and of all processes it
waited for. The peak is that of the largest among them.
"""

import json
import os
import sys
import time

began = time.monotonic()
pid = os.posix_spawnp(
    sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)]
)
_, status, usage = os.wait4(pid, 0)
print(
    json.dumps(
        {
            "code": os.waitstatus_to_exitcode(status),
            "wall": time.monotonic() - began,
            "cpu": usage.ru_utime + usage.ru_stime,
            "peak": usage.ru_maxrss / 1024,
        }
    )
)
