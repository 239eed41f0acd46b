"""The ports on which the agent is built: clocks, history, cloud, and what runs jobs and uploads.

The running agent and the tests join the same features. They differ only in these ports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent import BUILD_DATE
from agent.adapters.clock import RealClock
from agent.adapters.config import Settings
from agent.adapters.device import device_id
from agent.adapters.history import TinyHistory
from agent.adapters.scheduler import Scheduler
from agent.adapters.status_file import runtime_directory
from agent.adapters.systemd import SystemdNotifier
from agent.assembly.cloud_adapters import CloudAdapters
from agent.model.ports import (
    Clock,
    DeviceInit,
    Gateway,
    History,
    JobScheduler,
    ObjectStore,
    ProfileKeeper,
    StorageKeys,
)
from agent.model.threads import Threads
from agent.model.values import utc_seconds
from agent.retention.retention import Free, free_space
from agent.upload.concurrency import MAX_PARTS_IN_FLIGHT


class PlatformGateway(Gateway, DeviceInit, Protocol):
    """The gateway of a platform, at which devices can also enrol."""


class RelocatableProfiles(ProfileKeeper, Protocol):
    """The device profiles in a file that may appear at another path."""

    def find(self) -> None:
        """Determine anew where the file is."""
        ...


class CloudPorts(Protocol):
    """Opens the parts that speak with the cloud, by one configuration. No request is sent.

    A reload opens new ones. Each method raises OSError if the file of ``cloud.tls_ca_file`` cannot
    be read.
    """

    def store(self, settings: Settings) -> ObjectStore:
        """Return the store."""
        ...

    def gateway(self, settings: Settings) -> PlatformGateway:
        """Return the gateway of the platform."""
        ...

    def profiles(self, settings: Settings) -> RelocatableProfiles:
        """Return the device profiles of the platform."""
        ...

    def keys(self, settings: Settings) -> StorageKeys:
        """Return the source of the keys to the bucket of bucket mode."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPorts:
    """Everything that the agent is built on besides its settings.

    ``robot`` is the robot's own id. ``executor`` runs one call for each recording that is uploaded.
    ``free_space`` measures a file system. ``hide`` is called with each secret, so that no log shows
    it. ``runtime_dir`` is the folder in memory that the service manager gave to the agent, or None.
    ``built`` is the date of the build in seconds since 1970. A wall clock that is earlier is
    wrong.
    """

    robot: str
    clock: Clock
    history: History
    cloud: CloudPorts
    executor: Executor
    scheduler: JobScheduler
    notifier: SystemdNotifier
    hide: Callable[..., None]
    free_space: Free = free_space
    runtime_dir: Path | None = None
    built: float = utc_seconds(BUILD_DATE)


def open_ports(
    settings: Settings, environ: Mapping[str, str], *, hide: Callable[..., None]
) -> AgentPorts:
    """Open the real ports.

    ``hide`` is called with each secret, so that no log shows it. Raises AgentError if the robot has
    no usable id or the history cannot be opened.
    """
    clock = RealClock()
    state_dir = settings.agent.state_dir
    robot = device_id(settings.agent.device_id, state_dir)
    return AgentPorts(
        robot=robot,
        clock=clock,
        history=TinyHistory(state_dir / "history", clock),
        cloud=CloudAdapters(environ, clock, hide, connections=MAX_PARTS_IN_FLIGHT),
        executor=Threads("upload"),
        scheduler=Scheduler(),
        notifier=SystemdNotifier(environ),
        hide=hide,
        runtime_dir=runtime_directory(environ),
    )
