"""`run`: the daemon in the foreground."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path

import click

from agent.app import App
from agent.cli.options import settings_of, with_config
from agent.edges import logs

_log = logging.getLogger(__name__)


@click.command()
@with_config
def run(config_path: Path | None) -> None:
    """Watch, upload and report until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a terminal that closes ends nothing
    settings = settings_of(config_path)
    log = settings.log
    redactor = logs.start(log.level, log.dir, log.max_mib, log.files)
    try:
        App(settings, os.environ, hide=redactor.hide).run(stop)
    finally:
        logs.stop()
    # Threads may still hang in the network; Python would wait for them, and the states are saved.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
