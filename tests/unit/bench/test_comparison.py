"""Tests of the comparison of two versions' benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.bench.comparison import ComparedFigure, compare, comparison_table
from tests.bench.figures import Cell, Figure, Table

COLUMNS = ("what", "CPU s/GiB", "files/s")


def documents(*rounds: Sequence[Sequence[Cell]]) -> list[dict[str, Any]]:
    """Return the documents of a table that had these rows in each round."""
    return [Table(7, "Title", COLUMNS, rows).document() for rows in rounds]


def verdict_on(before: Sequence[float], now: Sequence[float], name: str = "agent") -> str:
    """Return the verdict on one figure that has these values in the rounds of each version."""
    old, new = (documents(*([[name, value, None]] for value in values)) for values in (before, now))
    (figure,) = compare(old, new)
    return figure.verdict


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        ([1.0, 1.1, 1.2], [1.5, 1.6, 1.7], "worse"),
        ([1.5, 1.6, 1.7], [1.0, 1.1, 1.2], "better"),
        # The medians differ by 0.2, and the values of one version by 0.3.
        ([1.0, 1.1, 1.3], [1.3, 1.3, 1.3], "same"),
        ([1.3, 1.3, 1.3], [1.0, 1.1, 1.3], "same"),
        # Without any spread, a difference of 2 % is noise.
        ([1.00, 1.00], [1.02, 1.02], "same"),
        ([1.00, 1.00], [1.04, 1.04], "worse"),
        # A ratio to nothing can't be computed, but a figure can get worse than nothing.
        ([0.0, 0.0], [0.5, 0.5], "worse"),
    ],
)
def test_a_figure_is_worse_or_better_only_beyond_its_spread(
    before: Sequence[float], now: Sequence[float], verdict: str
) -> None:
    assert verdict_on(before, now) == verdict


def test_more_files_in_a_second_are_better() -> None:
    few, many = documents([["agent", None, 100]]), documents([["agent", None, 200]])
    assert [figure.verdict for figure in compare(few, many)] == ["better"]
    assert [figure.verdict for figure in compare(many, few)] == ["worse"]


def test_a_larger_share_of_a_link_is_better() -> None:
    old, new = (
        [Table(2, "Links", ("tool", "5 ms"), [["agent", share]]).document()] for share in (50, 90)
    )
    (figure,) = compare(old, new)
    assert (figure.unit, figure.verdict) == ("%", "better")


def test_rows_that_measure_other_libraries_are_never_worse() -> None:
    assert verdict_on([1, 1], [9, 9], name="SQLite 100") == "reference"


def test_a_row_or_figure_that_one_version_lacks_is_shown_without_a_ratio() -> None:
    compared = compare(
        documents([["kept", 1.0, None], ["gone", 2.0, None]]),
        documents([["kept", 1.0, 5.0], ["added", 3.0, None]]),
    )
    assert [(figure.row, figure.name, figure.verdict, figure.ratio) for figure in compared] == [
        ("kept", "CPU s/GiB", "same", 1.0),
        ("kept", "files/s", "only now", None),
        ("added", "CPU s/GiB", "only now", None),
        ("gone", "CPU s/GiB", "only before", None),
    ]


def test_an_indented_row_is_named_after_its_heading() -> None:
    rows: list[list[Cell]] = [
        ["http:", "", ""],
        ["  agent", 1.0, None],
        ["https:", "", ""],
        ["  agent", 2.0, None],
        ["  mc: not installed", None, None],
    ]
    compared = compare(documents(rows), documents(rows))
    assert [(figure.row, figure.verdict) for figure in compared] == [
        ("http: agent", "same"),
        ("https: agent", "same"),
    ]


def test_the_values_of_all_rounds_and_of_all_runs_in_a_round_are_one_figure() -> None:
    (figure,) = compare(
        documents([["agent", Figure((1.0, 2.0)), None]], [["agent", Figure((3.0, 4.0)), None]]),
        documents([["agent", Figure((5.0,)), None]]),
    )
    assert figure == ComparedFigure(
        "agent", "CPU s/GiB", "s/GiB", Figure((1.0, 2.0, 3.0, 4.0)), Figure((5.0,))
    )
    assert (figure.ratio, figure.spread, figure.verdict) == (2.0, 3.0, "same")


def test_the_comparison_prints_medians_ratio_spread_and_verdict() -> None:
    compared = compare(
        documents([["agent", 1.0, None], ["gone", 2.0, None]]), documents([["agent", 1.5, None]])
    )
    assert "\n".join(comparison_table("Cost", 7, compared).markdown().splitlines()[4:]) == (
        "| agent | CPU s/GiB | s/GiB | 1.00 | 1.50 | 1.50 | 0 | worse |\n"
        "| gone | CPU s/GiB | s/GiB | 2.00 | - | - | - | only before |"
    )
