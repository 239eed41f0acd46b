"""What several commands share: options, reading the configuration and history, and printing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import click

from agent import __version__
from agent.adapters.accepted import AcceptedConfigurations
from agent.adapters.clock import RealClock
from agent.adapters.config import ConfigError, Loaded, Settings, load_leniently
from agent.adapters.config.kinds import newer_than
from agent.adapters.control import Control
from agent.adapters.history import TinyHistory
from agent.adapters.status_file import StatusFile
from agent.cli.opening import Opener
from agent.files.fingerprint import fingerprint
from agent.model.errors import AgentError, FileChangedError, RecordingError
from agent.model.printable import json_text, printable
from agent.model.values import utc_text

# How many rows of a JSON list are held in memory and printed at once.
_JSON_ROWS_AT_ONCE = 500

Command = TypeVar("Command", bound=Callable[..., Any])


def with_config(command: Command) -> Command:
    """Add the option ``--config`` to a command."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        help=(
            "Configuration file. "
            "[default: $KEYSTONE_AGENT_CONFIG, else /etc/keystone-agent/agent.toml]"
        ),
    )(command)


def with_json(command: Command) -> Command:
    """Add the option ``--json`` to a command."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        command
    )


class Moment(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic from click 8.5 on
    """The type of an option that takes a point in time, which becomes UTC text.

    Operators write an ISO 8601 time, an age such as ``12h``, or ``yesterday``.
    """

    name = "T"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return ``value`` as UTC text. Raises click's usage error where it is no time."""
        try:
            limit = timedelta(days=1) if value == "yesterday" else newer_than(value)
            if limit is not None:
                if isinstance(limit, timedelta):
                    limit = datetime.now(timezone.utc) - limit
                return utc_text(limit.timestamp())
        except (ValueError, OverflowError):
            pass
        message = f"{value!r} is no ISO 8601 time, no age such as 12h, and not 'yesterday'"
        raise click.BadParameter(message, ctx, param)


def configuration_at_start(config_path: Path | None) -> tuple[Loaded, str]:
    """Read the configuration for a start of the agent, and return the version that has accepted it.

    Keys that this version does not know are a fault, unless a newer version has accepted exactly
    this configuration: then the robot was rolled back, and must upload all the same. That version
    is returned, "" where every key is known. Raises ConfigError.
    """
    loaded = load_leniently(config_path, os.environ)
    if not loaded.unknown:
        return loaded, ""
    accepted = AcceptedConfigurations(loaded.settings.agent.state_dir)
    with suppress(OSError):
        if version := accepted.newer_that_accepted(loaded.canonical, than=__version__):
            return loaded, version
    raise ConfigError(loaded.unknown)


def configuration_of(config_path: Path | None) -> Loaded:
    """Read the configuration that a command other than `run` works with. Raises ConfigError.

    A command may see another environment than the service does, and so can't tell whether this is
    exactly what a newer version accepted. On a robot that was rolled back, a command leaves out
    the keys that this version does not know. A user who may not read which versions were here is
    treated in the same way as on such a robot, because the agent's own start decides.
    """
    loaded = load_leniently(config_path, os.environ)
    if loaded.unknown:
        accepted = AcceptedConfigurations(loaded.settings.agent.state_dir)
        try:
            rolled_back = bool(accepted.newer(than=__version__))
        except PermissionError:
            rolled_back = True
        except OSError:
            rolled_back = False
        if not rolled_back:
            raise ConfigError(loaded.unknown)
    return loaded


def warn_of_unknown_keys(loaded: Loaded) -> None:
    """Print on standard error the names of the keys that this version does not know."""
    if loaded.unknown_keys:
        names = printable(", ".join(loaded.unknown_keys))
        click.echo(f"warning: version {__version__} does not know and ignores: {names}", err=True)


def settings_of(config_path: Path | None) -> Settings:
    """Return the settings that a command works with. Raises ConfigError."""
    loaded = configuration_of(config_path)
    warn_of_unknown_keys(loaded)
    return loaded.settings


@contextmanager
def opened_history(settings: Settings) -> Iterator[TinyHistory]:
    """Open the history for reading. A history that was never written is empty.

    Raises AgentError where the history can't be read.
    """
    documents = TinyHistory(settings.agent.state_dir / "history", RealClock(), read_only=True)
    try:
        yield documents
    finally:
        documents.close()


def agent_status(settings: Settings) -> Mapping[str, Any] | None:
    """Return the status of the running agent, None where no agent runs.

    An agent that does not answer on its socket is known by the status file that it wrote last.
    """
    state_dir = settings.agent.state_dir
    try:
        with closing(Control(state_dir)) as control:
            return control.status()
    except AgentError:
        return StatusFile(state_dir).read()


def absolute(path: Path) -> Path:
    """Return ``path`` as an absolute path without ``..`` and ``//``. Links keep their names."""
    return Path("/" + os.path.abspath(path).lstrip("/"))  # noqa: PTH100 - links keep their names


def fingerprint_at(path: Path, opener: Opener) -> str:
    """Return the fingerprint of the regular file at ``path``, "" where none can be read."""
    try:
        with opener.file(path) as descriptor:
            return str(fingerprint(descriptor, os.fstat(descriptor).st_size))
    except (OSError, RecordingError, FileChangedError):
        return ""


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one JSON document, with escapes for what is not printable."""
    click.echo(json_text(value, indent=indent))


def print_json_rows(rows: Iterable[Any]) -> int:
    """Print rows as one JSON list, each on a line of its own, and return how many there were.

    Only some of the rows are in memory at a time.
    """
    lines = map(json_text, rows)
    printed = 0
    while batch := list(islice(lines, _JSON_ROWS_AT_ONCE)):
        click.echo(("," if printed else "[") + "\n" + ",\n".join(batch), nl=False)
        printed += len(batch)
    click.echo("\n]" if printed else "[]")
    return printed


def local_time(text: str) -> str:
    """Return a time given as UTC text in this robot's time zone."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    # File systems have times at both ends of the calendar, which no other time zone can express.
    with suppress(OverflowError):
        moment = moment.astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def print_line(text: str) -> None:
    """Print one line for people."""
    click.echo(printable(text))
