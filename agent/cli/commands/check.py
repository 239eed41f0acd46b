"""`check`: every precondition a line, ok or what to do."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from agent.adapters.clock import RealClock
from agent.adapters.config import ConfigError, ConfigFault, Loaded, load_leniently
from agent.adapters.logs import Redactor
from agent.cli.options import configuration_at_start, local, print_json, say, with_config, with_json
from agent.preconditions import Finding, become_owner, me, preconditions

_UTC = re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.]+Z")


@click.command()
@with_config
@with_json
def check(config_path: Path | None, as_json: bool) -> None:
    """Check every precondition of an upload, as the user that the state folder belongs to."""
    all_found = []
    try:
        for found in _findings(config_path):
            all_found.append(found)
            if not as_json:
                _show(found)
    except ConfigError as error:
        if not as_json:
            raise
        hint = error.hint
        faults = [
            asdict(Finding("configuration", False, str(fault), hint)) for fault in error.faults
        ]
        print_json({"ok": False, "preconditions": faults})
        sys.exit(2)
    ok = all(found.ok for found in all_found)
    if as_json:
        print_json({"ok": ok, "preconditions": [asdict(found) for found in all_found]})
    sys.exit(0 if ok else 1)


def _findings(config_path: Path | None) -> Iterator[Finding]:
    """The configuration is read again as the agent's user: another may not be allowed to read it."""
    become_owner(load_leniently(config_path, os.environ).settings.agent.state_dir, os.environ)
    try:
        loaded, newer = configuration_at_start(config_path)
    except OSError as error:
        fault = ConfigFault(
            "", "", f"can't be read by {me()}: {error.strerror}", str(error.filename)
        )
        raise ConfigError([fault]) from None
    redactor = Redactor()
    origins = sorted({*loaded.origin.values()} - {"default"})
    yield Finding(
        "configuration", True, *_judged(loaded, newer, ", ".join(origins) or "nothing but defaults")
    )
    for found in preconditions(loaded.settings, os.environ, RealClock(), redactor.hide):
        yield Finding(
            found.name, found.ok, redactor.redact(found.says), redactor.redact(found.remedy)
        )


def _judged(loaded: Loaded, newer: str, origins: str) -> tuple[str, str]:
    """Return what is so with a configuration that can be used, and what to do about it."""
    if not loaded.unknown:
        return f"valid: {origins}", ""
    names = ", ".join(loaded.unknown_keys)
    says = f"version {newer} accepted it, this version does not know and ignores {names}: {origins}"
    return (
        says,
        f"install version {newer} again, or remove these keys before you change anything else",
    )


def _show(found: Finding) -> None:
    told = f"{'ok ' if found.ok else 'NO '} {found.name}: {found.says}"
    say(_UTC.sub(lambda moment: local(moment[0]), told))
    if found.remedy:
        say(f"    → {found.remedy}")
