"""Compares the tables of two versions of the project, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench.figures import Cell, Figure, Table

COLUMNS = ("row", "figure", "unit", "before", "now", "ratio", "spread", "verdict")

# A share of the figure before. A difference below this share is noise of the measurement.
NOISE = 0.03

# The last word of a column's name is the unit of the column, where it is one of these.
_UNITS = ("%", "MiB", "ms", "s", "s/GiB", "files/s", "wakeups/s", "seconds")

# The units of the tables whose columns don't name a unit, by the number of the table.
_UNIT_OF_TABLE = {2: "%", 3: "s"}

# The number of the table whose figures are better when they are higher: the share of a link.
_LINKS = 2

# Rows that measure the machine and other libraries, and not the agent. They are shown, because
# they say how alike the conditions were. They are never worse.
_REFERENCES = ("raw stream", "the bytes alone", "SQLite", "TinyDB", "os.walk")


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of one row, as it was measured before and as it is measured now.

    ``before`` and ``now`` hold the values of all rounds. One of them is None where that version
    has no such row or figure.
    """

    row: str
    name: str
    unit: str
    before: Figure | None
    now: Figure | None
    more_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """The median now in multiples of the median before, where both are known."""
        if self.before is None or self.now is None or not self.before.median:
            return None
        return self.now.median / self.before.median

    @property
    def spread(self) -> float | None:
        """The distance of the lowest from the highest value, of the version that varies more."""
        if self.before is None or self.now is None:
            return None
        return max(figure.high - figure.low for figure in (self.before, self.now))

    @property
    def verdict(self) -> str:
        """What the two figures say about the version now.

        A figure is "worse" or "better" where the medians differ by more than the spread and by
        more than noise. Else it is "same".
        """
        if self.before is None or self.now is None or self.spread is None:
            return "only now" if self.before is None else "only before"
        if any(name in self.row for name in _REFERENCES):
            return "reference"
        difference = self.now.median - self.before.median
        if abs(difference) <= max(self.spread, NOISE * self.before.median):
            return "same"
        return "better" if (difference > 0) == self.more_is_better else "worse"


def compare(
    before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> list[ComparedFigure]:
    """Return every figure of one table, with the values of all rounds of both versions.

    ``before`` and ``now`` have one document for each round, as ``Table.document`` makes them.
    """
    number = int(now[0]["number"])
    old, new = _figures(before), _figures(now)
    return [
        ComparedFigure(
            row,
            column,
            _unit(number, column),
            old.get((row, column)),
            new.get((row, column)),
            more_is_better=number == _LINKS or column == "files/s",
        )
        for row, column in dict.fromkeys([*new, *old])
    ]


def comparison_table(
    title: str, number: int, compared: Iterable[ComparedFigure], seconds: float = 0
) -> Table:
    """Return the comparison, which took so many seconds, as a table for people."""
    rows: list[Sequence[Cell]] = [
        [
            figure.row,
            figure.name,
            figure.unit,
            figure.before and figure.before.median,
            figure.now and figure.now.median,
            figure.ratio,
            figure.spread,
            figure.verdict,
        ]
        for figure in compared
    ]
    return Table(number, title, COLUMNS, rows, seconds=seconds)


def _figures(documents: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Figure]:
    """Return the figures of one version by the names of their rows and columns."""
    values: dict[tuple[str, str], list[float]] = {}
    for document in documents:
        for name, cells in _named_rows(document["rows"]):
            for column, cell in zip(document["columns"][1:], cells, strict=True):
                if found := _values(cell):
                    values.setdefault((name, column), []).extend(found)
    return {key: Figure.of(found) for key, found in values.items()}


def _named_rows(rows: Iterable[Sequence[Any]]) -> Iterable[tuple[str, Sequence[Any]]]:
    """Yield each row's name and cells. An indented row is named after its heading, too."""
    heading = ""
    for name, *cells in rows:
        if name.startswith(" "):
            yield f"{heading} {name.strip()}", cells
        else:
            heading = name
            yield name, cells


def _values(cell: Any) -> list[float]:
    """Return the measured values of a cell; none where the cell is empty or holds text."""
    if isinstance(cell, dict):
        return list(cell["values"])
    return [cell] if isinstance(cell, int | float) else []


def _unit(number: int, column: str) -> str:
    if number in _UNIT_OF_TABLE:
        return _UNIT_OF_TABLE[number]
    last = column.rpartition(" ")[2]
    return last if last in _UNITS else ""
