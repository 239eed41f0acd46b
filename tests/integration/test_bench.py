"""Tests of the benchmarks' own tools: what they print, and that they measure what they claim."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench import stage
from tests.bench.__main__ import BELOW, write_page
from tests.bench.figures import WIDTH, Cell, Figure, Goal, Table, take_turns
from tests.bench.peers import HERE
from tests.harness.slow_link import Wire, slow_link

ROW: list[Cell] = ["agent", Figure.of([1.2, 1.31, 1.23]), None]


def test_a_figure_prints_its_median_with_the_lowest_and_the_highest() -> None:
    assert str(Figure.of([1.2, 1.31, 1.23])) == "1.23 (1.20-1.31)"


def test_a_figure_has_as_many_places_as_matter() -> None:
    assert [str(Figure.of([value])) for value in (0.0012, 0.64, 12.34, 1234.5)] == [
        "0.0012",
        "0.64",
        "12.3",
        "1,234",
    ]


def test_a_goal_that_is_missed_fails_unless_something_explains_it() -> None:
    cases = ((True, ""), (False, ""), (False, "TLS"), (None, ""))
    assert [Goal("g", "2 x", met, why).failed for met, why in cases] == [False, True, False, False]


def test_a_table_fits_a_terminal_of_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(
        1,
        "Cost",
        ("what", *"abcd"),
        [[*ROW, *ROW[1:]]],
        [Goal("long " * 30, "1", met=True)],
        ["note " * 40],
    )
    table.print(Console(width=WIDTH))
    lines = capsys.readouterr().out.splitlines()
    assert any("1.23 (1.20-1.31)" in line for line in lines)
    assert max(map(len, lines)) <= WIDTH


def test_a_page_keeps_what_people_wrote_and_forgets_the_last_figures(tmp_path: Path) -> None:
    page = tmp_path / "BENCHMARKS.md"
    page.write_text(f"# Benchmarks\n\n{BELOW}\nold\n")
    write_page(page, {"CPU": "fast"}, [Table(1, "Cost", ("what", "a", "b"), [ROW])])
    text = page.read_text()
    assert text.startswith(f"# Benchmarks\n\n{BELOW}\n\n- CPU: fast\n")
    assert "| agent | 1.23 (1.20-1.31) | - |" in text
    assert "old" not in text


def test_the_page_of_this_repository_has_a_place_for_figures() -> None:
    assert BELOW in (HERE.parent.parent / "BENCHMARKS.md").read_text(encoding="utf-8")


def test_those_who_are_measured_take_turns() -> None:
    order: list[str] = []
    take_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2)
    assert order == ["a", "b", "a", "b"]


def test_the_cost_of_a_tool_is_its_own_and_not_that_of_who_started_it() -> None:
    # These bytes belong to the process of this test.
    held = bytes(200 << 20)
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    result = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            str(HERE / "launch.py"),
            sys.executable,
            "-I",
            "-S",
            "-c",
            busy,
        ],
        check=True,
        capture_output=True,
    ).stdout
    cost = json.loads(result)
    assert held
    assert cost["code"] == 0
    assert 0.3 <= cost["cpu"] < 1
    assert 3 < cost["peak"] < 100


@pytest.mark.parametrize("tls", [False, True])
def test_the_agent_is_measured_against_a_store_that_keeps_nothing(
    tmp_path: Path, tls: bool
) -> None:
    recordings = stage.make_recordings(tmp_path / "made", 2, 9)
    with (
        stage.sink(tmp_path / "sink", tls=tls) as bucket,
        stage.resident(bucket.server, tmp_path / "agent") as agent,
    ):
        # In the second round the recordings are others.
        for _ in range(2):
            cost = stage.upload(agent, recordings)
            bucket.empty(stage.size_of(recordings))
            assert cost.cpu > 0
            assert cost.wall > 0
            assert 20 < cost.peak < 120
            assert len(list(recordings.iterdir())) == 2
    with (
        pytest.raises(AssertionError, match="0 bytes were uploaded"),
        stage.sink(tmp_path / "other", tls=tls) as other,
    ):
        other.empty(stage.size_of(recordings))


def test_a_link_resets_a_connection_after_so_many_bytes_and_counts_what_has_passed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        target = f"127.0.0.1:{server.getsockname()[1]}"
        with slow_link(target, lambda _: Wire(reset_after=1000)) as link, socket.socket() as near:
            near.connect(("127.0.0.1", int(link.address.partition(":")[2])))
            near.sendall(bytes(1500))
            with pytest.raises(ConnectionResetError):
                near.recv(1)
            far, _ = server.accept()
            with far:
                assert len(b"".join(iter(lambda: far.recv(4096), b""))) == 1000
            assert link.passed == 1000
