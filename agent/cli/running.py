"""`run`: the daemon in the foreground."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

import click

from agent.app import App
from agent.cli.options import settings_of, with_config
from agent.edges import logs
from agent.edges.config import Settings
from agent.reload import AskedQueue

_log = logging.getLogger(__name__)

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3  # of mallopt(3)
_LARGE = 256 * 1024  # bytes


@click.command()
@with_config
def run(config_path: Path | None) -> None:
    """Watch, upload and report until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    _spare_memory()
    asked = AskedQueue()
    signal.set_wakeup_fd(asked.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.put("stop"))
    signal.signal(signal.SIGHUP, lambda *_: asked.put("reload"))  # a terminal that closes ends nothing
    settings = settings_of(config_path)
    redactor = _log_by(settings)
    try:
        app = App(settings, os.environ, hide=redactor.hide)

        def reload() -> None:
            before = app.settings.log
            app.reload(lambda: settings_of(config_path))
            if app.settings.log != before:
                _log_by(app.settings, redactor)

        app.run(asked, reload)
    finally:
        logs.stop()
    # Threads may still hang in the network; Python would wait for them, and the states are saved.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _spare_memory() -> None:
    """Some 8 MiB less with 100,000 files.

    glibc gives each thread a heap of its own, and what one frees no other can use; and once a large column was freed,
    it keeps those that follow in the heap, where they leave holes when they grow.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has none
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def _log_by(settings: Settings, redactor: logs.Redactor | None = None) -> logs.Redactor:
    log = settings.log
    return logs.start(log.level, log.dir, log.max_mib, log.files, redactor=redactor)
