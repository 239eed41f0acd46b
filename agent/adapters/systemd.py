"""sd_notify(3): datagrams that tell the service manager how its service is doing. Without one nothing is sent."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

_log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds for a manager that does not read
_LONGEST = 200  # characters of a status


class SystemdNotifier:
    """Never raises: an agent works whether its manager hears of it or not."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """``environ`` has what the manager asks for, if there is one."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._status = ""
        self.beat = _beat(environ) if self._address else float("inf")
        """Seconds from one sign of life to the next; infinite when nobody asks for any."""

    def ready(self) -> None:
        """The start, or a reload, is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Another configuration is read; ``ready`` ends that. The manager wants to know when that was (monotonic)."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def alive(self) -> None:
        """All is at work. To be called every ``beat`` seconds, or the manager kills the agent."""
        if self.beat < float("inf"):
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """How things stand, for `systemctl status`; sent when it has changed."""
        line = " ".join(text.split())[:_LONGEST]  # a second line would be another message
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_PATIENCE)
                sender.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            _log.debug(
                "the service manager does not hear %s: %s",
                message,
                error,
                extra={"event": "notify_failed"},
            )


def _address(named: str) -> bytes:
    """Of a socket on disk or, with an ``@``, in the kernel's own name space; empty for anything else."""
    if named.startswith("@"):
        return b"\0" + os.fsencode(named[1:])
    return os.fsencode(named) if named.startswith("/") else b""


def _beat(environ: Mapping[str, str]) -> float:
    """Half of what the manager waits for a sign of life from this very process."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return float("inf")
    asked = environ.get("WATCHDOG_USEC", "")
    return (float(asked) / 2e6 if asked.isascii() and asked.isdigit() else 0) or float("inf")
