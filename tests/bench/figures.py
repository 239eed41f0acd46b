"""What a benchmark says: figures with their spread, and tables that print themselves for people, pages and programs."""

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

WIDTH = 100  # columns of a terminal
ABSENT = "-"  # a cell with nothing to say: the peer is not installed, or it doesn't do that

_Measured = TypeVar("_Measured")


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing measured several times; prints as ``1.23 (1.20-1.31)``: the median, the lowest and the highest."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """A figure of at least one value."""
        return cls(tuple(values))

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The lowest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The highest."""
        return max(self.values)

    def percentile(self, percent: int) -> float:
        """The value that so many per cent of all do not exceed, 1 to 99."""
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
    """A number with as many places as matter: three digits in all, thousands whole."""
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
    """Something promised. ``met`` is None where it can't be told, because what it compares with is not installed.

    ``explanation`` says which physical limit keeps it from being met, and how that was measured: a goal that is missed
    without one fails the benchmark.
    """

    text: str
    measured: str
    met: bool | None
    explanation: str = ""

    @property
    def failed(self) -> bool:
        """Whether it is missed and nobody can say why."""
        return self.met is False and not self.explanation

    def __str__(self) -> str:
        verdict = {True: "met", False: "NOT MET", None: "not measured"}[self.met]
        limit = f" ({self.explanation})" if self.met is False and self.explanation else ""
        return f"{self.text}: {self.measured}: {verdict}{limit}"


@dataclass(frozen=True, slots=True)
class Table:
    """One of the seven. The first column names the row; ``notes`` say what the figures are and how they were taken."""

    number: int
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    seconds: float = field(default=0, compare=False)  # that it took

    @property
    def failed(self) -> bool:
        """Whether a goal is missed without an explanation."""
        return any(goal.failed for goal in self.goals)

    def print(self, console: Console | None = None) -> None:
        """For a terminal of 100 columns."""
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
        """For a page."""
        lines = [f"## {self.number}. {self.title}", ""]
        lines += [
            "| " + " | ".join(self.columns) + " |",
            "|---" + "|---:" * (len(self.columns) - 1) + "|",
        ]
        lines += ["| " + " | ".join(shown(cell) for cell in row) + " |" for row in self.rows]
        lines += ["", *(f"{note}\n" for note in self.notes), *(f"- {goal}" for goal in self.goals)]
        return "\n".join(lines).rstrip() + "\n"

    def document(self) -> dict[str, Any]:
        """For programs, as JSON: every value of each figure, and what the table makes of them."""
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
    """As people see it."""
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
    """Measure each so many times, one after the other in every round: so whatever else the machine does hits all alike.

    After ``within`` seconds no further round begins, once there were ``least``.
    """
    found: dict[str, list[_Measured]] = {name: [] for name in measures}
    began = time.monotonic()
    for number in range(rounds):
        if number >= least and time.monotonic() - began > within:
            break
        for name, measure in measures.items():
            found[name].append(measure())
    return found
