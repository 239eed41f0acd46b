"""Commands that bind assets at the same time, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def written(state: Path) -> dict[str, str]:
    told: dict[str, str] = json.loads((state / "assets.json").read_text(encoding="utf-8"))
    return told


BIND = """
import sys
from pathlib import Path
from agent.adapters.assets import AssetFile
from agent.operations.asset_binding import Bindings
bindings = Bindings(AssetFile(Path(sys.argv[1]), {}), None)
for number in range(25):
    bindings.bind(f"robot-{sys.argv[2]}-{number}", f"asset-{sys.argv[2]}-{number}")
"""


def test_commands_at_once_lose_nothing(tmp_path: Path) -> None:
    binders = [
        subprocess.Popen([sys.executable, "-c", BIND, str(tmp_path), str(number)])
        for number in range(4)
    ]
    assert [binder.wait(60) for binder in binders] == [0] * 4
    assert len(written(tmp_path)) == 100
