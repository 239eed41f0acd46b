"""Keeps one server process running exactly as long as the process that asked for it.

Run as a program: ``python guard.py COMMAND...``. Its standard input is a pipe of which only the asker holds the other
end, so the asker's death, of whatever kind, shows as the end of that pipe. Should the guard itself be killed, the
kernel ends the server with it. All of this happens in a process without threads, away from the asker's gRPC threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1  # prctl(2)
_GRACE_SECONDS = 5.0


def _die_with_the_guard() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_the_asker(server: subprocess.Popen[bytes]) -> None:
    while os.read(0, 4096):
        pass
    server.terminate()
    timer = threading.Timer(_GRACE_SECONDS, server.kill)
    timer.daemon = True
    timer.start()


def main(command: Sequence[str]) -> int:
    """Run ``command`` until it ends or the asker is gone; return its exit code."""
    server = subprocess.Popen(  # noqa: S603 - the command comes from the asker
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=_die_with_the_guard,  # noqa: PLW1509 - there is no second thread yet
    )
    threading.Thread(target=_end_with_the_asker, args=(server,), daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    sys.exit(abs(main(sys.argv[1:])))
