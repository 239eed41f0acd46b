"""One picture of the agent for a terminal, whatever its size: nothing wraps by chance, what does not fit is counted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from agent.cli.options import printable
from agent.cli.status_lines import facts, share_of
from agent.cli.units import rate_text, span_text

_STYLES = {"": "", "good": "green", "bad": "red", "advice": "cyan"}
_BAR = 16  # columns


class StatusScreen:
    """A renderable of rich for one answer of `status`."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        """``answer`` is of an agent that runs."""
        agent = answer["agent"]
        head = Table.grid(expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis")
        head.add_column(justify="right", no_wrap=True)
        name = f"keystone-agent {agent['version']}  {printable(agent['device_id'])}"
        head.add_row(Text(name, "bold"), Text(f"{datetime.now():%H:%M:%S}"))  # noqa: DTZ005 - where they are
        body = Table.grid(padding=(0, 1))
        body.add_column(width=9, style="bold")
        body.add_column(overflow="fold")
        for fact in facts(answer):
            body.add_row(Text(fact.label), Text(printable(fact.text), _STYLES[fact.tone]))
        uploads: list[RenderableType] = (
            [_uploads(agent["uploads"]), Text()] if agent["uploads"] else []
        )
        self._all = Group(head, Text(), *uploads, body)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As many lines as there is room for."""
        height = options.height or console.height
        lines = console.render_lines(self._all, options.update(height=None), pad=False)
        if len(lines) > height:
            more = Text(f"… {len(lines) - height + 1} more lines: keystone-agent status", "dim")
            lines = [
                *lines[: height - 1],
                console.render_lines(more, options.update(height=None), pad=False)[0],
            ]
        for line in lines:
            yield from line
            yield Segment.line()


class _Path:
    """A path of which the end can be read, however narrow its column is."""

    def __init__(self, path: str) -> None:
        self._text = Text(printable(path))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self._text
        while text.cell_len > options.max_width:
            text = Text("…") + text[2 if text is not self._text else 1 :]
        yield text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(12, self._text.cell_len), self._text.cell_len)


def _uploads(uploads: list[Mapping[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1, no_wrap=True)
    table.add_column(width=_BAR)
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    for upload in uploads:
        left = upload["seconds_left"]
        share = share_of(upload)
        table.add_row(
            _Path(upload["path"]),
            ProgressBar(total=1, completed=share, width=_BAR, complete_style="cyan"),
            Text(f"{share:4.0%}"),
            Text(rate_text(upload["bytes_per_second"])),
            Text("" if left is None else f"{span_text(left)} left"),
        )
    return table
