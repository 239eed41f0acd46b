"""What benchmarks report: figures with their spread, and tables for people, pages and programs."""

from __future__ import annotations

import statistics
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

# The number of columns of a terminal.
WIDTH = 100

# The text of an empty cell: the peer is not installed, or lacks the feature.
ABSENT = "-"

_Measured = TypeVar("_Measured")


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured several times.

    A figure prints as ``1.23 (1.20-1.31)``: the median, the lowest and the highest value.
    """

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Return a figure of at least one value."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The lowest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest value."""
        return max(self.values)

    def percentile(self, percent: int) -> float:
        """Return the value that ``percent`` per cent of all values do not exceed, 1 to 99."""
        if len(self.values) == 1:
            return self.values[0]
        return statistics.quantiles(self.values, n=100, method="inclusive")[percent - 1]

    def __str__(self) -> str:
        shown = short(self.median)
        if len(self.values) == 1:
            return shown
        places = len(shown.partition(".")[2])
        return f"{shown} ({self.low:,.{places}f}-{self.high:,.{places}f})"


def short(value: float) -> str:
    """Return a number as text with three digits in all; thousands stay whole."""
    size = abs(value)
    if size >= 99.95 or size == 0:
        return f"{value:,.0f}"
    places = next(
        places for places, least in enumerate((9.995, 0.0995, 0.00995, 0), start=1) if size >= least
    )
    return f"{value:,.{places}f}"


Cell = Figure | str | float | int | None


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise, and whether it is kept.

    ``met`` is None where the peer that the goal compares with is not installed.

    ``explanation`` says which physical limit keeps the goal from being met, and how the limit was
    measured. A goal that is missed without an explanation fails the benchmark.
    """

    text: str
    measured: str
    met: bool | None
    explanation: str = ""

    @property
    def failed(self) -> bool:
        """Whether the goal is missed without an explanation."""
        return self.met is False and not self.explanation

    def __str__(self) -> str:
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        limit = f" ({self.explanation})" if self.met is False and self.explanation else ""
        return f"{self.text}: {self.measured}: {verdict}{limit}"


@dataclass(frozen=True, slots=True)
class Table:
    """One of the seven tables.

    The first column names the row. ``notes`` say what the figures are and how they were taken.
    """

    number: int
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    # The time that the measurement of this table took, in seconds.
    seconds: float = field(default=0, compare=False)

    @property
    def failed(self) -> bool:
        """Whether a goal is missed without an explanation."""
        return any(goal.failed for goal in self.goals)

    def print(self, console: Console | None = None) -> None:
        """Print the table for a terminal of 100 columns."""
        console = console or Console(width=WIDTH, highlight=False, soft_wrap=False)
        grid = Grid(
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            title=f"{self.number}. {self.title}",
            title_justify="left",
        )
        for position, column in enumerate(self.columns):
            grid.add_column(column, justify="right" if position else "left")
        for row in self.rows:
            grid.add_row(*(Text(shown(cell)) for cell in row))
        console.print(grid)
        for line in (
            *self.notes,
            *(f"- {goal}" for goal in self.goals),
            f"took {self.seconds:.0f} s",
        ):
            console.print(
                Text(textwrap.fill(line, WIDTH, initial_indent="  ", subsequent_indent="    "))
            )
        console.print()

    def markdown(self) -> str:
        """Return the table as Markdown for a page."""
        lines = [f"## {self.number}. {self.title}", ""]
        lines += [
            "| " + " | ".join(self.columns) + " |",
            "|---" + "|---:" * (len(self.columns) - 1) + "|",
        ]
        lines += ["| " + " | ".join(shown(cell) for cell in row) + " |" for row in self.rows]
        lines += ["", *(f"{note}\n" for note in self.notes), *(f"- {goal}" for goal in self.goals)]
        return "\n".join(lines).rstrip() + "\n"

    def document(self) -> dict[str, Any]:
        """Return the table as JSON for programs: every value of each figure, and the summaries."""
        return {
            "number": self.number,
            "title": self.title,
            "seconds": round(self.seconds, 1),
            "columns": list(self.columns),
            "rows": [[_document(cell) for cell in row] for row in self.rows],
            "goals": [
                {
                    "text": goal.text,
                    "measured": goal.measured,
                    "met": goal.met,
                    "explanation": goal.explanation,
                }
                for goal in self.goals
            ],
            "notes": list(self.notes),
        }


def shown(cell: Cell) -> str:
    """Return the cell as people read it."""
    if cell is None:
        return ABSENT
    return short(cell) if isinstance(cell, int | float) else str(cell)


def _document(cell: Cell) -> Any:
    if not isinstance(cell, Figure):
        return cell
    return {"median": cell.median, "low": cell.low, "high": cell.high, "values": list(cell.values)}


def take_turns(
    measures: Mapping[str, Callable[[], _Measured]],
    *,
    rounds: int = 5,
    within: float = float("inf"),
    least: int = 3,
) -> dict[str, list[_Measured]]:
    """Measure each runner ``times`` times, one after the other in every round.

    In this order, other load on the machine slows all of them alike. After ``within`` seconds no
    further round begins, once there were ``least`` rounds.
    """
    found: dict[str, list[_Measured]] = {name: [] for name in measures}
    began = time.monotonic()
    for number in range(rounds):
        if number >= least and time.monotonic() - began > within:
            break
        for name, measure in measures.items():
            found[name].append(measure())
    return found
