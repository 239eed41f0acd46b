"""The parts of the agent that live as long as its process: a reload does not replace them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import __version__
from agent.adapters.config import Settings
from agent.assembly.feature_settings import bytes_per_second, delays
from agent.assembly.ports import AgentPorts
from agent.dispatch.upgrade_retry import note_version
from agent.gate.boot_jitter import BootJitter
from agent.gate.gate import Gate
from agent.model.bandwidth import Bandwidth
from agent.model.ports import Clock, History
from agent.model.sync_log import Upgrade


@dataclass(slots=True)
class ConfigurationStatus:
    """What operators should know about the configuration in force.

    ``restart_for`` are the changed keys that need a restart. ``refused`` says why the configuration
    that was read last is not in force, or "". ``unknown_keys`` are keys that this version ignores.

    Only the main thread writes it. Any thread may read it.
    """

    unknown_keys: Sequence[str] = ()
    restart_for: Sequence[str] = ()
    refused: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as ``status --json`` shows them."""
        return {
            "restart_for": list(self.restart_for),
            "refused": self.refused,
            "unknown_keys": list(self.unknown_keys),
        }


@dataclass(frozen=True, slots=True)
class SharedParts:
    """The ports, and the parts that every engine of this process uses.

    ``upgrade`` is the version note of the history. ``upgraded`` says whether another version ran
    before this start.
    """

    ports: AgentPorts
    state_dir: Path
    upgrade: Upgrade
    upgraded: bool
    gate: Gate
    boot_jitter: BootJitter
    bandwidth: Bandwidth
    configuration: ConfigurationStatus

    @property
    def clock(self) -> Clock:
        """The robot's clocks."""
        return self.ports.clock

    @property
    def history(self) -> History:
        """The history of the recordings."""
        return self.ports.history


def build_shared_parts(
    settings: Settings, ports: AgentPorts, *, unknown_keys: Sequence[str]
) -> SharedParts:
    """Build the parts that live as long as the process, and note the version in the history."""
    upgrade, upgraded = note_version(ports.history, __version__)
    gate = Gate(ports.clock, delays(settings))
    return SharedParts(
        ports=ports,
        state_dir=settings.agent.state_dir,
        upgrade=upgrade,
        upgraded=upgraded,
        gate=gate,
        boot_jitter=BootJitter(gate, ports.clock, delays(settings)),
        bandwidth=Bandwidth(bytes_per_second(settings), ports.clock.monotonic),
        configuration=ConfigurationStatus(unknown_keys=unknown_keys),
    )
