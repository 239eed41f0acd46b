"""Tells systemd how the service is doing, by the datagrams of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping

from agent.model.printable import printable

_log = logging.getLogger(__name__)

# How long a datagram may wait for a service manager that does not read.
_SEND_TIMEOUT_SECONDS = 5.0

_STATUS_MAX_CHARACTERS = 200


class SystemdNotifier:
    """Sends the state of the agent to the service manager that started it.

    systemd learns from it that the agent is ready, that a reload is over, and that the agent is
    still at work. Without a service manager nothing is sent.

    No method raises: the agent works the same when its manager can't be reached. Any thread may
    use it, but only one thread may call :meth:`status`.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read from the environment variables ``environ`` what the service manager wants."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._status = ""
        # Seconds from one sign of life to the next; infinite when none is wanted.
        self.beat = _beat_seconds(environ) if self._address else float("inf")

    def ready(self) -> None:
        """Say that the start, or a reload, is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that a reload has begun. It ends with :meth:`ready`.

        systemd wants the monotonic time of its beginning, in microseconds.
        """
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def alive(self) -> None:
        """Give a sign of life.

        Call it every ``beat`` seconds. systemd kills the agent after twice that time without one.
        """
        if self.beat < float("inf"):
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Say in one line how the agent is doing, for `systemctl status`.

        It is sent only when it has changed.
        """
        # A second line would be another message to systemd.
        line = printable(" ".join(text.split()))[:_STATUS_MAX_CHARACTERS]
        if line != self._status:
            self._status = line
            self._send(f"STATUS={line}")

    def stopping(self) -> None:
        """Say that the agent has begun to stop."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_TIMEOUT_SECONDS)
                sender.sendto(message.encode("utf-8", "replace"), self._address)
        except OSError as error:
            _log.debug(
                "the service manager could not be told %s: %s",
                message,
                error,
                extra={"event": "notify_failed"},
            )


def _address(named: str) -> bytes:
    """Return the address of a socket on the disk or, with an ``@``, of an abstract one.

    The result is empty for anything else.
    """
    if named.startswith("@"):
        return b"\0" + os.fsencode(named[1:])
    return os.fsencode(named) if named.startswith("/") else b""


def _beat_seconds(environ: Mapping[str, str]) -> float:
    """Return half of the time that systemd waits for a sign of life; infinite when it does not.

    The variables of another process, such as the parent's, do not count.
    """
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return float("inf")
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not (microseconds.isascii() and microseconds.isdigit()):
        return float("inf")
    return float(microseconds) / 2e6 or float("inf")
