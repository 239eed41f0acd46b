"""kill -9 at random moments costs at most the parts in flight.

``make soak`` runs the long version.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.kills import KillBenchmark

SEED = 20


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kills", [3, pytest.param(12, marks=pytest.mark.slow)])
def test_a_killed_agent_loses_doubles_and_leaves_nothing(tmp_path: Path, kills: int) -> None:
    tally = KillBenchmark(tmp_path, SEED).run(kills)
    assert tally.recordings >= 4
    assert set(tally.phases) - {"nothing"}, "no kill came within an upload"
    assert tally.good(kills), str(tally)
