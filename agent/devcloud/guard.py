"""Keeps one server process running exactly as long as the process that started the guard.

Run this module as a program: ``python guard.py COMMAND...``. Its standard input is a pipe, and only
the parent holds the other end. When the parent ends in any way, the pipe ends, and the guard stops
the server. When the guard itself is killed, the kernel kills the server. The guard is a process of
its own because the parent has gRPC threads, and a process with threads cannot safely run code
between fork and exec.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

# The number of this option in prctl(2).
_PR_SET_PDEATHSIG = 1

# How long the server may take to end after SIGTERM. Then it is killed.
_GRACE_SECONDS = 5.0


def _die_with_guard() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _stop_with_parent(server: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    server.terminate()
    timer = threading.Timer(_GRACE_SECONDS, server.kill)
    timer.daemon = True
    timer.start()


def main(command: Sequence[str]) -> int:
    """Run ``command`` until it ends or the parent is gone. Return its exit code."""
    server = subprocess.Popen(  # noqa: S603 - the command comes from the parent
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=_die_with_guard,  # noqa: PLW1509 - there is no second thread yet
    )
    threading.Thread(target=_stop_with_parent, args=(server,), daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    sys.exit(abs(main(sys.argv[1:])))
