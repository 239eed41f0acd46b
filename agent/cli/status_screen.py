"""Draws the status of a running agent for a terminal of any size."""

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

from agent.cli.status_lines import status_lines, upload_share
from agent.cli.units import rate_text, span_text
from agent.model.printable import printable, shell_word

_STYLES = {"": "", "good": "green", "bad": "red", "advice": "cyan"}
_LABEL_COLUMNS = 9
_BAR_COLUMNS = 16

# A path may be shortened to this many columns.
_MIN_PATH_COLUMNS = 12


class StatusScreen:
    """One answer of `status` as something that rich can draw.

    rich alone would cut off what does not fit the terminal. This class says how many lines are
    missing. A screen does not change once it is made, so any thread may draw it.
    """

    def __init__(self, answer: Mapping[str, Any]) -> None:
        """Lay out ``answer``, which must come from a running agent."""
        agent = answer["agent"]
        head = Table.grid(expand=True)
        head.add_column(no_wrap=True, overflow="ellipsis")
        head.add_column(justify="right", no_wrap=True)
        name = f"keystone-agent {agent['version']}  {printable(agent['device_id'])}"
        now = datetime.now()  # noqa: DTZ005 - people read the time of their own zone
        head.add_row(Text(name, "bold"), Text(f"{now:%H:%M:%S}"))
        body = Table.grid(padding=(0, 1))
        body.add_column(width=_LABEL_COLUMNS, style="bold")
        body.add_column(overflow="fold")
        for line in status_lines(answer):
            body.add_row(Text(line.label), Text(printable(line.text), _STYLES[line.tone]))
        uploads: list[RenderableType] = []
        if agent["uploads"]:
            uploads = [_upload_table(agent["uploads"]), Text()]
        self._all = Group(head, Text(), *uploads, body)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield as many lines as the terminal has, the last of them with the count of the rest."""
        height = options.height or console.height
        lines = console.render_lines(self._all, options.update(height=None), pad=False)
        if len(lines) > height:
            more = Text(f"… {len(lines) - height + 1} more lines: keystone-agent status", "dim")
            last_line = console.render_lines(more, options.update(height=None), pad=False)[0]
            lines = [*lines[: height - 1], last_line]
        for line in lines:
            yield from line
            yield Segment.line()


class _Path:
    """A path that is shortened at its beginning, because its end says more."""

    def __init__(self, path: str) -> None:
        self._text = Text(shell_word(path))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self._text
        while text.cell_len > options.max_width:
            # From the second round on, the text begins with an ellipsis, which goes as well.
            text = Text("…") + text[2 if text is not self._text else 1 :]
        yield text

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        length = self._text.cell_len
        return Measurement(min(_MIN_PATH_COLUMNS, length), length)


def _upload_table(uploads: list[Mapping[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(ratio=1, no_wrap=True)
    table.add_column(width=_BAR_COLUMNS)
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    for upload in uploads:
        left = upload["seconds_left"]
        share = upload_share(upload)
        table.add_row(
            _Path(upload["path"]),
            ProgressBar(total=1, completed=share, width=_BAR_COLUMNS, complete_style="cyan"),
            Text(f"{share:4.0%}"),
            Text(rate_text(upload["bytes_per_second"])),
            Text("" if left is None else f"{span_text(left)} left"),
        )
    return table
