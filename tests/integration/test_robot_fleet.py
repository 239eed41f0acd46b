"""A small fleet after a power cut; `tests.bench.robots` measures a large one."""

from __future__ import annotations

from tests.bench.robots import switched_on


def test_a_fleet_that_is_switched_on_enrols_and_uploads_spread_and_without_an_error() -> None:
    with switched_on(30, jitter=3, processes=1) as power_ons:
        for outcome in (next(power_ons), next(power_ons)):
            assert outcome.good, outcome.errors
            assert len([when for when in outcome.first if when < 1.5]) in range(1, 29)
            assert outcome.first[-1] > 1.5
