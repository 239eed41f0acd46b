"""`run`: the daemon in the foreground."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from agent.app import App
from agent.cli.options import settings_of, with_config
from agent.edges import logs


@click.command()
@with_config
def run(config_path: Path | None) -> None:
    """Watch, upload and report until SIGTERM or SIGINT."""
    settings = settings_of(config_path)
    log = settings.log
    redactor = logs.start(log.level, log.dir, log.max_mib, log.files)
    app = App(settings, os.environ, hide=redactor.hide)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: app.request_stop())
    try:
        app.run()
    finally:
        logs.stop()
