"""`run`: runs the agent in the foreground, as the service does."""

from __future__ import annotations

import ctypes
import logging
import os
import resource
import signal
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import click

from agent import __version__
from agent.adapters import logs
from agent.adapters.accepted import AcceptedConfigurations
from agent.adapters.config import ConfigError, Loaded, Settings, load
from agent.adapters.config.sections import AgentSettings, LogSettings
from agent.adapters.failure_file import FailureFile
from agent.assembly.app import App
from agent.assembly.ports import open_ports
from agent.assembly.reload import AskedQueue
from agent.cli.options import configuration_at_start, with_config
from agent.model.errors import AgentError, HistoryLockedError
from agent.model.values import utc_text

_log = logging.getLogger(__name__)

# Options of mallopt(3), from glibc's malloc.h.
_M_ARENA_MAX = -8
_M_MMAP_THRESHOLD = -3

# From this size on, memory is returned to the system once it is freed.
_MMAP_THRESHOLD_BYTES = 256 * 1024


@click.command()
@with_config
def run(config_path: Path | None) -> None:
    """Watch, upload and report until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    _limit_heap()
    _leave_no_core_dumps()
    asked = AskedQueue()
    signal.set_wakeup_fd(asked.fileno(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.put("stop"))
    # A terminal that is closed sends SIGHUP as well, and does not stop the agent.
    signal.signal(signal.SIGHUP, lambda *_: asked.put("reload"))
    try:
        loaded, newer_version = configuration_at_start(config_path)
    except ConfigError as error:
        if config_path is None:
            # Which folders this robot uses is part of the configuration that can't be used.
            state_dir = AgentSettings().state_dir
            _record_failure(error, LogSettings(), state_dir, logs.Redactor())
        raise
    settings = loaded.settings
    redactor = _start_logs(settings)
    app: App | None = None
    try:
        if newer_version:
            text = "version %s does not know and ignores %s: version %s accepted this configuration"
            names = ", ".join(loaded.unknown_keys)
            _log.warning(text, __version__, names, newer_version, extra={"event": "unknown_keys"})
        ports = open_ports(settings, os.environ, hide=redactor.hide)
        # From here on this process is the only agent with this state folder.
        with suppress(OSError):
            FailureFile(settings.agent.state_dir).remove()
        app = App(settings, ports, unknown_keys=loaded.unknown_keys)
        _note_accepted(settings, loaded)
        app.run(asked, partial(_reload, app, config_path, redactor))
    except HistoryLockedError:
        # The log and the state folder belong to the agent that runs already.
        raise
    except Exception as error:
        # A reload may have changed where the log lies.
        log = app.settings.log if app else settings.log
        _record_failure(error, log, settings.agent.state_dir, redactor)
        raise
    finally:
        logs.stop()
    # Threads may still wait for the network, and Python would wait for them. All that they did is
    # saved.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _reload(app: App, config_path: Path | None, redactor: logs.Redactor) -> None:
    """Read the configuration again, and let the agent go on with it."""
    log_before = app.settings.log
    loaded: list[Loaded] = []

    def read_again() -> Settings:
        # Unlike at a start, unknown keys are refused. The operator who has just changed the
        # configuration can correct it.
        loaded.append(load(config_path, os.environ))
        return loaded[0].settings

    if app.reload(read_again):
        _note_accepted(app.settings, loaded[0])
    if app.settings.log != log_before:
        _start_logs(app.settings, redactor)


def _note_accepted(settings: Settings, accepted: Loaded) -> None:
    """Note in the state folder that this version accepts this configuration.

    An older version then starts with the same configuration, if the robot is rolled back.
    """
    try:
        AcceptedConfigurations(settings.agent.state_dir).note(__version__, accepted.canonical)
    except OSError as error:
        text = "could not note that this configuration was accepted: %s"
        _log.warning(text, error, extra={"event": "accepted_not_noted"})


def _limit_heap() -> None:
    """Make glibc use less memory: about 8 MiB less with 100,000 files.

    glibc gives each thread a heap of its own, and other threads can't use what is freed there.
    Once a large block has been freed, glibc also keeps later blocks of that size in the heap,
    where they leave holes when they grow. musl has no such settings.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
        libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)


def _leave_no_core_dumps() -> None:
    """Let a crash leave no core dump, which would hold keys and parts of recordings.

    The hard limit stays, so an operator can ask for core dumps while the agent runs (prlimit).
    """
    # The unit forbids the calls, and has the limit already.
    with suppress(OSError, ValueError):
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))


def _record_failure(
    error: Exception, log: LogSettings, state_dir: Path, redactor: logs.Redactor
) -> None:
    """Write into the log files and the state folder that the agent ends because of ``error``.

    Standard error gets the error from the caller, who prints what ends the process. Nothing is
    written into the folder of another user, who could not go on with files of this one.
    """
    reason = str(error) or type(error).__name__
    if isinstance(error, AgentError):
        hint = f" ({error.hint})" if error.hint else ""
        reason = "; ".join(error.message.splitlines()) + hint
    if _is_own_folder(state_dir):
        # A disk that is full or broken may be the very error.
        with suppress(OSError):
            FailureFile(state_dir).note(utc_text(time.time()), redactor.redact(reason))
    if log.dir is None or not _is_own_folder(log.dir):
        return
    logs.start(log.level, log.dir, log.max_mib, log.files, console=False, redactor=redactor)
    _log.critical(
        "the agent has ended: %s",
        reason,
        extra={"event": "agent_failed"},
        exc_info=None if isinstance(error, AgentError) else error,
    )
    logs.stop()


def _is_own_folder(folder: Path) -> bool:
    """Return whether the folder exists and belongs to the user of this process."""
    with suppress(OSError):
        return folder.stat().st_uid == os.geteuid()
    return False


def _start_logs(settings: Settings, redactor: logs.Redactor | None = None) -> logs.Redactor:
    log = settings.log
    return logs.start(log.level, log.dir, log.max_mib, log.files, redactor=redactor)
