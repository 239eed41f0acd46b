"""The parts of the agent that live as long as its process: a reload does not replace them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import BUILD_DATE, __version__
from agent.adapters.clock import RealClock
from agent.adapters.config import Settings
from agent.adapters.device import device_id
from agent.adapters.history import TinyHistory
from agent.adapters.scheduler import Scheduler
from agent.assembly.feature_settings import bytes_per_second, delays
from agent.dispatch.upgrade_retry import note_version
from agent.gate.boot_jitter import BootJitter
from agent.gate.gate import Gate
from agent.model.bandwidth import Bandwidth
from agent.model.sync_log import Upgrade
from agent.model.values import utc_seconds

# The build date in seconds since 1970. A wall clock that is earlier is wrong.
BUILT_SECONDS = utc_seconds(BUILD_DATE)


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
    """The parts that every engine of this process uses.

    ``hide`` is called with each secret, so that no log shows it. ``robot`` is the robot's own id.
    ``upgrade`` is the version note of the history. ``upgraded`` says whether another version ran
    before this start.
    """

    environ: Mapping[str, str]
    hide: Callable[..., None]
    state_dir: Path
    robot: str
    clock: RealClock
    history: TinyHistory
    upgrade: Upgrade
    upgraded: bool
    gate: Gate
    boot_jitter: BootJitter
    bandwidth: Bandwidth
    scheduler: Scheduler
    configuration: ConfigurationStatus


def open_shared_parts(
    settings: Settings,
    environ: Mapping[str, str],
    *,
    hide: Callable[..., None],
    unknown_keys: Sequence[str],
) -> SharedParts:
    """Open the history and build the parts that live as long as the process.

    Raises AgentError if the robot has no usable id or the history cannot be opened.
    """
    state_dir = settings.agent.state_dir
    clock = RealClock()
    robot = device_id(settings.agent.device_id, state_dir)
    history = TinyHistory(state_dir / "history", clock)
    upgrade, upgraded = note_version(history, __version__)
    gate = Gate(clock, delays(settings))
    return SharedParts(
        environ=environ,
        hide=hide,
        state_dir=state_dir,
        robot=robot,
        clock=clock,
        history=history,
        upgrade=upgrade,
        upgraded=upgraded,
        gate=gate,
        boot_jitter=BootJitter(gate, clock, delays(settings)),
        bandwidth=Bandwidth(bytes_per_second(settings), clock.monotonic),
        scheduler=Scheduler(),
        configuration=ConfigurationStatus(unknown_keys=unknown_keys),
    )
