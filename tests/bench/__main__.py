"""Run the seven benchmarks and print their tables (`make bench`).

Usage: ``python -m tests.bench [--full] [--only 1,6] [--json FILE] [--markdown FILE]``.

The exit code is 1 where a goal is missed and no explanation says why.

``python -m tests.bench --against REV [--only 1,6] [--rounds 3] [--full]`` compares the figures with
those that the commit REV measures on this machine, in turns. The exit code is then 1 where a figure
is worse beyond its spread.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from tests.bench.against import run_against
from tests.bench.figures import Table
from tests.bench.machine import machine

# Each of these modules has a function ``table(*, full: bool) -> Table``.
TABLES = {
    1: "tests.bench.cost",
    2: "tests.bench.links",
    3: "tests.bench.delay",
    4: "tests.bench.idle",
    5: "tests.bench.history",
    6: "tests.bench.resent",
    7: "tests.bench.scan",
}

# The number of rounds that a comparison needs at least: one value has no spread.
_LEAST_ROUNDS = 2
BELOW = "<!-- What `make bench-full` measured; everything below this line is written by it. -->"


def run(number: int, *, full: bool) -> Table:
    """Return the table of one benchmark, with the time that the benchmark took."""
    began = time.monotonic()
    table = cast("Table", importlib.import_module(TABLES[number]).table(full=full))
    return dataclasses.replace(table, seconds=time.monotonic() - began)


def write_page(page: Path, where: Mapping[str, str], tables: Sequence[Table]) -> None:
    """Write the tables into a page, below the text that people have written there."""
    before, line, _ = (page.read_text(encoding="utf-8") if page.exists() else "").partition(BELOW)
    lines = [f"- {name}: {said}" for name, said in where.items()]
    text = "\n".join(["", *lines, "", *(table.markdown() for table in tables)])
    page.write_text((before + line + "\n" if line else before) + text, encoding="utf-8")


def main() -> int:
    """Measure the tables that the options name, or compare them with those of a commit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--full", action="store_true", help="large files, many rounds: for an hour or more"
    )
    parser.add_argument(
        "--only", default=",".join(map(str, TABLES)), help="numbers of tables, as 1,6"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument(
        "--against", metavar="REV", help="compare with this commit, in turns; writes no file"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of each version with --against, at least 2"
    )
    options = parser.parse_args()
    numbers = [int(number) for number in options.only.split(",")]
    if not options.against:
        return measure(numbers, options)
    if options.json or options.markdown:
        parser.error("--against writes no file")
    if options.rounds < _LEAST_ROUNDS:
        parser.error(f"--rounds: without {_LEAST_ROUNDS} rounds there is no spread")
    return run_against(options.against, numbers, rounds=options.rounds, full=options.full)


def measure(numbers: Sequence[int], options: argparse.Namespace) -> int:
    """Print each table when it is measured, and write the files that the options name."""
    where = {"run": "full" if options.full else "short", **machine()}
    print("\n".join(f"{name:10} {said}" for name, said in where.items()), end="\n\n", flush=True)
    tables = []
    for number in numbers:
        tables.append(run(number, full=options.full))
        tables[-1].print()
        sys.stdout.flush()
        # The file is written after each table, because the next benchmark may fail.
        if options.json:
            document = {
                "machine": where,
                "full": options.full,
                "tables": [table.document() for table in tables],
            }
            options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        if options.markdown:
            write_page(options.markdown, where, tables)
    failed = [table.number for table in tables if table.failed]
    if failed:
        print(f"a goal is missed in table {', '.join(map(str, failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
