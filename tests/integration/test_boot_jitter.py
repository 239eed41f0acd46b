"""An agent that starts together with its robot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.gate import boot_jitter
from agent.gate.gate import Delays
from tests.harness.cli_scene import Scene, World
from tests.harness.eventually import eventually


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(tmp_path, World(tmp_path, stack), monkeypatch)


@pytest.mark.parametrize(
    ("device", "code"), [("robot-1", "power_on"), ("robot-new", "not_enrolled")]
)
def test_the_agent_waits_for_its_moment_says_so_and_goes_on(
    scene: Scene, device: str, code: str
) -> None:
    scene.patch.setattr(boot_jitter, "_BOOT_SECONDS", float("inf"))
    scene.patch.setattr(Delays, "spread", lambda _: 2.0)
    scene.settings["agent.device_id"] = device
    scene.profiles["devices"] = [
        profile for profile in scene.profiles["devices"] if profile["deviceId"] == device
    ]
    scene.write()
    with scene.agent() as agent:
        closed = agent.gate.closed()
        assert closed is not None
        assert closed.code == code
        assert closed.next_probe is not None
        assert code == "power_on" or closed.reason.endswith("the platform is asked in 2 s")
        eventually(lambda: agent.gate.closed() is None)
        assert device in scene.profile_path.read_text()
