"""A robot's folders and settings, with proxies between it and the embedded cloud.

A test breaks something and then runs any command.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent.adapters.config import load
from agent.assembly.app import App
from agent.assembly.ports import open_ports
from agent.cli import cli
from agent.devcloud.cloud import DevCloud
from tests.harness.faults.gateway_proxy import GatewayProxy
from tests.harness.faults.store_proxy import FaultyStoreProxy

_QUICK = {
    "watch.settle_seconds": 0.05,
    "watch.sidecar_wait_seconds": 0.05,
    "watch.rescan_seconds": 0.5,
    "cloud.request_timeout_seconds": 5,
    "retry.base_seconds": 0.2,
    "retry.max_seconds": 1,
    "retry.jitter_seconds": 0,
    "log.dir": "",
}


class World:
    """What all robots of a test process share: the embedded cloud, and the proxies before it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._secure: DevCloud | None = None
        self.cloud = stack.enter_context(DevCloud(folder / "cloud", store="rclone"))
        self.gateway = GatewayProxy(self.cloud.gateway_port)
        stack.callback(self.gateway.stop)
        self.store = FaultyStoreProxy(self.cloud.store_port)
        stack.callback(self.store.stop)
        self.cloud.advertise_store(self.store.url)

    @property
    def secure(self) -> DevCloud:
        """A cloud with TLS. Its certificate authority is not known to the robots."""
        if self._secure is None:
            self._secure = self._stack.enter_context(
                DevCloud(self._folder / "secure", store="rclone", tls=True)
            )
        return self._secure

    def mend(self) -> None:
        """Take back everything that a test has broken."""
        self.gateway.script.mend()
        self.store.script.mend()
        self.cloud.enable_key("robot-1")


class Scene:
    """One robot. Tests change its settings, profiles and folders, and then call ``write``."""

    def __init__(self, folder: Path, world: World, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.world = world
        self.patch = patch
        self.state = folder / "state"
        self.root = folder / "recordings"
        self.config = folder / "agent.toml"
        self.profile_path = folder / "profiles.json"
        # The permissions of the profile file.
        self.mode = 0o600
        self.profiles: Any = json.loads(world.cloud.agent_files.profile_path.read_text())
        self.profiles["endpoints"] = dict.fromkeys(self.profiles["endpoints"], world.gateway.url)
        self.settings: dict[str, Any] = {
            **_QUICK,
            "agent.state_dir": str(self.state),
            "agent.device_id": "robot-1",
            "watch.roots": [str(self.root)],
            "cloud.dp_config": str(self.profile_path),
        }
        self.stack = ExitStack()
        self.state.mkdir()
        self.root.mkdir()

    def write(self) -> None:
        """Write the configuration and the profile file with the present values."""
        sections: dict[str, list[str]] = {}
        for key, value in self.settings.items():
            section, _, name = key.partition(".")
            text = json.dumps(value) if not isinstance(value, dict) else _table(value)
            sections.setdefault(section, []).append(f"{name} = {text}")
        self.config.write_text(
            "\n".join(f"[{name}]\n" + "\n".join(lines) for name, lines in sections.items()) + "\n"
        )
        if self.profiles is not None:
            self.profile_path.write_text(
                self.profiles if isinstance(self.profiles, str) else json.dumps(self.profiles)
            )
            self.profile_path.chmod(self.mode)

    def run(self, *arguments: str) -> Result:
        """Run a command in this process. Unexpected exceptions are raised here."""
        return CliRunner().invoke(
            cli, [*arguments, "--config", str(self.config)], catch_exceptions=False
        )

    @contextmanager
    def agent(self) -> Iterator[App]:
        """Run an agent during the block."""
        settings = load(self.config, {}).settings
        agent = App(settings, open_ports(settings, {}, hide=lambda *_, **__: None))
        try:
            agent.start()
            yield agent
        finally:
            agent.stop()

    def check(self) -> dict[str, Any]:
        """Return what `check --json` prints."""
        report: dict[str, Any] = json.loads(self.run("check", "--json").stdout)
        return report


def _table(value: dict[str, str]) -> str:
    return (
        "{ "
        + ", ".join(f"{json.dumps(key)} = {json.dumps(text)}" for key, text in value.items())
        + " }"
    )
