"""`check`: prints one line for each precondition of an upload, with what to do where it fails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import click

from agent.adapters.clock import RealClock
from agent.adapters.config import ConfigError, ConfigFault, Loaded, load_leniently
from agent.adapters.logs import Redactor
from agent.cli.options import (
    configuration_at_start,
    local_time,
    print_json,
    print_line,
    with_config,
    with_json,
)
from agent.preconditions import Finding, become_owner, current_user, preconditions


@click.command()
@with_config
@with_json
def check(config_path: Path | None, as_json: bool) -> None:
    """Check every precondition of an upload, as the user that the state folder belongs to."""
    findings = []
    try:
        for finding in _findings(config_path):
            findings.append(finding)
            if not as_json:
                _print_finding(finding)
    except ConfigError as error:
        if not as_json:
            raise
        faults = [Finding("configuration", False, str(each), error.hint) for each in error.faults]
        print_json({"ok": False, "preconditions": [asdict(fault) for fault in faults]})
        sys.exit(2)
    ok = all(finding.ok for finding in findings)
    if as_json:
        print_json({"ok": ok, "preconditions": [asdict(finding) for finding in findings]})
    sys.exit(0 if ok else 1)


def _findings(config_path: Path | None) -> Iterator[Finding]:
    """Yield the finding on the configuration, then those on all other preconditions.

    Raises ConfigError where the configuration can't be used.
    """
    # The configuration names the state folder, and the folder's owner is the agent's user. The
    # configuration is read again as this user, who may not have the right to read it.
    become_owner(load_leniently(config_path, os.environ).settings.agent.state_dir, os.environ)
    try:
        loaded, newer_version = configuration_at_start(config_path)
    except OSError as error:
        fault = ConfigFault(
            "", "", f"can't be read by {current_user()}: {error.strerror}", str(error.filename)
        )
        raise ConfigError([fault]) from None
    redactor = Redactor()
    yield _configuration_finding(loaded, newer_version)
    for finding in preconditions(loaded.settings, os.environ, RealClock(), redactor.hide):
        says, remedy = redactor.redact(finding.says), redactor.redact(finding.remedy)
        yield replace(finding, says=says, remedy=remedy)


def _configuration_finding(loaded: Loaded, newer_version: str) -> Finding:
    """Return the finding on a configuration that can be used.

    ``newer_version`` is the version that accepted keys which this version does not know.
    """
    origins = sorted({*loaded.origin.values()} - {"default"})
    sources = ", ".join(origins) or "nothing but defaults"
    if not loaded.unknown:
        return Finding("configuration", True, f"valid: {sources}")
    return Finding(
        "configuration",
        True,
        f"version {newer_version} accepted it, this version does not know and ignores "
        f"{', '.join(loaded.unknown_keys)}: {sources}",
        f"install version {newer_version} again, "
        "or remove these keys before you change anything else",
    )


def _print_finding(finding: Finding) -> None:
    says = finding.says.replace(finding.at, local_time(finding.at)) if finding.at else finding.says
    print_line(f"{'ok ' if finding.ok else 'NO '} {finding.name}: {says}")
    if finding.remedy:
        print_line(f"    → {finding.remedy}")
