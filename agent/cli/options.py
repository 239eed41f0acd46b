"""Options that several commands take, what they read, and how they print."""

from __future__ import annotations

import json
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
from agent.model.errors import AgentError, FileChangedError
from agent.model.values import utc_text

Command = TypeVar("Command", bound=Callable[..., Any])


def with_config(command: Command) -> Command:
    """Add ``--config``."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        help="Configuration file. [default: $KEYSTONE_AGENT_CONFIG, else /etc/keystone-agent/agent.toml]",
    )(command)


def with_json(command: Command) -> Command:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        command
    )


class Moment(click.ParamType):  # type: ignore[type-arg, unused-ignore] # generic from click 8.5 on
    """A point in time as the operator writes it (ISO 8601, an age, ``yesterday``); becomes UTC text."""

    name = "T"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raises the usage error of click."""
        try:
            limit = timedelta(days=1) if value == "yesterday" else newer_than(value)
            if limit is not None:
                moment = (
                    limit if isinstance(limit, datetime) else datetime.now(timezone.utc) - limit
                )
                return utc_text(moment.timestamp())
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

    A command may see another environment than the service does, so it can't tell whether this is
    exactly what a newer version accepted. On a robot that was rolled back, it leaves out what this
    version does not know. Who may not read which versions were here is taken for such a robot's
    user: the agent's own start decides.
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
    """Name on standard error the keys that this version does not know."""
    if loaded.unknown_keys:
        names = printable(", ".join(loaded.unknown_keys))
        click.echo(f"warning: version {__version__} does not know and ignores: {names}", err=True)


def settings_of(config_path: Path | None) -> Settings:
    """The configuration that a command works with; raises ConfigError."""
    loaded = configuration_of(config_path)
    warn_of_unknown_keys(loaded)
    return loaded.settings


@contextmanager
def opened_history(settings: Settings) -> Iterator[TinyHistory]:
    """The history, read-only; one that was never written is empty. Raises AgentError."""
    documents = TinyHistory(settings.agent.state_dir / "history", RealClock(), read_only=True)
    try:
        yield documents
    finally:
        documents.close()


def word_of_agent(settings: Settings) -> Mapping[str, Any] | None:
    """What the running agent says of itself at this moment, else what it wrote down last; None when none runs."""
    state_dir = settings.agent.state_dir
    try:
        with closing(Control(state_dir)) as control:
            return control.status()
    except AgentError:
        return StatusFile(state_dir).read()


def absolute(path: Path) -> Path:
    """``path`` from the root on, without ``..``; links stay as they are named."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - pathlib has nothing that takes .. away and no link


def mark_of(path: Path, opener: Opener) -> str:
    """The fingerprint of the regular file at ``path``; "" where there is none that may be opened and read."""
    try:
        with opener.file(path) as descriptor:
            return str(fingerprint(descriptor, os.fstat(descriptor).st_size))
    except (OSError, FileChangedError):
        return ""


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """Print one document. A file name that is no UTF-8 has its bytes escaped, as JSON can carry them."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    click.echo(text.encode("utf-8", "backslashreplace").decode())


def print_json_rows(rows: Iterable[Any]) -> int:
    """Print a list as one document, a row on a line of its own, and return how many; many need no room in memory."""
    encode = json.JSONEncoder(ensure_ascii=False).encode
    lines, printed = (encode(row) for row in rows), 0
    while some := list(islice(lines, 500)):
        text = ",\n".join(some).encode("utf-8", "backslashreplace").decode()
        click.echo(("," if printed else "[") + "\n" + text, nl=False)
        printed += len(some)
    click.echo("\n]" if printed else "[]")
    return printed


def local(text: str) -> str:
    """A UTC time as people read it where they are."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    with suppress(OverflowError):  # file systems know times at the ends of the calendar
        moment = moment.astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def printable(text: str) -> str:
    """``text`` without control characters. File names and servers' words are others': they may not move the cursor."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def say(text: str) -> None:
    """Print one line for people."""
    click.echo(printable(text))
