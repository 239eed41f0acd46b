"""`run`: the daemon in the foreground."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
from pathlib import Path

import click

from agent import __version__
from agent.adapters import logs
from agent.adapters.accepted import AcceptedConfigurations
from agent.adapters.config import Loaded, Settings, load
from agent.assembly.app import App
from agent.assembly.reload import AskedQueue
from agent.cli.options import configuration_at_start, with_config

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
    signal.signal(
        signal.SIGHUP, lambda *_: asked.put("reload")
    )  # a terminal that closes ends nothing
    loaded, newer = configuration_at_start(config_path)
    settings = loaded.settings
    redactor = _log_by(settings)
    try:
        if newer:
            text = "version %s does not know and ignores %s: version %s accepted this configuration"
            names = ", ".join(loaded.unknown_keys)
            _log.warning(text, __version__, names, newer, extra={"event": "unknown_keys"})
        app = App(settings, os.environ, hide=redactor.hide, unknown_keys=loaded.unknown_keys)
        _note_accepted(settings, loaded)

        def reload() -> None:
            before = app.settings.log
            read: list[Loaded] = []

            def read_again() -> Settings:
                # Whoever changes the configuration now is there to mend it: unknown keys are refused.
                read.append(load(config_path, os.environ))
                return read[0].settings

            if app.reload(read_again):
                _note_accepted(app.settings, read[0])
            if app.settings.log != before:
                _log_by(app.settings, redactor)

        app.run(asked, reload)
    finally:
        logs.stop()
    # Threads may still hang in the network; Python would wait for them, and the states are saved.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _note_accepted(settings: Settings, accepted: Loaded) -> None:
    """Write down, in the state folder in use, what this version works by, for an older one to start with."""
    try:
        AcceptedConfigurations(settings.agent.state_dir).note(__version__, accepted.canonical)
    except OSError as error:
        text = "that this configuration was accepted can't be written down: %s"
        _log.warning(text, error, extra={"event": "accepted_not_noted"})


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
