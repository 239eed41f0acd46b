"""Generate the table of settings in ``config/README.md`` from ``config/agent.toml``.

Each setting is described once, in the comment above it in ``config/agent.toml``. This module copies
key, default and comment into the table between the two marker lines of the page. A test compares
the page with what this module generates. To write the table again::

    python -m tests.harness.settings_table
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.harness.paths import REPOSITORY

SETTINGS = REPOSITORY / "config" / "agent.toml"
PAGE = REPOSITORY / "config" / "README.md"
BEGIN = (
    "<!-- settings: generated from config/agent.toml "
    "by `python -m tests.harness.settings_table` -->"
)
END = "<!-- end of the settings -->"


def settings(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield the dotted key, the default as TOML and the comment of each setting in a TOML text.

    Raises ValueError for a setting that has no comment above it.
    """
    section = ""
    comment: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
            continue
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            key, _, default = line.partition(" = ")
            if not comment:
                raise ValueError(f"{section}.{key} has no comment above it")
            yield f"{section}.{key}", default, " ".join(comment)
        comment = []


def table(text: str) -> str:
    """Return the settings of a TOML text as a Markdown table."""
    rows = [f"| `{key}` | `{default}` | {said} |" for key, default, said in settings(text)]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *rows])


def with_table(page: str, text: str) -> str:
    """Return a page with the table between its markers generated from a TOML text.

    Raises ValueError when a marker is missing.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has not both markers: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table(text)}\n{END}{after}"


def write(page: Path = PAGE, toml: Path = SETTINGS) -> None:
    """Generate the table anew in the page's file."""
    page.write_text(with_table(page.read_text("utf-8"), toml.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    write()
