"""`why`: explains for single files which rule lets them go, or holds them up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from agent.adapters.clock import RealClock
from agent.cli.file_rules import FileRules, RuleResult
from agent.cli.options import (
    absolute,
    agent_status,
    local_time,
    opened_history,
    print_json,
    print_line,
    settings_of,
    with_config,
    with_json,
)
from agent.model.printable import shell_word


@click.command()
@with_config
@with_json
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def why(config_path: Path | None, as_json: bool, paths: Sequence[Path]) -> None:
    """Say for each PATH which rule lets it go or holds it up, and what to do."""
    settings = settings_of(config_path)
    with opened_history(settings) as documents:
        rules = FileRules(settings, documents, RealClock(), agent_status(settings))
        results_by_path = {str(path): rules.results(absolute(path)) for path in paths}
    if as_json:
        print_json(
            [
                {"path": path, "rules": [result.as_dict() for result in results]}
                for path, results in results_by_path.items()
            ]
        )
        return
    for path, results in results_by_path.items():
        print_line(shell_word(path))
        for result in results:
            _print_result(result)


def _print_result(result: RuleResult) -> None:
    at = f" at {local_time(result.at)}" if result.at else ""
    print_line(f"  {'ok ' if result.ok else 'NO '} {result.rule}: {result.says}{at}")
    if result.remedy:
        print_line(f"      → {result.remedy}")
